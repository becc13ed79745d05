"""What other programs load of a run, and what a run can be made of."""

import argparse
import functools
import hashlib
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from typer.testing import CliRunner

from tests.support.tiny_run import make_run, tiny_config
from training.engine.checkpoint import load_network
from training.engine.checkpoint_files import find_checkpoint
from training.models.vit import encode, encode_tokens
from training.weights.export import export_run, timm_arguments
from training.weights.official import import_released, load_released
from wtours.cli.app import app
from wtours.errors import CheckpointError

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "howto" / "export.md"
NATIVE = 32
CONFIG = tiny_config("model.depth=1", "model.embed_dim=192", "model.head_hidden_dim=32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return the folder in which the Python of docs/howto/export.md runs."""
    folder: Path = tmp_path_factory.mktemp("export")
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return make_run(folder / "data" / "runs" / "venice_30", CONFIG)


@pytest.fixture(scope="module")
def exported(run):
    """Return what exports the run, once for each target."""
    return functools.cache(lambda target: export_run(run, to=target))


@pytest.fixture(scope="module")
def teacher(run):
    return load_network(find_checkpoint(run))[1]


def some_images(pixels=NATIVE):
    return torch.randn(3, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def features_of(model, images):
    return model.eval()(images)


def test_timm_builds_the_teacher_from_its_file_or_folder_with_the_same_features(
    run, exported, teacher
):
    of_timm = exported("timm")
    assert of_timm.path == run / "exports" / "timm"
    weights = of_timm.path / "model.safetensors"
    name, arguments = CONFIG.model.backbone, timm_arguments(CONFIG)
    from_file = timm.create_model(name, num_classes=0, **arguments, checkpoint_path=str(weights))
    from_folder = timm.create_model(f"local-dir:{of_timm.path}", pretrained=True)
    expected = encode(teacher.backbone, some_images())
    for model in (from_file, from_folder):
        torch.testing.assert_close(features_of(model, some_images()), expected)
    built = eval(of_timm.how_to_load, {"timm": timm})
    torch.testing.assert_close(features_of(built, some_images()), expected)


def test_at_another_size_timm_interpolates_the_positions_in_another_way(exported, teacher):
    path = exported("timm").path
    model = timm.create_model(f"local-dir:{path}", pretrained=True, dynamic_img_size=True)
    ours, theirs = encode(teacher.backbone, some_images(48)), features_of(model, some_images(48))
    assert 0 < ((ours - theirs).norm() / ours.norm()).item() < 0.1


def test_transformers_loads_its_folder_with_the_same_features(exported, teacher):
    transformers = pytest.importorskip("transformers")
    model = eval(exported("hf").how_to_load, {"transformers": transformers})
    with torch.no_grad():
        pooled = model.eval()(some_images()).pooler_output
    torch.testing.assert_close(pooled, encode(teacher.backbone, some_images()))


def test_the_official_file_is_the_teacher_under_its_names_and_comes_back(run, teacher, tmp_path):
    of_dino = export_run(run, to="official", out=tmp_path / "teacher.pth")
    state = eval(of_dino.how_to_load, {"torch": torch})
    torch.testing.assert_close(state, dict(teacher.state_dict()), rtol=0, atol=0)
    assert {"backbone.pos_embed", "head.mlp.0.weight", "head.last_layer.weight_g"} <= set(state)
    config, network = load_released(of_dino.path)
    assert config.model.num_prototypes == CONFIG.model.num_prototypes
    torch.testing.assert_close(network.state_dict(), teacher.state_dict(), rtol=0, atol=0)


def write_as_released(path, teacher):
    """As DINO's training script saves: DDP's prefix, the options, the other parts."""
    weights = {f"module.{name}": value for name, value in teacher.state_dict().items()}
    options = argparse.Namespace(arch="vit_small", lr=5e-4, output_dir=".")
    torch.save({"student": weights, "teacher": weights, "args": options, "epoch": 100}, path)


def test_a_released_checkpoint_becomes_a_run_that_can_be_evaluated(teacher, tmp_path):
    path, run_dir = tmp_path / "checkpoint.pth", tmp_path / "runs" / "released"
    write_as_released(path, teacher)
    config, network = load_network(import_released(path, run_dir))
    expected = encode(teacher.backbone, some_images())
    torch.testing.assert_close(encode(network.backbone, some_images()), expected)
    assert config.data.global_crop_pixels == NATIVE
    with pytest.raises(CheckpointError, match="is a run already"):
        import_released(path, run_dir)


def test_a_backbone_alone_is_enough(teacher, tmp_path):
    path = tmp_path / "pretrain.pth"
    torch.save(dict(teacher.backbone.state_dict()), path)
    _, network = load_released(path)
    expected = encode(teacher.backbone, some_images())
    torch.testing.assert_close(encode(network.backbone, some_images()), expected)


class Hostile:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return (open, (str(self.victim), "w"))


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_hostile_pickle_is_refused_and_does_nothing(tmp_path, as_zip):
    path, victim = tmp_path / "evil.pth", tmp_path / "written"
    content = {"teacher": {"backbone.cls_token": Hostile(victim)}}
    if as_zip:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CheckpointError, match=r"evil.pth is refused: .*; nothing in it was run"):
        load_released(path)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no weights by name"),
        ({"teacher": {"epoch": 3}}, "holds no weights by name"),
        ({"layer1.weight": torch.zeros(2)}, r"not hold a ViT of DINO or DORA \(KeyError"),
    ],
)
def test_a_file_of_something_else_is_refused_with_its_name(tmp_path, content, message):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_released(path)


