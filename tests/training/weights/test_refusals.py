"""Weights that would publish numbers of nothing, and files that claim what they do not hold."""

import errno
import functools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.tiny_run import make_run, tiny_config
from tests.training.weights.test_backbones import SIZES, transformers_model
from training.engine.checkpoint_files import find_checkpoint
from training.models.loading import load_weights
from training.weights.backbones import open_backbone
from training.weights.export import export_run
from wtours.errors import CheckpointError, UsageError, WtoursError
from wtours.storage import atomic
from wtours.storage.hashing import canonical_json, sha256_file

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop


@pytest.fixture
def opened(tmp_path):
    return functools.partial(open_backbone, run_dir=lambda name: tmp_path / "runs" / name)


@pytest.fixture
def hf_folder(tmp_path):
    transformers_model("vit").save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def refused(opened, text):
    with pytest.raises(WtoursError) as caught:
        opened(str(text))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path, {"format": "pt"})


def edit(path, **changed):
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


NAME = "layers.1.mlp.fc1.weight"


def name_of(weights, end=NAME):
    """The name that this version of transformers saves a weight under."""
    return next(key for key in weights if key.endswith((end, "layer.1.intermediate.dense.weight")))


def test_a_folder_of_transformers_with_missing_weights_is_refused_not_drawn(opened, hf_folder):
    rewrite(hf_folder / "model.safetensors", lambda weights: weights.pop(name_of(weights)))
    message = refused(opened, f"hf:{hf_folder}")
    assert "does not hold the weights of its config: 1 are missing" in message


def test_weights_that_are_not_numbers_are_refused(opened, hf_folder, tmp_path):
    def spoil(weights):
        weights[name_of(weights)][0, 0] = torch.nan

    rewrite(hf_folder / "model.safetensors", spoil)
    assert "is not finite: NaN or infinite" in refused(opened, f"hf:{hf_folder}")
    run = make_run(tmp_path / "walk", tiny_config("model.embed_dim=192"))
    exported = export_run(run, to="official", out=tmp_path / "one.pth").path
    content = torch.load(exported, weights_only=True)
    content["teacher"]["backbone.norm.weight"][3] = torch.inf
    torch.save(content, exported)
    assert "norm.weight is not finite" in refused(opened, exported)


@pytest.mark.parametrize(
    "pixels",
    [
        {"image_std": [0.5, 0.0, 0.5]},
        {"image_std": [0.5, 0.5]},
        {"image_mean": ["x", 0, 0]},
        {"image_mean": 3},
        {"rescale_factor": 1.0},
        {"do_rescale": False, "rescale_factor": 1 / 255},
    ],
)
def test_a_normalization_that_is_none_is_refused(opened, hf_folder, pixels):
    file = hf_folder / "preprocessor_config.json"
    file.write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3} | pixels))
    assert "pixels" in refused(opened, f"hf:{hf_folder}")


def test_pixels_that_are_not_normalized_stay_so(opened, hf_folder):
    (hf_folder / "preprocessor_config.json").write_text('{"do_normalize": false}')
    assert opened(f"hf:{hf_folder}").normalization == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000])
def test_a_damaged_config_is_one_line(opened, hf_folder, file, text):
    (hf_folder / file).write_text(text)
    assert file in refused(opened, f"hf:{hf_folder}")


def test_configs_of_what_is_not_supported_are_refused(opened, hf_folder):
    file = hf_folder / "config.json"
    whole = file.read_text()
    for changed, reason in (
        ({"image_size": [32, 48]}, "only squares"),
        ({"num_channels": 4}, "4 channels"),
        ({"num_hidden_layers": 10**9}, "no ViT has"),
        ({"hidden_size": 10**9}, "no ViT has"),
    ):
        edit(file, **changed)
        assert reason in refused(opened, f"hf:{hf_folder}")
        file.write_text(whole)
    edit(file, image_size=[32, 32], patch_size=[8, 8])  # a pair of equal ones is a square
    assert opened(f"hf:{hf_folder}").crop_pixels == SIZES["image_size"]


@pytest.mark.parametrize("data", [b"", b"\xff" * 8, b"\x10" + bytes(7) + b"{" * 16])
def test_damaged_safetensors_are_one_line(opened, hf_folder, data):
    (hf_folder / "model.safetensors").write_bytes(data)
    assert str(hf_folder) in refused(opened, f"hf:{hf_folder}")
    assert "cannot be read as safetensors" in refused(
        opened, f"timm:vit_tiny_patch16_224,{hf_folder / 'model.safetensors'}"
    )


