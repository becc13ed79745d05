"""A backbone on some patches of each image, against the tokens picked by hand, image by image."""

from typing import Any

import pytest
import torch
from torch import Tensor

from training.models.packing import packing_of
from training.models.vit import _embed, build_backbone, encode, encode_visible

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"name": "vit_tiny_patch16_224"},
    "registers and layer scale": {"name": "vit_small_patch14_reg4_dinov2", "patch_size": 16},
    "a norm before the blocks": {"name": "vit_base_patch16_clip_224"},
}


def build(kind: str = "plain", **sizes: Any) -> Any:
    torch.manual_seed(0)
    shape = {"img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 3}
    return build_backbone(**{**shape, **KINDS[kind], **sizes})


def some_images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def some_patches(views: int = 2, count: int = 4) -> tuple[Tensor, Tensor]:
    """Masks of very different sizes: all of an image is seen, and nothing of another."""
    visible = torch.rand(views, count, 16, generator=torch.Generator().manual_seed(2)) < 0.4
    visible[0, 0], visible[-1, -1] = True, False
    return visible, visible.sum(dim=-1)


def one_by_one(backbone: Any, images: Tensor, visible: Tensor) -> Tensor:
    """Return the CLS tokens of images whose hidden tokens are taken out before the blocks."""
    views = []
    for masks in visible:
        found = []
        for image, mask in zip(images, masks, strict=True):
            tokens, prefix = _embed(backbone, image[None]), backbone.num_prefix_tokens
            tokens = torch.cat([tokens[:, :prefix], tokens[:, prefix:][:, mask]], dim=1)
            for block in backbone.blocks:
                tokens = block(tokens)
            found.append(backbone.norm(tokens)[0, 0])
        views.append(torch.stack(found))
    return torch.stack(views)


def gradients(output: Tensor, backbone: Any) -> list[Tensor]:
    weights = torch.linspace(-1, 1, output.numel()).reshape(output.shape)
    found = torch.autograd.grad((output * weights).sum(), list(backbone.parameters()))
    return list(found)


@pytest.mark.parametrize("kind", KINDS)
def test_each_image_gives_what_its_visible_tokens_give_alone(kind):
    backbone, images, (visible, counts) = build(kind), some_images(), some_patches()
    ours = encode_visible(backbone, images, visible, counts)
    theirs = one_by_one(backbone, images, visible)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for found, expected in zip(gradients(ours, backbone), gradients(theirs, backbone), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_with_all_patches_it_is_the_whole_backbone_with_the_same_stochastic_depth(kind):
    backbone, images = build(kind, drop_path_rate=0.5).train(), some_images(8)
    torch.manual_seed(3)
    whole = encode(backbone, images)
    torch.manual_seed(3)
    visible = torch.ones(1, 8, 16, dtype=torch.bool)
    ours = encode_visible(backbone, images, visible, visible.sum(dim=-1))
    torch.testing.assert_close(ours[0], whole, rtol=1e-4, atol=1e-5)
    for found, expected in zip(
        gradients(ours[0], backbone), gradients(whole, backbone), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    torch.manual_seed(4)
    assert not torch.allclose(encode_visible(backbone, images, visible, visible.sum(-1))[0], whole)


def test_what_a_hidden_patch_shows_does_not_matter():
    backbone, images, (visible, counts) = build(), some_images(), some_patches()
    pixels = visible.any(dim=0).reshape(4, 1, 4, 4)
    pixels = pixels.repeat_interleave(16, -2).repeat_interleave(16, -1)
    assert not pixels.all()
    other = torch.where(pixels, images, 7.0)
    ours, theirs = (encode_visible(backbone, seen, visible, counts) for seen in (images, other))
    assert torch.equal(ours, theirs)


def test_activation_checkpointing_gives_the_same_gradients():
    backbone, images, (visible, counts) = build(), some_images(), some_patches()
    expected = gradients(encode_visible(backbone, images, visible, counts), backbone)
    backbone.set_grad_checkpointing()
    found = gradients(encode_visible(backbone, images, visible, counts), backbone)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_in_bfloat16_it_is_near_float32():
    backbone, images, (visible, counts) = build(), some_images(), some_patches()
    exact = encode_visible(backbone, images, visible, counts)
    with torch.autocast("cpu", torch.bfloat16):
        half = encode_visible(backbone, images, visible, counts)
    torch.testing.assert_close(half.float(), exact, rtol=0, atol=0.05)


def test_tokens_are_padded_to_the_longest_image_and_back():
    packing = packing_of(torch.tensor([2, 3, 1]), torch.device("cpu"))
    tokens = torch.arange(1.0, 7)[:, None]
    padded = packing.pad(tokens)
    assert padded[..., 0].tolist() == [[1, 2, 0], [3, 4, 5], [6, 0, 0]]
    assert torch.equal(packing.unpad(padded), tokens)
    assert packing.is_token[:, 0, 0].int().tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert packing.first.tolist() == [0, 2, 5]
    factors = torch.tensor([1.0, 0.0, 2.0])[:, None, None]
    dropped = packing.drop(lambda ones: ones * factors, tokens)
    assert dropped[:, 0].tolist() == [1, 2, 0, 0, 0, 12]


def test_compiled_blocks_leave_packed_tokens_to_the_ordinary_operators():
    backbone, images, (visible, counts) = build(), some_images(), some_patches()
    expected = encode_visible(backbone, images, visible, counts)
    for block in backbone.blocks:
        block.is_compiled = True
    assert torch.equal(encode_visible(backbone, images, visible, counts), expected)