def test_a_file_that_is_absent_or_cut_off_is_refused(teacher, tmp_path):
    path = tmp_path / "cut.pth"
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        load_released(path)
    write_as_released(path, teacher)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"cut\.pth"):
        load_released(path)


def test_the_command_line_exports_imports_and_says_what_to_call(run, tmp_path):
    file, root = tmp_path / "teacher.pth", ("--root", str(tmp_path))
    result = CliRunner().invoke(app, ["export", str(run), "--to", "official", "--out", str(file)])
    assert result.exit_code == 0, result.output
    assert "weights_only=True" in result.output
    result = CliRunner().invoke(app, ["import", str(file), "--run", "theirs", *root])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "runs" / "theirs" / "checkpoints" / "step-00000000").is_dir()
    result = CliRunner().invoke(app, ["export", "theirs", *root])
    assert "timm.create_model(" in result.output


def test_onnx_runtime_computes_the_teachers_features_for_a_batch_of_any_size(exported, teacher):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    path = exported("onnx").path / "model.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert str(ROOT).encode() not in path.read_bytes()  # no path of ours
    stated = json.loads({each.key: each.value for each in model.metadata_props}["preprocessing"])
    assert stated["image_pixels"] == NATIVE
    session = onnxruntime.InferenceSession(str(path))
    for batch in (1, 2, 7):
        images = torch.randn(batch, 3, NATIVE, NATIVE)
        features, patches = session.run(["features", "patch_tokens"], {"image": images.numpy()})
        ours = encode_tokens(teacher.backbone, images)
        for found, expected in ((features, ours.cls_token), (patches, ours.patch_tokens)):
            torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)


def test_an_onnx_file_that_computes_something_else_is_not_written(run, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("training.weights.onnx_export.TOLERANCE", 0.0)
    with pytest.raises(CheckpointError, match=r"features differ from torch's by .* not written"):
        export_run(run, to="onnx", out=tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def model_of(code: str) -> Any:
    variables: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), variables)
    return variables["model"].eval()


@torch.no_grad()
def test_the_python_of_the_page_gives_the_same_features_three_times(folder, exported, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("transformers")
    for target in ("timm", "hf", "onnx"):
        exported(target)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    of_timm, of_hugging_face, of_onnx = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    model = model_of(of_timm)
    image = torch.rand(1, 3, *model.patch_embed.img_size)
    expected = model(image)
    variables: dict[str, Any] = {"images": image.numpy()}
    exec(compile(of_onnx, str(PAGE), "exec"), variables)
    np.testing.assert_allclose(variables["features"], expected.numpy(), atol=1e-4)
    pooled = model_of(of_hugging_face)(image).pooler_output
    torch.testing.assert_close(pooled, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("to", ["timm", "hf", "official", "detectron2", "seqtrack"])
def test_every_export_has_a_card_that_the_hubs_client_reads(tmp_path, to):
    from huggingface_hub import ModelCard

    run = make_run(tmp_path / "run", CONFIG, set_sha256="5e7" + 61 * "0")
    card = ModelCard.load(export_run(run, to=to).card)
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert card.data.library_name == {"timm": "timm", "hf": "transformers"}.get(to)
    weights = hashlib.sha256((find_checkpoint(run) / "model.safetensors").read_bytes()).hexdigest()
    for fact in ("5e7" + 61 * "0", weights, f"for {NATIVE} x {NATIVE} pixels", "patches of 8"):
        assert fact in card.text
    assert str(tmp_path) not in card.text
