"""One name for every kind of backbone; each gives what its own library gives."""

import functools
import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.support.tiny_run import make_run, tiny_config
from training.engine.checkpoint import load_network, load_trained
from training.engine.checkpoint_files import find_checkpoint
from training.evaluation.results import write_result
from training.models.vit import create_vit, encode, encode_blocks, encode_with_attention
from training.weights.backbones import Backbone, initial_backbone, open_backbone
from training.weights.export import export_run
from training.weights.huggingface import as_timm
from wtours.errors import CheckpointError, UsageError, WtoursError
from wtours.storage.hashing import sha256_file

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop

CONFIG = tiny_config("model.embed_dim=192", "model.head_hidden_dim=32")
SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(root):
    return make_run(root / "walk", CONFIG)


@pytest.fixture
def opened(root):
    return functools.partial(open_backbone, run_dir=lambda name: root / name)


def images(pixels=32):
    return torch.randn(2, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))


def features(backbone: Backbone):
    return encode(backbone.network, images(backbone.crop_pixels))


def test_a_run_is_its_teacher_by_name_by_folder_and_by_checkpoint(opened, run):
    expected = encode(load_network(find_checkpoint(run))[1].backbone, images())
    for text in ("walk", str(run), str(run / "checkpoints" / "step-00000120")):
        found = opened(text)
        torch.testing.assert_close(features(found), expected, rtol=0, atol=0)
        assert (found.folder, found.crop_pixels, found.patch_pixels) == (run, 32, 8)
        assert (found.description["kind"], found.description["step"]) == ("run", 120)


def test_random_weights_of_a_run_are_those_it_started_from(opened, run):
    found = opened("walk,random")
    expected = initial_backbone(CONFIG).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in found.network.state_dict().items())
    assert (found.folder, found.description["step"]) == (run, 0)
    assert found.description["sha256"] != opened("walk").description["sha256"]


def replaced_before_a_sha256(path, other, monkeypatch):
    """Let another process publish other weights after they are read, before their sha256 is."""
    real = hashlib.file_digest

    def replaced(file, name):
        if Path(file.name) == path:
            shutil.copy(other, path.with_name("new"))
            path.with_name("new").replace(path)
            with path.open("rb") as new:
                return real(new, name)
        return real(file, name)

    monkeypatch.setattr(hashlib, "file_digest", replaced)


def test_a_run_that_is_trained_again_while_it_is_opened_is_not_measured(root, monkeypatch):
    checkpoint = find_checkpoint(make_run(root / "again", CONFIG))
    weights = checkpoint / "model.safetensors"
    replaced_before_a_sha256(weights, weights, monkeypatch)
    with pytest.raises(WtoursError, match="was replaced or removed while it was read"):
        load_trained(checkpoint)


def test_a_file_of_weights_that_is_replaced_while_it_is_opened_is_not_measured(
    opened, run, tmp_path, monkeypatch
):
    path = export_run(run, to="official", out=tmp_path / "one.pth").path
    other = tmp_path / "other.pth"
    shutil.copy(path, other)
    replaced_before_a_sha256(path, other, monkeypatch)
    with pytest.raises(WtoursError, match="was replaced or removed while it was read"):
        opened(str(path))


def test_an_official_file_gives_the_teacher_without_becoming_a_run(opened, run, root, tmp_path):
    path = export_run(run, to="official", out=tmp_path / "dino.small16.pth").path
    found = opened(str(path))
    torch.testing.assert_close(features(found), features(opened("walk")), rtol=0, atol=0)
    assert found.description["sha256"] == sha256_file(path)
    assert found.folder == root / "dino-small16"
    assert not found.folder.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_timm_model_takes_a_files_weights_and_leaves_out_its_head(opened, tmp_path, suffix):
    torch.manual_seed(3)
    theirs: Any = timm.create_model("vit_tiny_patch16_224", num_classes=7).eval()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": theirs.state_dict()}, path)
    else:
        save_file(theirs.state_dict(), path)
    found = opened(f"timm:vit_tiny_patch16_224,{path}")
    with torch.no_grad():
        expected = theirs.forward_features(images(224))[:, 0]
    torch.testing.assert_close(features(found), expected)
    assert found.description["sha256"] == sha256_file(path)
    assert found.description["name"] == "timm-vit_tiny_patch16_224-weights"


def test_random_weights_of_timm_are_the_same_each_time(opened):
    one, two = (opened("timm:vit_tiny_patch16_224,random") for _ in range(2))
    assert torch.equal(features(one), features(two))
    assert one.description["sha256"] == two.description["sha256"]
    assert one.description["backbone"] == {
        "patch_size": 16,
        "depth": 12,
        "embed_dim": 192,
        "num_heads": 3,
    }


