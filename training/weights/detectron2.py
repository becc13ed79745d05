"""A backbone for detectors, as the paper fine-tunes it on COCO: four maps from four blocks.

The network is the evaluation's own, with its CLS token, so a detector sees the features that were
pretrained. `FeaturePyramid` is plain torch; a detectron2 config calls `detectron2_backbone`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from training.models.feature_pyramid import SCALES, pyramid_maps, pyramid_stages
from training.models.vit_blocks import set_drop_path
from training.weights.backbones import open_backbone
from training.weights.initialize import renormalize
from wtours.errors import MissingPackageError, UsageError

BLOCKS = (4, 6, 8, 12)
"""Counted from 1; paper, B.3."""
_BELOW_THE_BLOCKS = (".cls_token", ".reg_token", ".pos_embed", ".patch_embed.")


class FeaturePyramid(nn.Module):
    """Maps after four blocks, see `training.models.feature_pyramid`.

    Args:
        network: From `training.models.vit` or `training.weights.backbones`; it is trained along.
        blocks: Four numbers of blocks, counted from 1.
        drop_path_rate: Stochastic depth of the last block in training (iBOT's), whatever the
            network was pretrained with.
    """

    def __init__(
        self,
        network: VisionTransformer,
        blocks: Sequence[int] = BLOCKS,
        *,
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__()
        if len(set(blocks)) != len(SCALES) or not 1 <= min(blocks) <= max(blocks) <= len(
            network.blocks
        ):
            raise UsageError(
                f"blocks ({', '.join(map(str, blocks))}) must be four different ones of "
                f"1 to {len(network.blocks)}"
            )
        self.network = network.requires_grad_(True)
        set_drop_path(network, drop_path_rate)
        self.blocks = tuple(blocks)
        # Not "p2" and so on: detectron2's FPN would take our maps for its own.
        self.names = tuple(f"block{number}" for number in blocks)
        self.stages = pyramid_stages(network.embed_dim)

    @property
    def strides(self) -> dict[str, int]:
        """Return the pixels between two places of each map; 4, 8, 16, 32 for patches of 16."""
        patch = int(self.network.patch_embed.patch_size[0])
        return {name: int(patch / scale) for name, scale in zip(self.names, SCALES, strict=True)}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps "block4" to "block12", each (B, D, H / stride, W / stride).

        Args:
            images: (B, 3, H, W), normalized; H and W multiples of twice the patch size.
        """
        maps = pyramid_maps(self.network, self.stages, self.blocks, images)
        return dict(zip(self.names, maps, strict=True))


def detectron2_backbone(backbone: str, *, blocks: Sequence[int] = BLOCKS) -> Any:
    """Return a detectron2 Backbone around the pyramid of a backbone, named as for `wtours eval`.

    Raises:
        MissingPackageError: detectron2 is not installed (docs/howto/detectors.md says how).
    """
    try:
        from detectron2.layers import ShapeSpec
        from detectron2.modeling.backbone import Backbone
    except ImportError as error:
        raise MissingPackageError("detectron2", "objects", "a detectron2 backbone") from error

    class Detectron2Backbone(Backbone):  # type: ignore[misc]
        """Our pyramid under detectron2's interface."""

        def __init__(self, pyramid: FeaturePyramid) -> None:
            super().__init__()
            self.net = pyramid

        def forward(self, images: Tensor) -> Any:
            return self.net(images)

        @property
        def size_divisibility(self) -> int:
            return max(self.net.strides.values())

        def output_shape(self) -> dict[str, Any]:
            width = self.net.network.embed_dim
            strides = self.net.strides
            return {
                name: ShapeSpec(channels=width, stride=stride) for name, stride in strides.items()
            }

    return Detectron2Backbone(pyramid_of(backbone, blocks))


def pyramid_of(backbone: str, blocks: Sequence[int] = BLOCKS) -> FeaturePyramid:
    """Return the pyramid of a pretrained backbone, for pixels normalized as ImageNet's.

    The detector normalizes them, by its config; weights that ask for other pixels (those of the hub
    do) are changed to give the same tokens of these.

    Raises:
        CheckpointError: they cannot be changed so.
    """
    opened = open_backbone(backbone, Path)
    weights = opened.network.state_dict()
    renormalize(weights, opened.normalization)
    opened.network.load_state_dict(weights)
    return FeaturePyramid(opened.network, blocks)


@dataclass(frozen=True)
class LayerDecay:
    """The factor of a parameter's learning rate: rate ** (blocks above it + 1).

    Tokens, positions and patch embedding count as below the first block; what is above the last
    block (pyramid and heads) keeps the whole rate.
    """

    rate: float
    """Of each layer, at most 1."""
    depth: int
    """Blocks of the network."""

    def __call__(self, name: str) -> float:
        """Return the factor of the parameter that a detector calls `name`."""
        if any(part in name for part in _BELOW_THE_BLOCKS):
            layer = 0
        elif ".network.blocks." in name:
            layer = int(name.split(".network.blocks.")[1].split(".")[0]) + 1
        else:
            layer = self.depth + 1
        return float(self.rate ** (self.depth + 1 - layer))
