"""Each write, fsync and rename of a stage fails in turn: nothing wrong, and the rerun completes.

`test_analyze_disk.py` and `test_shard_disk_full.py` do the same to `analyze` and `shard`.
"""

import functools
import itertools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image

from tests.support.faulty_disk import FAILING, FULL, assert_survives
from tests.support.report_workspace import entry, make_workspace
from tests.support.sharded_videos import files_of, publish_video
from tests.support.tiny_run import ONE_PROCESS, make_run, tiny_config
from tests.support.video_clips import write_clip
from training.data.source import DataIdentity
from training.engine.checkpoint import save_checkpoint
from training.engine.checkpoint_files import find_damage, newest_checkpoint
from training.engine.setup import build_state
from training.engine.state import TrainState
from training.evaluation.knn import evaluate_knn
from training.weights.backbones import open_backbone
from training.weights.export import export_run
from wtours.acquire.add_video import Claims, add_walk
from wtours.acquire.download import download_videos
from wtours.acquire.own_walks import own_walks
from wtours.errors import DownloadError, ShardError
from wtours.report.build import build_report
from wtours.sharding.build import build_shards
from wtours.sharding.repair import repair_shards
from wtours.shards.params import ShardParams
from wtours.storage.receipts import files_intact, read_receipt
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium
ERRORS = pytest.mark.parametrize("number", [FULL, FAILING])
SMALL = tiny_config("model.head_hidden_dim=32")
PARAMS = ShardParams(frames_per_second="5", shard_seconds=1, short_side=16)
Fresh = Callable[[], Path]


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[Path], Fresh]:
    """Returns what makes a new copy of a folder each time."""
    numbers = itertools.count()

    def copies(source: Path) -> Fresh:
        def copy() -> Path:
            target = tmp_path / f"copy{next(numbers)}"
            shutil.copytree(source, target)
            return target

        return copy

    return copies


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "walk.mp4"
    return write_clip(path, source="testsrc2=size=32x32:rate=10:duration=2")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("trained")
    make_run(folder / "run", SMALL)
    for split, name in itertools.product(("train", "val"), ("cat", "dog")):
        (folder / split / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), "red" if name == "cat" else "blue").save(
            folder / split / name / "0.png"
        )
    return folder


def visible(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder that are not hidden."""
    return {
        name: data
        for name, data in files_of(folder).items()
        if not any(part.startswith(".") for part in name.split("/"))
    }


def published_video(folder: Path) -> dict[str, bytes]:
    """Return the files that a "done" receipt of a download vouches for, and the manifest."""
    layout, found = Layout(folder / "root"), dict[str, bytes]()
    if (folder / "mine.toml").exists():
        found["mine.toml"] = (folder / "mine.toml").read_bytes()
    receipt = read_receipt(layout.video_receipt("walk"))
    if receipt is not None and receipt.status == "done":
        assert files_intact(receipt, layout.video_dir("walk"))
        found |= {name: data for name, data in visible(layout.videos_dir).items() if "walk" in name}
        found["ATTRIBUTION.md"] = b""  # written for people after the videos; may be behind
    return found


@ERRORS
def test_download(tmp_path, clip, fresh, number):
    (tmp_path / "empty").mkdir()
    walk = entry("walk", sources=("file:walk.mp4",))

    def download(folder: Path) -> None:
        report = download_videos([walk], Layout(folder / "root"), from_dir=clip.parent)
        for reason in report.failed.values():
            raise DownloadError(reason)

    seen = assert_survives(fresh(tmp_path / "empty"), download, published_video, number=number)
    assert min(seen[name] for name in ("write", "fsync", "replace")) >= 3


def test_add(tmp_path, clip, fresh):
    (tmp_path / "empty").mkdir()

    def add(folder: Path) -> None:
        layout, manifest = Layout(folder / "root"), folder / "mine.toml"
        if not manifest.exists():  # as a user who was told that it failed
            (walk,) = own_walks([str(clip)], layout)
            add_walk(walk, "walk", manifest, layout, claims=Claims())

    seen = assert_survives(fresh(tmp_path / "empty"), add, published_video)
    assert min(seen[name] for name in ("write", "fsync", "replace")) >= 4


@ERRORS
def test_repair(tmp_path, clip, fresh, number):
    layout = Layout(tmp_path / "begun")
    publish_video(layout, "walk", clip)
    directory = build_shards(layout, ["walk"], params=PARAMS).directory
    (directory / "walk-00001.tar").unlink()
    (directory / "index.parquet").write_bytes(b"rotten")

    def repair(folder: Path) -> None:
        report = repair_shards(Layout(folder), "default")
        for problem in report.problems:
            raise ShardError(problem.message)

    def shards(folder: Path) -> Mapping[str, bytes]:
        return visible(Layout(folder).shards_dir("default"))

    seen = assert_survives(fresh(layout.root), repair, shards, number=number)
    assert seen["read"] >= 10 or number == FULL
    assert min(seen[name] for name in ("write", "fsync", "replace")) >= 4


@ERRORS
def test_a_checkpoint_is_saved_and_an_old_one_purged(run_folder, fresh, number):
    @functools.cache
    def state() -> TrainState:
        built = build_state(SMALL, ONE_PROCESS)
        built.step = 140
        return built

    def save(folder: Path) -> None:
        data = DataIdentity("0" * 64, 1)
        save_checkpoint(folder / "run", state(), config=SMALL, data=data, keep_last=1)

    def whole(folder: Path) -> dict[str, bytes]:
        for path in (folder / "run/checkpoints").glob("step-*"):
            assert find_damage(path) is None
        newest = newest_checkpoint(folder / "run")
        assert newest is not None
        return {"newest": files_of(newest)["state.json"]}

    seen = assert_survives(fresh(run_folder), save, whole, number=number)
    assert seen["write"] >= 4
    assert seen["replace"] == 2


@pytest.mark.parametrize("target", ["timm", "official"])
def test_export(run_folder, fresh, target):
    def export(folder: Path) -> None:
        export_run(folder / "run", to=target)

    def exports(folder: Path) -> dict[str, bytes]:
        return visible(folder / "run/exports")

    assert assert_survives(fresh(run_folder), export, exports)["replace"] >= 1


def test_an_evaluation(run_folder, fresh):
    def evaluate(folder: Path) -> None:
        backbone = open_backbone(str(folder / "run"), Path)
        evaluate_knn(backbone, str(run_folder / "train"), str(run_folder / "val"))

    def results(folder: Path) -> dict[str, bytes]:
        return visible(folder / "run/eval")

    assert assert_survives(fresh(run_folder), evaluate, results)["replace"] >= 1


@pytest.mark.parametrize(
    "every", [pytest.param(1, marks=pytest.mark.slow), 29]
)  # two seconds for each: a page and its figures
def test_report(tmp_path, fresh, every):
    _, entries = make_workspace(tmp_path / "begun")

    def report(folder: Path) -> None:
        build_report(Layout(folder), entries)

    def reports(folder: Path) -> dict[str, bytes]:
        return visible(Layout(folder).reports_dir)

    seen = assert_survives(fresh(tmp_path / "begun"), report, reports, every=every)
    assert seen["replace"] >= 6 if every == 1 else seen["replace"] >= 1
