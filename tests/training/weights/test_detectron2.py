"""Backbones for detectron2 and SeqTrack: converted weights give the same features there."""

import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.tiny_run import make_run, tiny_config
from training.data.normalization import Normalization, normalized
from training.models.vit import create_vit, encode_blocks
from training.weights.backbones import open_backbone
from training.weights.detectron2 import FeaturePyramid, LayerDecay, pyramid_of
from training.weights.export import export_run
from wtours.errors import UsageError

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop

CONFIG = tiny_config("model.depth=4")
SIZES = {"embed_dim": 48, "depth": 4, "num_heads": 3, "patch_size": 8}
BLOCKS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("detection") / "run", CONFIG)


@pytest.fixture(scope="module")
def network(run):
    return open_backbone(str(run), lambda name: run).network


def images(height=32, width=32):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


class TheirBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
        )
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
        )

    def forward(self, tokens, num_heads):
        split = self.attn["qkv"](self.norm1(tokens)).unflatten(-1, (3, num_heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        tokens = tokens + self.attn["proj"](mixed)
        return tokens + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(tokens))))


class TheirViT(nn.Module):
    """A ViT written from the description of detectron2's: its names, no CLS token, no last norm."""

    def __init__(self, num_positions, width=48, depth=4, patch=8, norm=False):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.pos_embed = nn.Parameter(torch.zeros(1, num_positions, width))
        self.blocks = nn.ModuleList(TheirBlock(width) for _ in range(depth))
        if norm:
            self.norm = nn.LayerNorm(width, eps=1e-6)

    @torch.no_grad()
    def forward(self, pixels, positions):
        tokens = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2) + positions
        for block in self.blocks:
            tokens = block(tokens, 3)
        return tokens


@torch.no_grad()
def without_cls(network, pixels):
    """The run's own blocks on its patches alone."""
    tokens = network.patch_embed(pixels).flatten(1, 2) + network.pos_embed[:, 1:]
    return network.blocks(tokens)


def test_detectron2s_names_give_the_blocks_of_the_run_without_its_cls_token(run, network):
    exported = export_run(run, to="detectron2")
    weights = torch.load(exported.path, weights_only=True)["model"]
    vit = TheirViT(num_positions=17)
    theirs = nn.ModuleDict({"backbone": nn.ModuleDict({"net": vit})})
    theirs.load_state_dict(weights)  # every name, and no other
    found = vit(images(), vit.pos_embed[:, 1:])
    torch.testing.assert_close(found, without_cls(network, images()), rtol=1e-4, atol=1e-4)
    (full,) = encode_blocks(network, images(), (4,), norm=False)
    gap = (found - full.patch_tokens).norm() / full.patch_tokens.norm()
    assert 0 < gap < 0.5  # what leaving out the CLS token changes


# Theirs imports from where timm has its layers no longer.
@pytest.mark.filterwarnings("ignore:Importing from timm.models.layers:FutureWarning")
def test_detectron2_itself_loads_them_and_gives_the_same(run, network):
    vit = pytest.importorskip("detectron2.modeling.backbone.vit")
    weights = torch.load(export_run(run, to="detectron2").path, weights_only=True)["model"]
    theirs = vit.ViT(
        img_size=32, pretrain_img_size=32, norm_layer=partial(nn.LayerNorm, eps=1e-6), **SIZES
    )
    theirs.load_state_dict({k.removeprefix("backbone.net."): v for k, v in weights.items()})
    with torch.no_grad():
        found = theirs.eval()(images())["last_feat"].flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, without_cls(network, images()), rtol=1e-4, atol=1e-4)


def test_a_detector_gives_pixels_of_imagenet_to_weights_that_ask_for_others(tmp_path):
    transformers = pytest.importorskip("transformers")  # seconds, in one worker of the tests
    sizes: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3}
    torch.manual_seed(1)
    theirs = transformers.ViTModel(
        transformers.ViTConfig(**sizes, intermediate_size=192, image_size=32, patch_size=8),
        add_pooling_layer=False,
    )
    theirs.save_pretrained(tmp_path)
    halves = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    transformers.ViTImageProcessor(
        image_mean=list(halves.mean), image_std=list(halves.std), size={"height": 32, "width": 32}
    ).save_pretrained(tmp_path)
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    network = open_backbone(f"hf:{tmp_path}", lambda name: tmp_path / name).network
    pyramid = pyramid_of(f"hf:{tmp_path}", BLOCKS).eval()
    with torch.no_grad():
        expected = encode_blocks(network, normalized(pixels, halves), BLOCKS, norm=False)
        found = encode_blocks(pyramid.network, normalized(pixels), BLOCKS, norm=False)
    for ours, others in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.patch_tokens, others.patch_tokens, rtol=1e-4, atol=1e-4)


