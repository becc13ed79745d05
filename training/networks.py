"""From a config to the networks."""

from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer

from training.config import TrainConfig
from training.head import DinoHead
from training.teacher import Network
from training.vit import build_backbone
from wtours.errors import UsageError


def build_network(config: TrainConfig) -> Network:
    """Return a randomly initialised backbone and head, for global crops of the config's size.

    Raises:
        UsageError: an unknown backbone, crops that its patches do not fill, or fewer attention
            heads than objects.
    """
    model, data = config.model, config.data
    backbone = build_backbone(
        model.backbone,
        img_size=data.global_crop_pixels,
        patch_size=model.patch_size,
        depth=model.depth,
        embed_dim=model.embed_dim,
        num_heads=model.num_heads,
        drop_path_rate=model.drop_path_rate,
    )
    patch = backbone.patch_embed.patch_size[0]
    for name, pixels in (
        ("data.global_crop_pixels", data.global_crop_pixels),
        ("data.local_crop_pixels", data.local_crop_pixels),
    ):
        if pixels % patch:
            raise UsageError(f"{name} ({pixels}) must be a multiple of the patch size ({patch})")
    _check_heads(backbone, config)
    backbone.set_grad_checkpointing(model.activation_checkpointing)
    head = DinoHead(
        backbone.embed_dim,
        model.num_prototypes,
        hidden_dim=model.head_hidden_dim,
        batch_norm=model.head_batch_norm,
        norm_last_layer=model.norm_last_layer,
    )
    return Network(backbone, head)


def object_heads(backbone: VisionTransformer, config: TrainConfig) -> int:
    """Return the heads in which objects are looked for: the last block's, or as it is split."""
    return config.tracking.num_heads or num_heads(backbone)


def _check_heads(backbone: VisionTransformer, config: TrainConfig) -> None:
    tracking, heads = config.tracking, object_heads(backbone, config)
    if backbone.embed_dim % heads:
        raise UsageError(
            f"tracking.num_heads ({heads}) must divide the backbone's width ({backbone.embed_dim})"
        )
    if tracking.mask != "random_blocks" and tracking.num_objects > heads:
        raise UsageError(
            f"tracking.num_objects ({tracking.num_objects}) must not be above the backbone's "
            f"{heads} attention heads; tracking.num_heads splits its last block into more"
        )


def num_heads(backbone: VisionTransformer) -> int:
    """Return the attention heads of the last block, where objects are found."""
    last = backbone.blocks[-1]
    if not isinstance(last, Block) or not isinstance(last.attn, Attention):
        raise TypeError(f"the last block is a {type(last).__name__}, not a plain one")
    return int(last.attn.num_heads)
