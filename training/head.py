"""The projection head that turns a CLS token into logits over K prototypes."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from training.prototypes import prototype_logits
from training.transformer import Linear


class DinoHead(nn.Module):
    """DINO's head: MLP of three layers, L2 normalisation, and a weight-normalised last layer.

    The names of the weights are those of the released code: `mlp.{0,2,4}` without batch norm,
    `mlp.{0,3,6}` with it (`mlp.{1,4}` are the norms), `last_layer.weight_g` and `.weight_v`.

    Args:
        in_dim: Width D of the backbone.
        num_prototypes: Number of outputs K.
        hidden_dim: Width of the MLP.
        bottleneck_dim: Width of its output, where it is normalised.
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
        layers: list[nn.Module] = []
        for width_in, width_out in ((in_dim, hidden_dim), (hidden_dim, hidden_dim)):
            layers.append(Linear(width_in, width_out))
            if batch_norm:
                layers.append(GlobalBatchNorm(width_out))
            layers.append(nn.GELU())
        layers.append(Linear(hidden_dim, bottleneck_dim))
        self.mlp = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = WeightNormLinear(bottleneck_dim, num_prototypes)
        self.last_layer.weight_g.requires_grad_(not norm_last_layer)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (M, K) float32 of tokens (M, D)."""
        return self.last_layer(self.project(tokens))  # type: ignore[no-any-return]

    def project(self, tokens: Tensor) -> Tensor:
        """Return what the last layer gets of tokens (M, D): (M, bottleneck_dim) of unit length."""
        return F.normalize(self.mlp(tokens), dim=-1)


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


class GlobalBatchNorm(nn.BatchNorm1d):
    """Batch norm with the mean and variance of all ranks' batches, on any device.

    Without a process group it is `nn.BatchNorm1d`. `nn.SyncBatchNorm` refuses tensors on the CPU.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised batch, (M, C); in training, M may differ between the ranks."""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        features = input.float()
        total = _SumOverRanks.apply(torch.cat([features.sum(0), features.new_tensor([len(input)])]))
        mean, count = total[:-1] / total[-1], total[-1].detach()
        # From the deviations, not from the squares: the difference of squares loses digits.
        variance = _SumOverRanks.apply((features - mean).square().sum(0)) / count
        self._update_running(mean.detach(), variance.detach() * count / (count - 1))
        normalised = (features - mean) * torch.rsqrt(variance + self.eps)
        output: Tensor = normalised * self.weight + self.bias
        return output.to(input.dtype)

    def _update_running(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        momentum = 0.1 if self.momentum is None else self.momentum
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(unbiased_variance, momentum)
        self.num_batches_tracked.add_(1)


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over ranks; its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        total = gradient.clone()
        dist.all_reduce(total)
        return total
