"""What a training method receives and returns."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Views:
    """What the networks see of B clips, normalized.

    Attributes:
        global_clips: (G, B, T, 3, H, W), G = 1 or 2 crops of each clip.
        local_crops: (L, B, T, 3, s, s).
    """

    global_clips: Tensor
    local_crops: Tensor