def test_detectron2s_fpn_takes_the_pyramid(run):
    fpn = pytest.importorskip("detectron2.modeling.backbone.fpn")
    from training.weights.detectron2 import detectron2_backbone

    bottom_up = detectron2_backbone(str(run), blocks=BLOCKS)
    names = [f"block{number}" for number in BLOCKS]
    whole = fpn.FPN(bottom_up=bottom_up, in_features=names, out_channels=16)
    found = whole(images(64, 32))
    assert {name: tuple(each.shape[1:]) for name, each in found.items()} == {
        "p1": (16, 32, 16),
        "p2": (16, 16, 8),
        "p3": (16, 8, 4),
        "p4": (16, 4, 2),
    }


def test_seqtracks_rules_for_weights_of_mae_give_the_same_features(run, network):
    """It takes "model", drops the CLS token and its position, and loads all else by name."""
    exported = export_run(run, to="seqtrack")
    weights = torch.load(exported.path, weights_only=True)["model"]
    del weights["cls_token"]
    weights["pos_embed"] = weights["pos_embed"][:, 1:]
    theirs = TheirViT(num_positions=16, norm=True)
    theirs.load_state_dict(weights)
    found = theirs.norm(theirs(images(), theirs.pos_embed))
    expected = network.norm(without_cls(network, images()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert exported.how_to_load.endswith("seqtrack.pth")


def test_the_pyramid_holds_the_maps_of_the_run_at_four_strides(network):
    pyramid = FeaturePyramid(network, BLOCKS).eval()
    with torch.no_grad():
        found = pyramid(images(48, 32))
    assert pyramid.strides == {"block1": 2, "block2": 4, "block3": 8, "block4": 16}
    assert {name: tuple(each.shape) for name, each in found.items()} == {
        "block1": (2, 48, 24, 16),
        "block2": (2, 48, 12, 8),
        "block3": (2, 48, 6, 4),
        "block4": (2, 48, 3, 2),
    }
    third, fourth = encode_blocks(network, images(48, 32), (3, 4), norm=False)
    at = found["block3"].flatten(2).transpose(1, 2)
    torch.testing.assert_close(at, third.patch_tokens)
    expected = fourth.patch_tokens.unflatten(1, (3, 2, 2, 2)).amax(dim=(2, 4))
    torch.testing.assert_close(found["block4"].permute(0, 2, 3, 1), expected)


def test_a_loss_on_the_pyramid_trains_the_network():
    torch.manual_seed(0)
    network = create_vit("vit_tiny_patch16_224", img_size=32, **SIZES)
    pyramid = FeaturePyramid(network.requires_grad_(False), BLOCKS)
    torch.autograd.backward(sum((each**2).mean() for each in pyramid(images()).values()))
    without = [n for n, p in pyramid.named_parameters() if p.grad is None]
    assert without == ["network.norm.weight", "network.norm.bias"]  # maps are before the last norm


def test_other_blocks_are_refused(network):
    for blocks in ((4, 6, 8, 12), (1, 2, 3), (1, 1, 2, 3)):
        with pytest.raises(UsageError, match="must be four different ones of 1 to 4"):
            FeaturePyramid(network, blocks)


@pytest.mark.parametrize(
    ("name", "layers_above"),
    [
        ("backbone.bottom_up.net.network.pos_embed", 13),
        ("backbone.bottom_up.net.network.cls_token", 13),
        ("backbone.bottom_up.net.network.patch_embed.proj.weight", 13),
        ("backbone.bottom_up.net.network.blocks.0.attn.qkv.weight", 12),
        ("backbone.bottom_up.net.network.blocks.11.mlp.fc1.bias", 1),
        ("backbone.bottom_up.net.stages.0.0.weight", 0),
        ("roi_heads.box_head.0.fc1.weight", 0),
    ],
)
def test_the_learning_rate_falls_by_layers(name, layers_above):
    assert LayerDecay(rate=0.75, depth=12)(name) == pytest.approx(0.75**layers_above)
