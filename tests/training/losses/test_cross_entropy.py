import math

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.parametrizations import weight_norm

from training.losses import cross_entropy as prototypes
from training.losses.cross_entropy import distillation_losses
from training.losses.dino import entropy
from training.models.projection_heads import prototype_logits


def of_logits(logits, targets):
    """The loss of given logits: of features that each prototype takes one number of."""
    count = logits.shape[-1]
    return distillation_losses(
        [logits], torch.eye(count), torch.ones(count, 1), [targets], student_temp=0.1
    )[0]


def test_loss_of_a_uniform_student_is_log_k():
    targets = torch.eye(4)[:3].reshape(1, 3, 4).expand(2, 3, 4)
    loss = of_logits(torch.zeros(5, 2, 3, 4), targets)
    torch.testing.assert_close(loss, torch.full((5, 3), math.log(4)))


def test_loss_of_a_student_that_agrees_is_the_teachers_entropy():
    logits = torch.randn(1, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    targets = (logits[0] / 0.1).softmax(-1)
    loss = of_logits(logits, targets)
    torch.testing.assert_close(loss[0], entropy(targets).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [5, 8, 4096])  # 24 prototypes in 5, 3 and 1 chunks
def test_loss_and_gradients_are_those_of_torchs_weight_norm_and_log_softmax(monkeypatch, chunk):
    monkeypatch.setattr(prototypes, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 2, 4, 6, generator=generator, requires_grad=True)
    targets = torch.randn(2, 4, 24, generator=generator).softmax(-1)
    layer = weight_norm(torch.nn.Linear(6, 24, bias=False), dim=0)
    lengths, directions = layer.parametrizations.weight.parameters()
    with torch.no_grad():
        lengths.copy_(torch.rand(24, 1, generator=generator) + 0.5)
        directions.copy_(torch.randn(24, 6, generator=generator) * 3)
    weights = torch.rand(3, 4, generator=generator)
    plain = -(targets * F.log_softmax(layer(features) / 0.1, dim=-1)).sum(-1).mean(1)
    (ours,) = distillation_losses([features], directions, lengths, [targets], student_temp=0.1)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(prototype_logits(features, directions, lengths), layer(features))
    inputs = (features, directions, lengths)
    expected = torch.autograd.grad((plain * weights).sum(), inputs)
    for gradient, theirs in zip(
        torch.autograd.grad((ours * weights).sum(), inputs), expected, strict=True
    ):
        torch.testing.assert_close(gradient, theirs, rtol=1e-4, atol=1e-5)


def test_kinds_together_give_what_each_gives_alone(monkeypatch):
    monkeypatch.setattr(prototypes, "CHUNK", 7)
    generator = torch.Generator().manual_seed(0)
    kinds = [
        torch.randn(views, clips, 3, 6, generator=generator, requires_grad=True)
        for views, clips in ((3, 4), (5, 2))
    ]
    directions = torch.randn(24, 6, generator=generator, requires_grad=True)
    lengths = (torch.rand(24, 1, generator=generator) + 0.5).requires_grad_()
    targets = [torch.randn(n, 3, 24, generator=generator).softmax(-1) for n in (4, 2)]
    together = distillation_losses(kinds, directions, lengths, targets, student_temp=0.1)
    alone = [
        distillation_losses([kind], directions, lengths, [target], student_temp=0.1)[0]
        for kind, target in zip(kinds, targets, strict=True)
    ]
    inputs = (*kinds, directions, lengths)
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, theirs)
    squares = [torch.stack([p.square().sum() for p in parts]).sum() for parts in (together, alone)]
    for found, expected in zip(
        *(torch.autograd.grad(square, inputs) for square in squares), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_nothing_of_the_size_of_the_logits_is_kept_for_the_backward_pass():
    rows, count = 6 * 2 * 3, 5000
    features = torch.randn(6, 2, 3, 8, requires_grad=True)
    directions = torch.randn(count, 8, requires_grad=True)
    lengths = torch.ones(count, 1, requires_grad=True)
    targets = torch.randn(2, 3, count).softmax(-1)
    given = {value.data_ptr() for value in (features, directions, lengths, targets)}
    kept = []

    def keep(value):
        if value.data_ptr() not in given:
            kept.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        (loss,) = distillation_losses([features], directions, lengths, [targets], student_temp=0.1)
    loss.sum().backward()
    assert directions.grad is not None
    assert sum(kept) <= rows * (2 + features.shape[-1])  # the features of all kinds together
    assert rows * count > 100 * sum(kept)


def test_logits_stay_float32_in_half_precision():
    features, directions = torch.randn(3, 8), torch.randn(16, 8)
    with torch.autocast("cpu", torch.bfloat16):
        logits = prototype_logits(features.bfloat16(), directions, torch.ones(16, 1))
    expected = F.linear(features.bfloat16().float(), F.normalize(directions, dim=1))
    torch.testing.assert_close(logits, expected)
