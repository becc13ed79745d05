import copy
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from training.models.vit import (
    build_backbone,
    encode,
    encode_tokens,
    encode_with_attention,
    position_embedding,
)
from wtours.errors import UsageError


def small(name="vit_tiny_patch16_224", **sizes):
    torch.manual_seed(0)
    return build_backbone(name, **{"img_size": 64, "depth": 2, **sizes}).eval()


def with_timms_blocks(backbone: VisionTransformer) -> VisionTransformer:
    """Return a copy that computes all of a block, in timm's own way."""
    theirs = copy.deepcopy(backbone)
    for block in theirs.blocks:
        block.__class__ = Block
    return theirs


def test_small_model_of_short_runs_has_its_sizes():
    backbone = build_backbone(
        "vit_tiny_patch16_224", img_size=96, patch_size=8, depth=4, embed_dim=192, num_heads=3
    )
    assert len(backbone.blocks) == 4
    assert position_embedding(backbone, (12, 12)).shape == (1, 1 + 12 * 12, 192)
    assert encode(backbone, torch.zeros(2, 3, 48, 48)).shape == (2, 192)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_base_patch16_clip_224"]
)
def test_tokens_are_those_of_timm_at_the_native_size(name):
    side = 4 * (14 if "patch14" in name else 16)
    backbone = small(name, img_size=side, embed_dim=192, num_heads=3)
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = with_timms_blocks(backbone).forward_features(images)
        features = encode_with_attention(backbone, images)
        cls_token = encode(backbone, images)
    torch.testing.assert_close(cls_token, expected[:, 0])
    torch.testing.assert_close(features.cls_token, expected[:, 0])
    torch.testing.assert_close(features.patch_tokens, expected[:, -16:])
    assert features.query.shape == features.key.shape == (2, 3, 1 + 16, 64)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_cls_attention_is_the_row_of_the_map_that_timm_computes(name):
    side = 4 * (14 if "patch14" in name else 16)
    backbone = small(name, img_size=side, embed_dim=192, num_heads=3)
    theirs = with_timms_blocks(backbone)
    attention: Any = theirs.blocks[-1].attn
    maps: list[Tensor] = []
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda module, inputs, output: maps.append(output))
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        theirs.forward_features(images)
        features = encode_with_attention(backbone, images)
    torch.testing.assert_close(features.cls_attention, maps[0][:, :, 0, -16:])
    row_sums = features.cls_attention.sum(-1)
    assert (row_sums < 1).all()  # CLS to CLS is left out


def test_tokens_without_a_mask_are_those_that_attention_is_read_of():
    backbone = small("vit_small_patch14_reg4_dinov2", img_size=56, embed_dim=192, num_heads=3)
    images = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        tokens, features = encode_tokens(backbone, images), encode_with_attention(backbone, images)
    torch.testing.assert_close(tokens.cls_token, features.cls_token)
    torch.testing.assert_close(tokens.patch_tokens, features.patch_tokens)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_a_masked_patch_shows_does_not_matter(checkpointing):
    backbone = small()
    backbone.set_grad_checkpointing(checkpointing)
    mask_token = torch.randn(1, backbone.embed_dim).requires_grad_()
    masks = torch.zeros(1, 16, dtype=torch.bool)
    masks[0, 5] = True  # row 1, column 1
    images = torch.randn(1, 3, 64, 64)
    changed = images.clone()
    changed[:, :, 16:32, 16:32] = 7
    tokens, of_changed = (
        encode_tokens(backbone, seen, masks=masks, mask_token=mask_token)
        for seen in (images, changed)
    )
    torch.testing.assert_close(tokens.patch_tokens, of_changed.patch_tokens)
    assert not torch.allclose(tokens.cls_token, encode(backbone, images))
    tokens.patch_tokens[0, 5, 0].backward()
    assert mask_token.grad is not None
    assert mask_token.grad.abs().sum() > 0


