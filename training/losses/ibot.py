"""iBOT's loss of masked patches (Zhou et al. 2022, equation 2), for AttMask too."""

from torch import Tensor


def patch_loss(cross_entropies: Tensor, masks: Tensor, rows: Tensor) -> Tensor:
    """Return the mean over images of the mean over an image's masked patches; a scalar, nats.

    An image without a mask counts as 0 and stays in the mean.

    Args:
        cross_entropies: (R,) of the R masked patches with the teacher's, in the order of `masks`.
        masks: (..., N) bool; True is masked. The leading axes count the images.
        rows: (R,) int64, where `masks.flatten()` is True.
    """
    weights = masks / masks.sum(dim=-1, keepdim=True).clamp(min=1)
    num_images = masks[..., 0].numel()
    return (cross_entropies * weights.flatten()[rows]).sum() / num_images
