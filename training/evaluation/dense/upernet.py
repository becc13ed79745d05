"""UperNet on a plain ViT: tokens of four blocks become a pyramid; its heads are transformers'.

Blocks 4, 6, 8 and 12 of a ViT of 12 blocks, as in the paper (B.3). Training adds a head of
convolutions on the third map, weight 0.4.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from training.evaluation.datasets.segmentation import VOID
from training.models.feature_pyramid import pyramid_maps, pyramid_stages

AUXILIARY_WEIGHT = 0.4


class UperNet(nn.Module):
    """A ViT, trained with the rest, with UperNet's heads; the auxiliary one is half as wide."""

    def __init__(
        self, backbone: VisionTransformer, num_classes: int, *, hidden_dim: int = 512
    ) -> None:
        from transformers import UperNetConfig
        from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

        super().__init__()
        width = backbone.embed_dim
        self.backbone = backbone
        self.blocks = pyramid_blocks(len(backbone.blocks))
        self.pyramid = pyramid_stages(width)
        config = UperNetConfig(hidden_size=hidden_dim, auxiliary_channels=hidden_dim // 2)
        config.num_labels = num_classes
        self.head: nn.Module = UperNetHead(config, [width] * 4)  # type: ignore[no-untyped-call]
        self.auxiliary_head = UperNetFCNHead(config, [width] * 4)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the pyramid of images (B, 3, H, W): four maps (B, D, h, w), the finest first."""
        return pyramid_maps(self.backbone, self.pyramid, self.blocks, images)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (B, C, h, w) on the finest map of the pyramid."""
        scores: Tensor = self.head(self.maps(images))
        return scores

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of both heads, enlarged to the labels (B, H, W); a scalar."""
        maps = self.maps(images)
        loss = _cross_entropy(self.head(maps), labels)
        return loss + AUXILIARY_WEIGHT * _cross_entropy(self.auxiliary_head(maps), labels)


def pyramid_blocks(depth: int) -> Sequence[int]:
    """Return the numbers of the four blocks, from 1: 4, 6, 8 and 12 of 12."""
    return [max(1, round(depth * share)) for share in (1 / 3, 1 / 2, 2 / 3, 1)]


def _cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over scored pixels; 0 if a batch has none."""
    enlarged = F.interpolate(
        scores.float(), labels.shape[-2:], mode="bilinear", align_corners=False
    )
    total = F.cross_entropy(enlarged, labels, ignore_index=VOID, reduction="sum")
    return total / torch.count_nonzero(labels != VOID).clamp(min=1)
