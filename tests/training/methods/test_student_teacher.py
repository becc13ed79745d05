import pytest
import torch

from training.methods.base import Network
from training.methods.student_teacher import ema_update, make_teacher
from training.models.projection_heads import DinoHead
from training.models.vit import build_backbone, encode


@pytest.fixture
def student():
    torch.manual_seed(0)
    backbone = build_backbone(
        "vit_tiny_patch16_224",
        img_size=32,
        depth=2,
        embed_dim=48,
        num_heads=3,
        drop_path_rate=0.5,
    )
    return Network(backbone, DinoHead(48, 16, hidden_dim=32, bottleneck_dim=8))


def test_teacher_has_no_gradient_and_no_stochastic_depth(student):
    teacher = make_teacher(student)
    assert teacher.training
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(encode(teacher.backbone, images), encode(teacher.backbone, images))
    assert not torch.equal(encode(student.backbone, images), encode(student.backbone, images))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_teacher_moves_by_one_minus_the_momentum(student):
    teacher = make_teacher(student)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.fill_(1.0)
        for parameter in student.parameters():
            parameter.fill_(5.0)
    ema_update(teacher, student, 0.75)
    assert all((parameter == 2.0).all() for parameter in teacher.parameters())
    assert all((parameter == 5.0).all() for parameter in student.parameters())
