import pytest
import torch
from torch import nn

from training.config.sections import OptimConfig
from training.engine.optim import (
    build_optimizer,
    clip_gradients,
    scheduled_values,
    set_lr_and_weight_decay,
)
from training.methods.base import Network
from training.methods.ibot import MaskedNetwork
from training.models.vit import build_backbone
from training.schedules import Progress


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(2, 3)
        self.norm = nn.LayerNorm(3)
        self.last_layer = nn.Linear(3, 4, bias=False)
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def test_biases_and_vectors_have_no_weight_decay():
    model = Model()
    optimizer = build_optimizer(model, OptimConfig())
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


def lars_by_hand(weight, gradients, *, lr, weight_decay):
    """You et al. 2017, algorithm 1, for one matrix."""
    momentum = torch.zeros_like(weight)
    for gradient in gradients:
        trust = 0.001 * weight.norm() / (gradient.norm() + weight_decay * weight.norm())
        momentum = 0.9 * momentum + trust * (gradient + weight_decay * weight)
        weight = weight - lr * momentum
    return weight


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lars_scales_the_step_of_matrices_and_leaves_vectors_to_sgd(weight_decay):
    model = Model()
    optimizer = build_optimizer(model, OptimConfig(name="lars"))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    shapes = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    gradients = [
        {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        for _ in range(3)
    ]
    for some in gradients:
        set_lr_and_weight_decay(optimizer, lr=0.5, weight_decay=weight_decay)
        for name, parameter in model.named_parameters():
            parameter.grad = some.get(name)
        optimizer.step()
    matrix = lars_by_hand(
        before["body.weight"],
        [some["body.weight"] for some in gradients],
        lr=0.5,
        weight_decay=weight_decay,
    )
    torch.testing.assert_close(model.body.weight.data, matrix)
    one, two, three = (some["norm.bias"] for some in gradients)
    moved = 0.5 * ((1 + 0.9 + 0.81) * one + (1 + 0.9) * two + three)
    torch.testing.assert_close(model.norm.bias.data, before["norm.bias"] - moved)


def test_layers_nearer_to_the_pixels_learn_less():
    backbone = build_backbone(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3, embed_dim=24, num_heads=2
    )
    network = MaskedNetwork(Network(backbone, nn.Linear(24, 5)))
    optimizer = build_optimizer(network, OptimConfig(layer_decay=0.5))
    set_lr_and_weight_decay(optimizer, lr=1.0, weight_decay=0.1)
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found = {name: of[id(p)] for name, p in network.named_parameters()}
    assert len(found) == sum(len(group["params"]) for group in optimizer.param_groups)
    for name, lr in {  # BEiT: decay ** (depth + 1 - layer)
        "backbone.pos_embed": 1 / 16,
        "mask_token": 1 / 16,
        "backbone.patch_embed.proj.weight": 1 / 16,
        "backbone.blocks.0.attn.qkv.weight": 1 / 8,
        "backbone.blocks.1.mlp.fc1.bias": 1 / 4,
        "backbone.blocks.2.norm1.weight": 1 / 2,
        "backbone.norm.weight": 1,
        "head.weight": 1,
    }.items():
        assert found[name]["lr"] == lr, name
        assert found[name]["weight_decay"] == (0.1 if network.get_parameter(name).ndim > 1 else 0)


@pytest.mark.parametrize(("scaling", "factor"), [("linear", 4.0), ("sqrt", 2.0)])
def test_the_peak_grows_with_the_batch_or_its_root(scaling, factor):
    optim = OptimConfig(
        lr=0.1, lr_scaling=scaling, global_batch_size=1024, lr_clips=256, warmup_epochs=0
    )
    assert scheduled_values(optim, Progress(0, 10, 1)).lr == pytest.approx(0.1 * factor)
