import pytest
import torch

from training.head import DinoHead
from training.teacher import Network, ema_update, make_teacher
from training.vit import build_backbone, encode


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


def test_views_of_two_sizes_come_out_in_their_own_shape(student):
    student.eval()
    masked, local = torch.randn(3, 2, 4, 3, 32, 32), torch.randn(5, 2, 4, 3, 16, 16)
    masked_logits, local_logits = student(masked, local)
    assert masked_logits.shape == (3, 2, 4, 16)
    expected = student.head(encode(student.backbone, local[1, 0])).detach()
    torch.testing.assert_close(local_logits[1, 0].detach(), expected)
    assert student(masked, None)[1] is None
    torch.testing.assert_close(student(None, local)[1], local_logits)


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
