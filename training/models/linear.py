"""Linear layers computed by the fastest of torch's CPU kernels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_IMAGES_FOR_ONEDNN = 16
"""On one thread, torch's own limit."""
_HAS_ONEDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


class Linear(nn.Linear):
    """`nn.Linear`, computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return (..., out_features) of (..., in_features)."""
        return linear(input, self.weight, self.bias)


def linear(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `F.linear`; on a CPU in float32 by way of a convolution of width 1.

    torch gives float32 matrix products to MKL, which leaves half of a CPU of another maker unused;
    convolutions it gives to oneDNN, which does not (2.3 times as fast on an AMD with AVX-512). On
    one thread it does so from sixteen images on, so there so many stay images: the products of the
    forward pass are a ninth faster, those of the backward pass a twentieth (Zen 4). Fewer images,
    and more threads, are faster if all rows are one image's.
    """
    is_for_onednn = (
        tokens.device.type == "cpu"
        and tokens.dtype == torch.float32
        and tokens.numel() > 0  # convolutions refuse no rows
        and not torch.is_autocast_enabled("cpu")
        and _HAS_ONEDNN
    )
    if not is_for_onednn:
        return F.linear(tokens, weight, bias)
    rows = tokens.reshape(_num_images(tokens), 1, -1, tokens.shape[-1])
    result = F.conv2d(rows.permute(0, 3, 1, 2), weight[:, :, None, None], bias)
    return result.permute(0, 2, 3, 1).reshape(*tokens.shape[:-1], -1)


def _num_images(tokens: Tensor) -> int:
    if tokens.ndim != 3 or len(tokens) < _IMAGES_FOR_ONEDNN:
        return 1
    # A traced function may not ask for the number of threads.
    if torch.compiler.is_compiling() or torch.get_num_threads() > 1:
        return 1
    return len(tokens)


def use_fast_linears(module: nn.Module) -> None:
    """Put a `Linear` with the same weights in the place of each `nn.Linear` in the module."""
    for name, child in list(module.named_modules()):
        if type(child) is nn.Linear:
            fast = Linear(child.in_features, child.out_features, child.bias is not None, "meta")
            fast.weight, fast.bias = child.weight, child.bias
            module.set_submodule(name, fast)
