"""However a linear layer is computed on a CPU, it gives what torch's own gives."""

import pytest
import torch
import torch.nn.functional as F

from training.models.linear import linear


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(24,), (7, 24), (15, 5, 24), (16, 5, 24), (2, 9, 5, 24)])
def test_values_and_gradients_are_those_of_torchs_own_layer(shape, threads):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(shape, generator=generator)
    weight = torch.randn(40, 24, generator=generator)
    bias = torch.randn(40, generator=generator)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours, theirs = (_computed(layer, tokens, weight, bias) for layer in (linear, F.linear))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)  # sums of 80 products, of tens


def _computed(layer, *values):
    leaves = [value.clone().requires_grad_() for value in values]
    output = layer(*leaves)
    return output.detach(), torch.autograd.grad(output.square().sum(), leaves)