@pytest.mark.parametrize(
    "model", ["deit_tiny_distilled_patch16_224", "vit_tiny_r_s16_p8_224", "vit_small_r26_s32_224"]
)
def test_timm_models_that_are_not_what_they_seem_are_refused(opened, model):
    assert "is not a plain ViT with a CLS token" in refused(opened, f"timm:{model},random")


def test_an_exported_folder_that_claims_huge_sizes_takes_no_memory(opened, tmp_path):
    run = make_run(tmp_path / "walk", tiny_config("model.embed_dim=192"))
    folder = export_run(run, to="hf").path
    config = json.loads((folder / "config.json").read_text())
    for sizes in ({"depth": 10**9}, {"embed_dim": 192 * 10**4}, {"img_size": 8 * 10**5}):
        edit(folder / "config.json", model_args=config["model_args"] | sizes)
        assert "does not hold the weights" in refused(opened, f"hf:{folder}") or "depth" in sizes
    damage: list[dict[str, object]] = [
        {"model_args": 3},
        {"pretrained_cfg": {}},
        {"architecture": None},
    ]
    for changed in damage:
        edit(folder / "config.json", **(config | changed))
        assert "config.json" in refused(opened, f"hf:{folder}")


def tampered(checkpoint, change):
    state = json.loads((checkpoint / "state.json").read_text())
    change(state)
    (checkpoint / "state.json").write_bytes(canonical_json(state))
    receipt = json.loads((checkpoint / "receipt.json").read_text())
    for record in receipt["files"]:
        path = checkpoint / record["path"]
        record |= {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    (checkpoint / "receipt.json").write_bytes(canonical_json(receipt))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["config"]["model"].update(num_prototypes=10**12),
        lambda state: state["config"]["model"].update(depth=10**9),
        lambda state: state["config"]["model"].update(head_hidden_dim=10**9),
        lambda state: state.pop("config"),
        lambda state: state.pop("data"),
        lambda state: state.update(data=[1]),
        lambda state: state.update(step="far"),
    ],
)
def test_a_state_that_claims_another_network_is_one_line(opened, tmp_path, change):
    run = make_run(tmp_path / "walk", tiny_config("model.embed_dim=192"))
    tampered(find_checkpoint(run), change)
    assert "step-00000120" in refused(opened, run)


def test_what_does_not_fit_is_named_once_for_each_kind():
    network = torch.nn.Linear(2, 3)
    for weights, reason in (
        ({"weight": torch.zeros(3, 2)}, "bias missing"),
        ({**network.state_dict(), "a": torch.zeros(1), "b": torch.zeros(1)}, "a and 1 more not of"),
        (
            {"weight": torch.zeros(4, 2), "bias": torch.zeros(3)},
            "weight is 4x2, not 3x2: of another size",
        ),
    ):
        with pytest.raises(CheckpointError, match=reason):
            load_weights(network, weights, "FILE is not it")


def test_a_head_split_that_the_official_format_cannot_say_is_said(tmp_path):
    usual = make_run(tmp_path / "usual", tiny_config("model.embed_dim=192", "model.num_heads=3"))
    assert "attention heads" not in export_run(usual, to="official").how_to_load
    other = make_run(tmp_path / "other", tiny_config("model.embed_dim=192", "model.num_heads=6"))
    told = export_run(other, to="official").how_to_load
    assert "build it with 6 attention heads: the file cannot say so" in told


def test_a_full_disk_ends_an_export_in_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    run = make_run(tmp_path / "walk", tiny_config("model.embed_dim=192"))

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "fsync_tree", full)
    for target in ("official", "hf", "detectron2", "seqtrack"):
        with pytest.raises(WtoursError, match="disk full"):
            export_run(run, to=target, out=tmp_path / "out" / target)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_weights_that_are_larger_than_their_file_are_refused(opened, tmp_path):
    path = tmp_path / "huge.pth"
    torch.save({"teacher": {"cls_token": torch.zeros(1).expand(10**6, 10**6)}}, path)
    assert "claims larger weights than it holds" in refused(opened, path)


def test_a_width_that_is_no_multiple_of_a_head_is_refused(opened, tmp_path):
    run = make_run(tmp_path / "walk", tiny_config())  # of width 32 or the like
    config = tiny_config()
    if config.model.embed_dim and config.model.embed_dim % 64:
        path = export_run(run, to="official", out=tmp_path / "narrow.pth").path
        assert "for each attention head" in refused(opened, path)
    with pytest.raises(UsageError):
        opened("timm:no_such_model,random")
