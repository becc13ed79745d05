"""The KoLeo regularizer (Sablayrolles et al. 2019), as DINOv2 uses it: embeddings spread out."""

import torch
import torch.nn.functional as F
from torch import Tensor

_SMALLEST = 1e-8


def koleo(tokens: Tensor) -> Tensor:
    """Return the mean of -log(distance to the nearest other embedding) over V views, a scalar.

    DINOv2 adds up the means of its two views: the same weight is half as much here.

    Args:
        tokens: (V, M, D), M >= 2; embeddings are compared within a view, by their direction alone.
    """
    unit = F.normalize(tokens.float(), dim=-1, eps=_SMALLEST)
    with torch.no_grad():  # which one is nearest
        cosines = unit @ unit.transpose(1, 2)
        cosines.diagonal(dim1=1, dim2=2).fill_(-1)
        nearest = cosines.argmax(dim=-1)
    neighbors = unit.gather(1, nearest[..., None].expand_as(unit))
    # As torch.nn.PairwiseDistance of DINOv2's code: the small number is in the difference too.
    distances = torch.linalg.vector_norm(unit - neighbors + _SMALLEST, dim=-1)
    loss: Tensor = -(distances + _SMALLEST).log().mean()
    return loss
