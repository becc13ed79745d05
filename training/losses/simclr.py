"""SimCLR's contrastive loss (Chen et al. 2020, equation 1), over the images of all ranks."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from training.distributed.collectives import all_gather, own_rank


def nt_xent(
    embeddings: Tensor,
    images: Tensor,
    clips: Tensor,
    *,
    temperature: float,
    siblings: Literal["exclude", "negative", "positive"] = "exclude",
) -> Tensor:
    """Return NT-Xent averaged over this rank's rows, a scalar; its mean over ranks is the loss.

    For each row, the negative logarithm of the share that its positives have of all candidates'
    exp(cosine / temperature). With more than two views the sum over positives is inside the
    logarithm. The row itself is no candidate.

    Args:
        embeddings: (R, D) of the views of this rank's images, of any length; as many rows on
            every rank.
        images: (R,) int64, alike for the views of an image and for them alone, over all ranks.
        clips: (R,) int64, alike for the frames of a clip and for them alone.
        temperature: > 0.
        siblings: What other frames of the same clip are. They show the same place a second apart:
            "exclude" leaves them out, "negative" takes them as any other image, "positive" as
            other views of the image.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        rows = F.normalize(embeddings.float(), dim=-1)
        candidates = all_gather(rows)
        similarities = rows @ candidates.T / temperature
    numbers = torch.arange(len(candidates), device=rows.device)
    itself = numbers[own_rank() * len(rows) :][: len(rows), None] == numbers
    same_image = images[:, None] == all_gather(images)
    same_clip = clips[:, None] == all_gather(clips)
    positive = same_clip if siblings == "positive" else same_image
    left_out = itself | (same_clip & ~same_image) if siblings == "exclude" else itself
    # logsumexp, for exp(1 / temperature) overflows float16 and loses digits in float32.
    of_positives = similarities.masked_fill(~positive | itself, -torch.inf).logsumexp(dim=1)
    of_candidates = similarities.masked_fill(left_out, -torch.inf).logsumexp(dim=1)
    return (of_candidates - of_positives).mean()
