import pytest
import torch

from training.methods.student_teacher import Network, ema_update, make_teacher
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


def test_views_of_two_sizes_come_out_in_their_own_shape(student):
    student.eval()
    views = torch.randn(3, 2, 4, 3, 32, 32), torch.randn(5, 2, 4, 3, 16, 16)
    targets = torch.randn(2, 2, 4, 16).softmax(-1)
    masked, local = student(views, targets.unbind(), 0.1)
    assert masked.shape == (3, 4)
    logits = student.head(encode(student.backbone, views[1][1].flatten(0, 1)))
    expected = -(targets[1].flatten(0, 1) * (logits / 0.1).log_softmax(-1)).sum(-1)
    torch.testing.assert_close(local[1], expected.reshape(2, 4).mean(0))
    (alone,) = student(views[:1], targets[:1], 0.1)
    torch.testing.assert_close(alone, masked)


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
