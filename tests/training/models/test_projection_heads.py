import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from tests.support.two_ranks import on_two_ranks
from training.models.projection_heads import (
    DinoHead,
    GlobalBatchNorm,
    Projector,
    SwavHead,
    WeightNormLinear,
)

SIZES = (3, 5)  # clips on each of two ranks


def test_names_of_the_weights_are_those_of_the_released_code():
    assert set(DinoHead(8, 16, hidden_dim=4, bottleneck_dim=2).state_dict()) == {
        *(f"mlp.{layer}.{kind}" for layer in (0, 2, 4) for kind in ("weight", "bias")),
        "last_layer.weight_g",
        "last_layer.weight_v",
    }


def test_last_layer_is_torchs_weight_norm_with_its_gradients():
    torch.manual_seed(0)
    ours = WeightNormLinear(6, 4)
    with torch.no_grad():
        ours.weight_g.uniform_(0.5, 2)
    theirs = weight_norm(nn.Linear(6, 4, bias=False), dim=0)
    original = theirs.parametrizations.weight
    with torch.no_grad():
        original.original0.copy_(ours.weight_g)
        original.original1.copy_(ours.weight_v)
    features = torch.randn(5, 6)
    ours(features).square().sum().backward()
    theirs(features).square().sum().backward()
    torch.testing.assert_close(ours(features), theirs(features))
    torch.testing.assert_close(ours.weight_g.grad, original.original0.grad)
    torch.testing.assert_close(ours.weight_v.grad, original.original1.grad)


def test_logits_of_unit_prototypes_are_cosines():
    head = DinoHead(8, 16, hidden_dim=4, bottleneck_dim=2, norm_last_layer=True)
    logits = head(torch.randn(50, 8))
    assert logits.abs().max().item() <= 1 + 1e-6
    assert not head.last_layer.weight_g.requires_grad


def test_projectors_are_linear_layers_with_relu_and_batch_norm_where_asked():
    plain, normed = (Projector(8, (5, 6), 3, batch_norm=norm) for norm in (False, True))
    kinds = [type(layer).__name__ for layer in plain.mlp]
    assert kinds == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert [type(layer).__name__ for layer in normed.mlp][1::3] == ["GlobalBatchNorm"] * 2
    assert plain(torch.randn(4, 8)).shape == (4, 3)
    assert plain(torch.randn(0, 8)).shape == (0, 3)


def test_swavs_logits_are_cosines_whose_prototypes_alone_are_its_last_layer():
    head = SwavHead(8, 16, hidden_dims=(4,), out_dim=3, batch_norm=True)
    tokens = 100 * torch.randn(50, 8)
    assert head(tokens).abs().max().item() <= 1 + 1e-6
    torch.testing.assert_close(head.project(tokens).norm(dim=-1), torch.ones(50))
    trained = [name for name, p in head.named_parameters() if p.requires_grad]
    assert [name for name in trained if "last_layer" in name] == ["last_layer.weight_v"]


def test_batch_norm_on_one_rank_is_torchs():
    ours, theirs = GlobalBatchNorm(4), nn.BatchNorm1d(4)
    batch = torch.randn(6, 4)
    assert torch.equal(ours(batch), theirs(batch))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def _whole_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    # A mean far from 0: the variance must not come from a difference of squares.
    return (
        100 + torch.randn(sum(SIZES), 4, generator=generator),
        torch.randn(sum(SIZES), 4, generator=generator),
    )


def _normalize(norm: nn.Module, batch: torch.Tensor, weights: torch.Tensor) -> dict[str, object]:
    batch = batch.clone().requires_grad_()
    output = norm(batch)
    (output * weights).square().sum().backward()
    return {
        "output": output.detach(),
        "input_gradient": batch.grad,
        "weight_gradient": norm.weight.grad,
        "bias_gradient": norm.bias.grad,
        "running_mean": norm.running_mean,
        "running_var": norm.running_var,
        "num_batches_tracked": norm.num_batches_tracked,
    }


def _on_a_rank(rank: int) -> dict[str, object]:
    batch, weights = (part.split(SIZES)[rank] for part in _whole_batch())
    return _normalize(GlobalBatchNorm(4), batch, weights)


@pytest.mark.medium
def test_batch_norm_on_two_ranks_is_torchs_on_the_whole_batch(tmp_path):
    first, second = on_two_ranks(_on_a_rank, tmp_path)
    expected = _normalize(nn.BatchNorm1d(4), *_whole_batch())
    for name in ("output", "input_gradient"):
        torch.testing.assert_close(
            torch.cat([first[name], second[name]]), expected[name], rtol=1e-4, atol=1e-4
        )
    for name in ("weight_gradient", "bias_gradient"):  # DDP adds them up
        torch.testing.assert_close(first[name] + second[name], expected[name], rtol=1e-4, atol=1e-4)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(first[name], expected[name])
        torch.testing.assert_close(second[name], expected[name])
