"""Batch normalization whose statistics are those of all ranks."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


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
