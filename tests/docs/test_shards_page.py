"""docs/reference/shards.md against the code: its lists of fields are whole and its examples run."""

import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.sharded_videos import publish_video
from tests.support.video_clips import write_clip
from wtours.sharding.build import build_shards
from wtours.shards.params import ShardParams
from wtours.shards.schema import INDEX_SCHEMA, Dataset, ShardRecord, VideoRecord
from wtours.workspace.layout import Layout

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "shards.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("docs")
    layout = Layout(folder / "data")
    publish_video(
        layout,
        "walk",
        write_clip(folder / "walk.mp4", source="testsrc2=size=96x64:rate=30:duration=2"),
    )
    build_shards(layout, ["walk"], params=ShardParams(shard_seconds=1))
    return folder


def run_example(workspace: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> dict[str, Any]:
    """Run the only example that uses a package, as a reader would, and return its variables."""
    (example,) = (code for code in EXAMPLES if re.search(rf"(import|from) {package}\b", code))
    monkeypatch.chdir(workspace)
    variables: dict[str, Any] = {}
    exec(compile(example, "docs/reference/shards.md", "exec"), variables)
    return variables


def test_the_clip_example_runs(workspace, monkeypatch):
    frames = run_example(workspace, monkeypatch, "wtours.shards")["frames"]
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 4


@pytest.mark.parametrize("name", ["wtours.shards", "wtours.shards.sampler"])
def test_examples_of_docstrings_run(workspace, monkeypatch, name):
    monkeypatch.chdir(workspace)
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried >= 5
    assert failed == 0


@pytest.mark.medium
def test_the_quick_start_of_the_readme_runs_as_written(workspace, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(workspace)
    # The demo leaves its shards there.
    Path("demo-data").symlink_to("data")
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(compile(example.replace("=1.0", "=0.25"), "README.md", "exec"), {})  # a walk of 2 s
    assert capsys.readouterr().out.splitlines() == ["torch.Size([8, 4, 64, 96, 3])"] * 10


@pytest.mark.medium
@pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning"  # webdataset opens local tars and leaves them to the GC
)
def test_the_webdataset_example_runs(workspace, monkeypatch):
    pytest.importorskip("webdataset")
    variables = run_example(workspace, monkeypatch, "webdataset")
    assert variables["picture"].shape == (64, 96, 3)
    assert variables["pts_us"] == 1_966_667


@pytest.mark.medium
def test_the_hugging_face_example_runs(workspace, monkeypatch, tmp_path):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    variables = run_example(workspace, monkeypatch, "datasets")
    assert np.asarray(variables["picture"]).shape == (64, 96, 3)
    assert variables["pts_us"] == 1_966_667


@pytest.mark.parametrize(
    "names",
    [
        INDEX_SCHEMA.names,
        Dataset.model_fields,
        VideoRecord.model_fields,
        ShardRecord.model_fields,
        ShardParams.__slots__,
    ],
    ids=["index", "dataset", "video", "shard", "params"],
)
def test_every_name_is_in_the_document(names):
    assert [name for name in names if f"`{name}`" not in TEXT] == []