def transformers_model(kind):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config, model = {
        "vit": (transformers.ViTConfig(**SIZES, intermediate_size=96), transformers.ViTModel),
        "dinov2": (transformers.Dinov2Config(**SIZES), transformers.Dinov2Model),
        "registers": (
            transformers.Dinov2WithRegistersConfig(**SIZES),
            transformers.Dinov2WithRegistersModel,
        ),
    }[kind]
    built = model(config).eval().requires_grad_(False)
    for parameter in built.parameters():  # fresh registers, biases and scales are 0 or 1
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return built


@pytest.mark.parametrize("kind", ["vit", "dinov2", "registers"])
def test_a_model_of_transformers_gives_its_own_tokens_and_attention(kind):
    theirs = transformers_model(kind)
    theirs.set_attn_implementation("eager")
    ours = as_timm(theirs).eval().requires_grad_(False)
    expected = theirs(images(), output_attentions=True)
    found = encode_with_attention(ours, images())
    first = 1 + getattr(theirs.config, "num_register_tokens", 0)
    torch.testing.assert_close(found.cls_token, expected.last_hidden_state[:, 0])
    torch.testing.assert_close(found.patch_tokens, expected.last_hidden_state[:, first:])
    torch.testing.assert_close(found.cls_attention, expected.attentions[-1][:, :, 0, first:])


def test_a_folder_that_transformers_saved_is_a_backbone(opened, tmp_path):
    theirs = transformers_model("vit")
    theirs.save_pretrained(tmp_path / "their-vit")
    (tmp_path / "their-vit" / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "image_mean": [0.5, 0.5, 0.5],'
        ' "image_std": [0.5, 0.5, 0.5]}'
    )
    found = opened(f"hf:{tmp_path / 'their-vit'}")
    torch.testing.assert_close(features(found), theirs(images()).last_hidden_state[:, 0])
    assert found.normalization == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert found.crop_pixels == 32


def test_an_exported_run_comes_back(opened, run):
    folder = export_run(run, to="hf").path
    torch.testing.assert_close(features(opened(f"hf:{folder}")), features(opened("walk")))


@torch.no_grad()
def test_the_tokens_of_chosen_blocks_are_timms():
    torch.manual_seed(0)
    model = create_vit(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=4, reg_tokens=2
    ).eval()
    for norm in (True, False):
        expected: Any = model.forward_intermediates(
            images(), [1, 3], return_prefix_tokens=True, norm=norm, intermediates_only=True
        )
        found = encode_blocks(model, images(), (2, 4), norm=norm)
        for ours, (patches, prefix) in zip(found, expected, strict=True):
            torch.testing.assert_close(ours.cls_token, prefix[:, 0])
            torch.testing.assert_close(ours.patch_tokens, patches.flatten(2).transpose(1, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "nothing is not there; give a run"),
        ("nothing.pth", r"nothing\.pth cannot be read: No such file"),
        ("timm:resnet18,random", "'resnet18' is not a plain ViT with a CLS token"),
        ("timm:vit_tinny,random", "timm has no model 'vit_tinny'"),
        ("timm:vit_base_patch16_siglip_224,random", "is not a plain ViT with a CLS token"),
        ("timm:vit_tiny_patch16_224,gone.pth", r"gone\.pth cannot be read"),
        ("hf:/no/such/folder", "hf:/no/such/folder cannot be loaded"),
    ],
)
def test_a_name_of_nothing_usable_is_one_line(opened, text, message):
    with pytest.raises(WtoursError, match=message) as refusal:
        opened(text)
    assert "\n" not in str(refusal.value)


def test_weights_of_another_model_are_refused(opened, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"cls_token": torch.zeros(1, 1, 192)}, path)
    with pytest.raises(CheckpointError, match=r"other\.safetensors does not hold the weights of"):
        opened(f"timm:vit_tiny_patch16_224,{path}")


def test_a_model_without_weights_on_the_hub_says_what_to_say(opened):
    with pytest.raises(UsageError, match="say timm:vit_small_patch16_36x1_224,random or"):
        opened("timm:vit_small_patch16_36x1_224")


def test_a_result_takes_along_what_a_killed_evaluation_left_beside_it(opened, run):
    backbone = opened("walk")
    left = run / "eval" / ".tmp-4711-0a1b2c3d-knn.json"
    left.parent.mkdir(exist_ok=True)
    left.write_text("half")
    os.utime(left, (time.time() - 2 * 24 * 3600,) * 2)
    write_result(backbone, "knn", protocol={}, data={}, results={})
    assert not left.exists()
