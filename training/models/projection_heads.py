"""The projection heads between tokens and a method's loss, with batch norm over all ranks."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.linear import Linear, linear


class GlobalBatchNorm(nn.BatchNorm1d):
    """Batch norm with the mean and variance of all ranks' batches, on any device.

    Without a process group it is `nn.BatchNorm1d`. `nn.SyncBatchNorm` refuses tensors on the CPU.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalized batch, (M, C); in training, M may differ between the ranks."""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        features = input.float()
        total = _SumOverRanks.apply(
            torch.cat([features.sum(0), features.new_full((1,), len(input))])
        )
        mean, count = total[:-1] / total[-1], total[-1].detach()
        # From the deviations, not from the squares: the difference of squares loses digits.
        variance = _SumOverRanks.apply((features - mean).square().sum(0)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked.add_(1)
        normalized = (features - mean) * torch.rsqrt(variance + self.eps)
        output: Tensor = normalized * self.weight + self.bias
        return output.to(input.dtype)


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over ranks; its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class DinoHead(nn.Module):
    """DINO's head: MLP of three layers, L2 normalization, and a weight-normalized last layer.

    The names of the weights are those of the released code: `mlp.{0,2,4}` without batch norm,
    `mlp.{0,3,6}` with it (`mlp.{1,4}` are the norms), `last_layer.weight_g` and `.weight_v`.

    Args:
        in_dim: Width D of the backbone.
        num_prototypes: Number of outputs K.
        hidden_dim: Width of the MLP.
        bottleneck_dim: Width of its output, where it is normalized.
        batch_norm: Whether each hidden layer has a batch norm, over all ranks.
        norm_last_layer: Whether the prototypes keep unit length (`weight_g` frozen at 1).
    """

    def __init__(
        self,
        in_dim: int,
        num_prototypes: int,
        *,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        batch_norm: bool = False,
        norm_last_layer: bool = False,
    ) -> None:
        super().__init__()
        widths = (in_dim, hidden_dim, hidden_dim, bottleneck_dim)
        self.mlp = _mlp(widths, batch_norm=batch_norm, activation=nn.GELU)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = WeightNormLinear(bottleneck_dim, num_prototypes)
        self.last_layer.weight_g.requires_grad_(not norm_last_layer)

    @property
    def has_batch_norm(self) -> bool:
        """Return whether what it gives of a token depends on the others."""
        return any(isinstance(layer, GlobalBatchNorm) for layer in self.mlp)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (M, K) float32 of tokens (M, D)."""
        return self.last_layer(self.project(tokens))  # type: ignore[no-any-return]

    def project(self, tokens: Tensor) -> Tensor:
        """Return what the last layer gets of tokens (M, D): (M, bottleneck_dim) of unit length."""
        return F.normalize(self.mlp(tokens), dim=-1)


class Projector(nn.Module):
    """The MLP of SimCLR or VICReg: linear layers with ReLU, and batch norm if asked, between."""

    def __init__(
        self, in_dim: int, hidden_dims: Sequence[int], out_dim: int, *, batch_norm: bool
    ) -> None:
        super().__init__()
        widths = (in_dim, *hidden_dims, out_dim)
        self.mlp = _mlp(widths, batch_norm=batch_norm, activation=nn.ReLU)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return embeddings (M, out_dim), of any length, of tokens (M, D)."""
        return self.mlp(tokens)  # type: ignore[no-any-return]


class SwavHead(Projector):
    """SwAV's head: an MLP, L2 normalization, and K prototypes of unit length, `out_dim` wide."""

    def __init__(
        self,
        in_dim: int,
        num_prototypes: int,
        *,
        hidden_dims: Sequence[int],
        out_dim: int,
        batch_norm: bool,
    ) -> None:
        super().__init__(in_dim, hidden_dims, out_dim, batch_norm=batch_norm)
        self.last_layer = WeightNormLinear(out_dim, num_prototypes)
        self.last_layer.weight_g.requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return cosines (M, K) float32 of tokens (M, D) and the prototypes."""
        return self.last_layer(self.project(tokens))  # type: ignore[no-any-return]

    def project(self, tokens: Tensor) -> Tensor:
        """Return the features (M, c) float32 of unit length of tokens (M, D)."""
        return F.normalize(self.mlp(tokens).float(), dim=-1)


def _mlp(widths: Sequence[int], *, batch_norm: bool, activation: type[nn.Module]) -> nn.Sequential:
    """Return linear layers from width to width; all but the last with norm and activation."""
    layers: list[nn.Module] = []
    for width_in, width_out in itertools.pairwise(widths[:-1]):
        layers.append(Linear(width_in, width_out))
        if batch_norm:
            layers.append(GlobalBatchNorm(width_out))
        layers.append(activation())
    return nn.Sequential(*layers, Linear(widths[-2], widths[-1]))


class WeightNormLinear(nn.Module):
    """A linear layer without bias whose row k is `weight_g[k] * weight_v[k] / |weight_v[k]|`.

    The same numbers as `torch.nn.utils.weight_norm` gives, which is deprecated and computes the
    weight anew at each call; its successor renames the parameters. Here there is no such weight: it
    is the logits that are scaled.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_features, 1))
        self.weight_v = nn.Parameter(torch.empty(out_features, in_features))
        bound = in_features**-0.5  # what nn.Linear starts with
        nn.init.uniform_(self.weight_v, -bound, bound)

    def forward(self, features: Tensor) -> Tensor:
        """Return (M, out_features) float32 of features (M, in_features), whatever autocast says.

        Temperatures of 0.04 leave a half-precision logit no digits.
        """
        return prototype_logits(features, self.weight_v, self.weight_g)


SMALLEST_NORM = 1e-12


def prototype_logits(features: Tensor, weight_v: Tensor, weight_g: Tensor) -> Tensor:
    """Return the logits (..., K) of features (..., c) as float32: features x g v / |v|."""
    with torch.autocast(features.device.type, enabled=False):
        scale = weight_g / _norms(weight_v)
        logits: Tensor = linear(features.float(), weight_v) * scale[:, 0]
        return logits


def _norms(weight_v: Tensor) -> Tensor:
    """Return the lengths of rows, (k, 1)."""
    norms: Tensor = torch.linalg.vector_norm(weight_v, dim=1, keepdim=True)
    return norms.clamp_min(SMALLEST_NORM)