def test_scaling_by_the_width_flattens_the_cls_attention():
    backbone = small()
    images = 10 * torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        by_head, by_width = (
            encode_with_attention(backbone, images, attention_scale=scale).cls_attention
            for scale in ("head", "width")
        )
    # The scores differ by the factor sqrt(A), so do the logarithms of ratios of two weights.
    ratio = (by_head[..., 0] / by_head[..., 1]).log() / (by_width[..., 0] / by_width[..., 1]).log()
    torch.testing.assert_close(ratio, torch.full_like(ratio, 3**0.5), rtol=1e-3, atol=0)


def cubic(distance):
    """The convolution kernel of bicubic interpolation with torch's constant, -0.75."""
    d = abs(distance)
    if d <= 1:
        return 1.25 * d**3 - 2.25 * d**2 + 1
    return -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3


def test_position_embedding_is_sampled_where_dino_samples_it():
    backbone = small(img_size=224)
    with torch.no_grad():
        backbone.pos_embed[0, 1:] = torch.arange(14.0).repeat(14)[:, None]  # value = column
        resized = position_embedding(backbone, (7, 7))[0, 1:, 0].reshape(7, 7)
    place = 3.5 * 14 / 7.1 - 0.5  # of column 3 of 7 + 0.1; without the 0.1 it would be 6.5
    expected = sum(column * cubic(place - column) for column in (5, 6, 7, 8))
    torch.testing.assert_close(resized[:, 3], torch.full((7,), expected))


def test_position_embedding_of_a_wide_picture_has_its_rows_and_columns():
    backbone = small()
    assert position_embedding(backbone, (4, 4)) is backbone.pos_embed
    assert position_embedding(backbone, (3, 9)).shape == (1, 1 + 27, 192)
    assert encode(backbone, torch.zeros(1, 3, 48, 144)).shape == (1, 192)


@pytest.mark.parametrize("name", ["resnet18", "vit_medium_patch16_gap_240", "vit_samll_patch16"])
def test_a_model_that_is_no_plain_vit_is_refused_by_name(name):
    with pytest.raises(UsageError, match=name):
        build_backbone(name)


def kept_for_the_backward_pass(backbone, images):
    """The numbers that autograd keeps, and the gradients that it makes of them."""
    kept = 0

    def keep(value):
        nonlocal kept
        kept += value.numel()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        output = encode(backbone, images)
    gradients = torch.autograd.grad(output.square().sum(), list(backbone.parameters()))
    return kept, gradients


def test_activation_checkpointing_keeps_less_and_gives_the_same_gradients():
    backbone = build_backbone("vit_tiny_patch16_224", img_size=32, depth=4)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    all_kept, expected = kept_for_the_backward_pass(backbone, images)
    backbone.set_grad_checkpointing()
    kept, gradients = kept_for_the_backward_pass(backbone, images)
    assert kept < all_kept / 4
    torch.testing.assert_close(gradients, expected, rtol=0, atol=0)


@torch.no_grad()
def test_splitting_the_last_block_gives_more_and_narrower_heads_of_the_same_embeddings():
    backbone = small()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    own = encode_with_attention(backbone, images)
    split = encode_with_attention(backbone, images, num_heads=16)
    assert split.query.shape == (2, 16, 17, 12)
    for ours, theirs in ((split.query, own.query), (split.key, own.key)):
        assert torch.equal(ours.transpose(1, 2).flatten(2), theirs.transpose(1, 2).flatten(2))
    row = (split.query[:, :, :1] @ split.key.mT * 12**-0.5).softmax(-1)[:, :, 0, 1:]
    torch.testing.assert_close(split.cls_attention, row)
    assert torch.equal(split.patch_tokens, own.patch_tokens)  # the network is as it was
    same = encode_with_attention(backbone, images, num_heads=3)
    assert torch.equal(same.cls_attention, own.cls_attention)
