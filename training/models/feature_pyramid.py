"""Four maps from four blocks of a plain ViT, as the paper fine-tunes it on COCO and ADE20k (B.3).

Two deconvolutions for the first block, one for the second, the third as it is, and the maximum over
2x2 for the last: with patches of 16 the strides are 4, 8, 16 and 32.
"""

from collections.abc import Iterable, Sequence

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from training.models.vit import encode_blocks

SCALES = (4.0, 2.0, 1.0, 0.5)
"""Of each map's sides, over the grid of patches."""


def pyramid_stages(width: int) -> nn.ModuleList:
    """Return what is learned between the blocks, D wide, and the maps, in the order of the maps."""
    return nn.ModuleList(
        [
            nn.Sequential(_twice(width), nn.BatchNorm2d(width), nn.GELU(), _twice(width)),
            _twice(width),
            nn.Identity(),
            nn.MaxPool2d(kernel_size=2, stride=2),
        ]
    )


def pyramid_maps(
    network: VisionTransformer, stages: Iterable[nn.Module], blocks: Sequence[int], images: Tensor
) -> list[Tensor]:
    """Return the maps of images (B, 3, H, W), each (B, D, h, w), the finest first.

    Args:
        network: The ViT; its tokens do not go through the final norm.
        stages: From `pyramid_stages`.
        blocks: Four numbers of blocks, counted from 1.
        images: Normalized; H and W are multiples of twice the patch size.
    """
    patch = int(network.patch_embed.patch_size[0])
    rows, columns = images.shape[-2] // patch, images.shape[-1] // patch
    tokens = encode_blocks(network, images, blocks, norm=False)
    return [
        stage(each.patch_tokens.transpose(1, 2).reshape(len(images), -1, rows, columns))
        for stage, each in zip(stages, tokens, strict=True)
    ]


def _twice(width: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
