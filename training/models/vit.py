"""The backbone: a vision transformer of timm that can also show what its last block attends to.

The modules and the names of the weights are timm's; what differs is the position embedding at
another image size, which is interpolated as DINO does it (`position_embedding`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.layers.patch_embed import PatchEmbed
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from training.models.linear import use_fast_linears
from training.models.packing import packing_of
from training.models.vit_blocks import by_head, use_fast_blocks
from wtours.errors import UsageError
from wtours.text import first_line


@dataclass(frozen=True)
class BlockTokens:
    """What one block gives; register tokens are left out."""

    cls_token: Tensor
    """(B, D)."""
    patch_tokens: Tensor
    """(B, N, D), patches in row-major order."""


@dataclass(frozen=True)
class TokenFeatures(BlockTokens):
    """What tracking needs from one pass of the backbone: tokens after the final norm, and more."""

    query: Tensor
    """(B, A, 1+N, d) queries of the last block, unscaled, CLS first; D = A * d."""
    key: Tensor
    """(B, A, 1+N, d) keys of the last block, CLS first."""
    cls_attention: Tensor
    """(B, A, N) the CLS row of the last block's attention; CLS to CLS is left out and the rest is
    not renormalized, so that a row sums to a little less than 1."""


def build_backbone(name: str, **arguments: Any) -> VisionTransformer:
    """Return a randomly initialized ViT of timm without a classifier, for images of any size.

    Args:
        name: timm's name of a plain ViT with a CLS token, e.g. "vit_small_patch16_224".
        arguments: What differs from the name, as timm calls it: `img_size` (the side that the
            position embedding is made for), `patch_size`, `depth`, `embed_dim`, `num_heads`, and
            `drop_path_rate` of the last block, which rises linearly from 0 at the first.
    """
    backbone = create_vit(name, **arguments)
    # DINO starts the CLS token like the position embedding; timm starts it at almost 0.
    nn.init.trunc_normal_(_as_tensor(backbone.cls_token), std=0.02)
    return backbone


def create_vit(name: str, **arguments: Any) -> VisionTransformer:
    """Return a ViT as timm makes it, without a classifier, that takes images of any size.

    Args:
        name: timm's name of a plain ViT with a CLS token.
        arguments: For `timm.create_model`: sizes, or pretrained=True.

    Raises:
        UsageError: timm has no such model, or it is not a plain ViT with a CLS token.
    """
    if not timm.is_model(name):
        raise UsageError(f"timm has no model {name!r}; one it has is vit_small_patch16_224")
    refusal = f"model {name!r} is not a plain ViT with a CLS token, such as vit_small_patch16_224"
    try:
        backbone = timm.create_model(
            name, num_classes=0, global_pool="token", dynamic_img_size=True, **arguments
        )
    except (TypeError, AssertionError, ValueError, ArithmeticError, RuntimeError) as error:
        raise UsageError(f"{refusal} ({first_line(error)})") from error
    # Exactly: a distilled DeiT is a subclass with a second token, a hybrid embeds by a CNN.
    if type(backbone) is not VisionTransformer or type(backbone.patch_embed) is not PatchEmbed:
        raise UsageError(refusal)
    has_tokens = backbone.pos_embed is not None and backbone.cls_token is not None
    if not has_tokens or not all(_is_plain(block) for block in backbone.blocks):
        raise UsageError(refusal)
    use_fast_linears(backbone)
    use_fast_blocks(backbone)
    return backbone


def encode(backbone: VisionTransformer, images: Tensor) -> Tensor:
    """Return the CLS token after the final norm, (B, D), of images (B, 3, H, W)."""
    *blocks, last = backbone.blocks
    runs: list[Callable[[Tensor], Tensor]] = [*blocks, partial(last, read="cls")]
    return _as_tensor(backbone.norm(_run(backbone, runs, _embed(backbone, images))))[:, 0]


def encode_visible(
    backbone: VisionTransformer, images: Tensor, visible: Tensor, num_visible: Tensor
) -> Tensor:
    """Return the CLS tokens of V views of images (M, 3, H, W) that have some patches each.

    The others are not computed, nor attended to, as in the encoder of MAE (He et al. 2022).

    Args:
        backbone: From `build_backbone`.
        images: (M, 3, H, W), H and W multiples of the patch size.
        visible: (V, M, N) bool, the patches that a view has, in row-major order.
        num_visible: (V, M) int64 on the CPU, how many these are: the host does not wait for them.

    Returns:
        (V, M, D), after the final norm.
    """
    tokens, prefix = _embed(backbone, images), backbone.num_prefix_tokens  # once for all views
    lengths = num_visible.flatten() + prefix
    always = visible.new_ones(*visible.shape[:2], prefix)
    rows = torch.cat([always, visible], dim=-1).flatten()  # of V times the tokens
    rows = rows.nonzero_static(size=int(lengths.sum()))[:, 0]
    packed = tokens.flatten(0, 1).index_select(0, rows % tokens[..., 0].numel())
    packing = packing_of(lengths, images.device)
    *blocks, last = backbone.blocks
    runs: list[Callable[[Tensor], Tensor]] = [partial(block, packing=packing) for block in blocks]
    runs.append(partial(last, read="cls", packing=packing))
    output = _as_tensor(backbone.norm(_run(backbone, runs, packed)))
    return output.reshape(*visible.shape[:2], -1)


def encode_tokens(
    backbone: VisionTransformer,
    images: Tensor,
    *,
    masks: Tensor | None = None,
    mask_token: Tensor | None = None,
) -> BlockTokens:
    """Return all tokens after the final norm.

    Args:
        backbone: From `build_backbone`.
        images: (B, 3, H, W), H and W multiples of the patch size.
        masks: (B, N) bool, True where `mask_token` takes the place of the patch's embedding, before
            its position is added, as in iBOT; None: nowhere.
        mask_token: (1, D).
    """
    tokens = _embed(backbone, images, masks, mask_token)
    tokens = _run(backbone, list(backbone.blocks), tokens)
    output = _as_tensor(backbone.norm(tokens))
    return BlockTokens(output[:, 0], output[:, backbone.num_prefix_tokens :])


def _run(
    backbone: VisionTransformer, runs: Sequence[Callable[[Tensor], Tensor]], tokens: Tensor
) -> Tensor:
    if backbone.grad_checkpointing and torch.is_grad_enabled():
        return _as_tensor(checkpoint_seq(runs, tokens))
    for run in runs:
        tokens = run(tokens)
    return tokens


def encode_blocks(
    backbone: VisionTransformer, images: Tensor, blocks: Sequence[int], *, norm: bool = True
) -> list[BlockTokens]:
    """Return the tokens after each of some blocks, in the order of `blocks`.

    Args:
        backbone: From `build_backbone`; gradients flow where it has any.
        images: (B, 3, H, W), H and W multiples of the patch size.
        blocks: Numbers of blocks, counted from 1 as the paper does: 12 is the last of a ViT-S.
        norm: Whether the tokens of every block go through the network's final norm, as DINO's
            linear evaluation takes them, or stay as the block left them.
    """
    tokens = _embed(backbone, images)
    found: dict[int, BlockTokens] = {}
    for number, block in enumerate(backbone.blocks, start=1):
        tokens = block(tokens)
        if number in blocks:
            output = _as_tensor(backbone.norm(tokens)) if norm else tokens
            found[number] = BlockTokens(output[:, 0], output[:, backbone.num_prefix_tokens :])
        if number >= max(blocks):
            break
    return [found[number] for number in blocks]


def encode_with_attention(
    backbone: VisionTransformer,
    images: Tensor,
    *,
    num_heads: int | None = None,
    attention_scale: Literal["head", "width"] = "head",
) -> TokenFeatures:
    """Return tokens, and queries, keys and CLS attention of the last block.

    Of the last block's attention map only the CLS row is computed beside the block's output.

    Args:
        backbone: From `build_backbone`.
        images: (B, 3, H, W), H and W multiples of the patch size.
        num_heads: Heads A that the queries and keys are split into for what is returned, whatever
            the block itself does (paper, B.2); None: the block's own.
        attention_scale: What `cls_attention` divides q·k by: "head" is sqrt(d), as in the network
            itself; "width" is sqrt(D), the letter of the paper's equation 1.
    """
    *blocks, last = backbone.blocks
    tokens = _embed(backbone, images)
    for block in blocks:
        tokens = block(tokens)
    tokens, heads = last(tokens, read="heads")
    output, query, key = _as_tensor(backbone.norm(tokens)), heads.query, heads.key
    if num_heads is not None:
        query, key = (by_head(each.transpose(1, 2).flatten(2), num_heads) for each in (query, key))
    prefix = backbone.num_prefix_tokens
    scale = (query.shape[-1] if attention_scale == "head" else backbone.embed_dim) ** -0.5
    cls_row = (query[:, :, :1] @ key.transpose(-2, -1) * scale).softmax(dim=-1)[:, :, 0]
    if prefix > 1:  # registers
        query, key = (torch.cat([e[:, :, :1], e[:, :, prefix:]], dim=2) for e in (query, key))
    return TokenFeatures(output[:, 0], output[:, prefix:], query, key, cls_row[:, :, prefix:])


def position_embedding(backbone: VisionTransformer, grid: tuple[int, int]) -> Tensor:
    """Return the position embedding for a grid of patches, (1, prefix + rows * columns, D).

    DINO's way: bicubic without antialiasing, and with 0.1 added to the size before the scale is
    taken. The 0.1 was meant against rounding but shifts every sample point, so weights trained
    with it need it (facebookresearch/dino, issue 8).
    """
    embedding = _as_tensor(backbone.pos_embed)
    native = backbone.patch_embed.grid_size
    if grid == tuple(native):
        return embedding
    prefix = embedding.shape[1] - native[0] * native[1]
    patches = embedding[:, prefix:].reshape(1, *native, -1).permute(0, 3, 1, 2)
    scale = [(new + 0.1) / old for new, old in zip(grid, native, strict=True)]
    patches = F.interpolate(patches.float(), scale_factor=scale, mode="bicubic")
    if tuple(patches.shape[-2:]) != grid:  # floor(scale * old) can miss only for huge grids
        raise ValueError(f"position embedding came out as {tuple(patches.shape[-2:])}, not {grid}")
    patches = patches.to(embedding.dtype).flatten(2).transpose(1, 2)
    return torch.cat([embedding[:, :prefix], patches], dim=1)


def _embed(
    backbone: VisionTransformer,
    images: Tensor,
    masks: Tensor | None = None,
    mask_token: Tensor | None = None,
) -> Tensor:
    """Return the tokens that enter the first block, (B, prefix + N, D)."""
    patches = backbone.patch_embed(images)  # (B, rows, columns, D)
    rows, columns = patches.shape[1:3]
    tokens = patches.flatten(1, 2)
    if masks is not None and mask_token is not None:
        tokens = torch.where(masks[..., None], mask_token.to(tokens.dtype), tokens)
    positions = position_embedding(backbone, (rows, columns))
    first = [_as_tensor(backbone.cls_token).expand(len(tokens), -1, -1)]
    if backbone.reg_token is not None:
        first.append(backbone.reg_token.expand(len(tokens), -1, -1))
    if backbone.no_embed_class:  # CLS and registers have no position
        tokens = torch.cat([*first, tokens + positions], dim=1)
    else:
        tokens = torch.cat([*first, tokens], dim=1) + positions
    return _as_tensor(backbone.norm_pre(backbone.pos_drop(tokens)))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Hold a network in evaluation mode, and put it back into its own, whatever happens."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def _is_plain(block: nn.Module) -> bool:
    """Return whether `training.models.vit_blocks` computes what the block would."""
    return (
        type(block) is Block
        and type(block.attn) is Attention
        and getattr(block.attn, "gate", None) is None
    )


def _as_tensor(value: object) -> Tensor:
    """Narrow what an untyped module returned."""
    if not isinstance(value, Tensor):
        raise TypeError(f"expected a tensor, not {type(value).__name__}")
    return value


def num_heads(backbone: VisionTransformer) -> int:
    """Return the attention heads of the last block, where objects are found."""
    last: Any = backbone.blocks[-1]  # a plain one, as `create_vit` has made sure
    return int(last.attn.num_heads)
