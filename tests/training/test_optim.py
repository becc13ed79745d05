import pytest
import torch
from torch import nn

from training.optim import (
    build_adamw,
    clip_gradients,
    drop_last_layer_gradients,
    set_lr_and_weight_decay,
)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(2, 3)
        self.norm = nn.LayerNorm(3)
        self.last_layer = nn.Linear(3, 4, bias=False)
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def test_biases_and_vectors_have_no_weight_decay():
    model = Model()
    optimizer = build_adamw(model)
    set_lr_and_weight_decay(optimizer, lr=0.5, weight_decay=0.1)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    named = {name: decay.get(id(p)) for name, p in model.named_parameters()}
    assert named == {
        "frozen": None,
        "body.weight": 0.1,
        "body.bias": 0.0,
        "norm.weight": 0.0,
        "norm.bias": 0.0,
        "last_layer.weight": 0.1,
    }
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


def two_gradients():
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    a.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.6, 0.8])
    return a, b


def test_clipping_by_parameter_looks_at_each_norm_alone():
    a, b = two_gradients()
    norm = clip_gradients([a, b], max_norm=2.0, by="parameter")
    assert norm.item() == pytest.approx(26**0.5)
    torch.testing.assert_close(a.grad, torch.tensor([1.2, 1.6]))
    torch.testing.assert_close(b.grad, torch.tensor([0.6, 0.8]))


def test_clipping_by_the_global_norm_keeps_the_direction():
    a, b = two_gradients()
    clip_gradients([a, b], max_norm=2.0, by="global")
    reference = two_gradients()
    torch.nn.utils.clip_grad_norm_(reference, 2.0)
    torch.testing.assert_close([a.grad, b.grad], [p.grad for p in reference])


def test_no_clipping_leaves_the_gradients_and_tells_the_norm_of_a_broken_one():
    a, b = two_gradients()
    a.grad[0] = torch.nan
    assert torch.isnan(clip_gradients([a, b], max_norm=None, by="parameter"))
    assert b.grad.tolist() == pytest.approx([0.6, 0.8])


def test_a_last_layer_without_gradients_stays_as_it_is():
    model = Model()
    optimizer = build_adamw(model)
    set_lr_and_weight_decay(optimizer, lr=0.1, weight_decay=0.1)
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.last_layer(model.norm(model.body(torch.ones(1, 2)))).sum().backward()
    drop_last_layer_gradients(model)
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert "last_layer.weight" not in moved
    assert "body.weight" in moved
