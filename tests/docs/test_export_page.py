"""The Python of docs/howto/export.md runs as written, and all three give the same features."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.tiny_run import make_run, tiny_config
from training.weights.export import export_run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "export.md"

pytestmark = [
    pytest.mark.medium,
    pytest.mark.filterwarnings("default"),  # torch's exporter warns of what it will deprecate
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder in which the run `venice_30` is exported to timm, to Hugging Face and to ONNX."""
    folder: Path = tmp_path_factory.mktemp("export")
    config = tiny_config("model.embed_dim=192", "model.head_hidden_dim=32")
    run = make_run(folder / "data" / "runs" / "venice_30", config)
    for target in ("timm", "hf", "onnx"):
        export_run(run, to=target)
    return folder


def model_of(code: str) -> Any:
    variables: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), variables)
    return variables["model"].eval()


@torch.no_grad()
def test_timm_hugging_face_and_onnx_give_the_same_features(folder, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("transformers")
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
