"""What is fuzzed: for each kind of file that wtours reads, a small intact set and its readers.

A reader goes through a folder as the commands do. `resign` makes receipts vouch for files that were
changed, as somebody would who tampers with both: what the parsers behind the sha256 do with them.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.support.analyze_cases import write_detections, write_scenes
from tests.support.report_workspace import entry, make_workspace
from tests.support.shard_set import write_shard_set
from tests.support.sharded_videos import publish_video
from wtours.analyze.detectors.precomputed import PrecomputedDetector
from wtours.analyze.pipeline import analyze_videos
from wtours.diagnostics.status import video_states
from wtours.diagnostics.verify_workspace import verify_workspace
from wtours.errors import WtoursError
from wtours.lockfile.lock import lock_shards, read_lock
from wtours.lockfile.sync import sync_shards
from wtours.report.data import detections_on, load_videos
from wtours.sharding.anonymize.blur import Blur
from wtours.sharding.anonymize.params import with_blur
from wtours.sharding.build import build_shards
from wtours.sharding.repair import repair_shards
from wtours.shards import ClipDataset, ShardIndex, stream_clips
from wtours.shards.contact_sheet import sample_grid
from wtours.shards.params import ShardParams
from wtours.shards.statistics import shards_info
from wtours.shards.verify import verify_shards
from wtours.storage.hashing import canonical_json, sha256_file
from wtours.workspace.attribution import write_attribution
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import load_manifest
from wtours.workspace.manifest_edit import add_video as add_to_manifest
from wtours.workspace.manifest_edit import pin_videos
from wtours.workspace.videos import checked_video

Step = Callable[[], object]
SMALL = ShardParams(frames_per_second="5", shard_seconds=1, short_side=16)


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes:
        make: Writes an intact set into an empty folder.
        files: Which of its files are changed: patterns below the folder.
        steps: The readers of the folder; each may refuse it in one line.
        resign: Makes receipts agree with the files again.
    """

    make: Callable[[Path], None]
    files: tuple[str, ...]
    steps: Callable[[Path], Iterable[Step]]
    resign: Callable[[Path], None] = lambda folder: None


def resign_receipts(folder: Path) -> None:
    """Set bytes and sha256 in every receipt to those of the files that it names."""
    for path in sorted(folder.rglob("*.json")):
        try:
            receipt = json.loads(path.read_bytes())
            for record in receipt["files"]:
                file = path.parent / record["path"]
                record |= {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
            path.write_bytes(canonical_json(receipt))
        except (ValueError, TypeError, LookupError, AttributeError, OSError, RecursionError):
            continue  # it is the receipt itself that was changed


def _make_workspace(folder: Path) -> None:
    make_workspace(folder)


def _workspace_steps(folder: Path) -> Iterable[Step]:
    layout, entries = Layout(folder), [entry("alpha"), entry("beta"), entry("gamma")]
    yield lambda: video_states(entries, layout)
    yield lambda: verify_workspace(layout)
    yield lambda: [video.objects for v in load_videos(layout, entries, threshold=0.1)
                   if (video := v.measured)]  # fmt: skip
    yield lambda: detections_on(layout, "alpha", [0, 20], threshold=0.1)
    yield lambda: checked_video(layout, "alpha")
    yield lambda: write_attribution(layout)


def _make_stages(folder: Path) -> None:
    """Write a video with its analysis and its shards, as the commands leave them."""
    clip = write_scenes(folder / "clip.mp4", seconds=(0.8, 0.8), rate=10, size="32x32")
    rows = [(i * 100_000, f"thing {i % 3}", 0.5, 1.0, 2.0, 3.0, 4.0) for i in range(16)]
    write_detections(folder / "truth.parquet", rows)
    layout = Layout(folder / "root")
    publish_video(layout, "walk", clip)
    analyze_videos(layout, ["walk"], detector=f"file:{folder / 'truth.parquet'}")
    build_shards(layout, ["walk"], params=SMALL)


def _stage_steps(folder: Path) -> Iterable[Step]:
    layout, detector = Layout(folder / "root"), f"file:{folder / 'truth.parquet'}"
    yield lambda: analyze_videos(layout, ["walk"], detector=detector)
    yield lambda: build_shards(layout, ["walk"], params=SMALL)
    yield lambda: repair_shards(layout, "default")


def _make_shards(folder: Path) -> None:
    write_shard_set(folder / "set", num_frames=6, size=(16, 24), videos=("one", "two"))


def _resign_shards(folder: Path) -> None:
    """Make dataset.json vouch for its files again."""
    try:
        dataset = json.loads((folder / "set/dataset.json").read_bytes())
        index = folder / "set/index.parquet"
        dataset["index"] |= {"bytes": index.stat().st_size, "sha256": sha256_file(index)}
        for shard in dataset["shards"]:
            tar = folder / "set" / f"{shard['shard']}.tar"
            shard |= {"bytes": tar.stat().st_size, "sha256": sha256_file(tar)}
        dataset["bytes"] = sum(shard["bytes"] for shard in dataset["shards"])
        (folder / "set/dataset.json").write_bytes(canonical_json(dataset))
    except (ValueError, TypeError, LookupError, AttributeError, OSError, RecursionError):
        pass


def _shard_steps(folder: Path) -> Iterable[Step]:
    directory = folder / "set"
    clip: dict[str, Any] = {"clip_length": 2, "frame_interval_seconds": 1.0}

    def clips() -> None:
        dataset = ClipDataset(ShardIndex.open(directory), clip_length=2)
        for number in (0, len(dataset) - 1):
            dataset[number].decode(min_short_side=8)

    yield clips
    yield lambda: verify_shards(directory)
    yield lambda: shards_info(directory)
    yield lambda: sample_grid(directory, folder / "grid.png", num_clips=1, **clip)
    yield lambda: [c.decode() for c in stream_clips(str(directory), **clip)]
    yield lambda: [c.decode() for c in stream_clips([*map(str, directory.glob("*.tar"))], **clip)]


def _make_lock(folder: Path) -> None:
    """Write the lock of a set, and the video that the set is made of."""
    (folder / "videos").mkdir()
    clip = write_scenes(folder / "videos/walk.mp4", seconds=(0.8, 0.8), rate=10, size="32x32")
    layout = Layout(folder / "root")
    publish_video(layout, "walk", clip)
    build_shards(layout, ["walk"], name="walks", params=SMALL)
    lock_shards(layout, layout.shards_dir("walks"), folder / "walks.lock", deep=True)


def _lock_steps(folder: Path) -> Iterable[Step]:
    def sync() -> None:
        lock = read_lock(folder / "walks.lock")
        sync_shards(Layout(folder / "there"), lock, from_dir=folder / "videos")

    yield sync


def _make_manifest(folder: Path) -> None:
    for name in ("walking_tours", "demo"):
        shutil.copy(Path(__file__).parents[2] / "manifests" / f"{name}.toml", folder)


def _manifest_steps(folder: Path) -> Iterable[Step]:
    for path in sorted(folder.glob("*.toml")):
        yield partial(load_manifest, path)
        yield partial(add_to_manifest, path, entry("added"))
        yield partial(pin_videos, path, {"added": "0" * 64})


def _make_detections(folder: Path) -> None:
    rows = [(i * 100_000, f"thing {i % 3}", 0.5, 1.0, 2.0, 3.0, 4.0) for i in range(20)]
    write_detections(folder / "truth.parquet", rows, {"detector": "by hand"})


def _detection_steps(folder: Path) -> Iterable[Step]:
    frames: list[Any] = [SimpleNamespace(pts_us=pts) for pts in (0, 50_000, 1_900_000, 10**9)]

    def look() -> None:
        PrecomputedDetector(folder / "truth.parquet", rate=Fraction(10)).submit(frames)

    yield look


def _make_boxes(folder: Path) -> None:
    columns = {name: [1.0, 5.0, None] for name in ("x0", "y0", "x1", "y1")}
    table = pa.table({"video_id": ["walk"] * 3, "pts_us": [0, 100_000, 200_000], **columns})
    pq.write_table(table, folder / "boxes.parquet")


def _box_steps(folder: Path) -> Iterable[Step]:
    def blur() -> None:
        shards = folder / "set"
        params = with_blur(shards, SMALL, ["walk"], boxes=folder / "boxes.parquet")
        assert params.blur is not None
        for video_id in ("walk", "other"):
            Blur(shards, params.blur, video_id, interval_us=(0, 10**6), source_size=(32, 32),
                 period_us=1e5)  # fmt: skip

    yield blur


LIGHT = {
    "workspace": Target(
        _make_workspace,
        ("videos/*/*.json", "analysis/*/*.json", "analysis/*/*.parquet"),
        _workspace_steps,
        resign_receipts,
    ),
    "stages": Target(
        _make_stages,
        (
            "root/analysis/**/*.json",
            "root/analysis/**/*.parquet",
            "root/shards/*/receipts/*",
            "root/shards/*/*.json",
        ),
        _stage_steps,
        resign_receipts,
    ),
    "shards": Target(_make_shards, ("set/*",), _shard_steps, _resign_shards),
    "lock": Target(_make_lock, ("*.lock",), _lock_steps),
    "manifest": Target(_make_manifest, ("*.toml",), _manifest_steps),
    "detections": Target(_make_detections, ("*.parquet",), _detection_steps),
    "boxes": Target(_make_boxes, ("*.parquet",), _box_steps),
}
"""Readers that need no torch."""


def write_image(path: Path, *, size: tuple[int, int] = (24, 20), labels: int | None = None) -> None:
    """Write random pixels; with `labels` a mask of so many."""
    rng = np.random.default_rng(abs(hash(path.name)) % 1000 if labels is None else labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    if labels is not None:
        Image.fromarray(rng.integers(0, labels, size[::-1], np.uint8)).save(path)
    else:
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(path)


def refused(step: Step) -> None:
    """Run a reader; what it refuses it refuses in one line."""
    refusal = ""
    with contextlib.suppress(WtoursError):
        try:
            step()
        except WtoursError as error:
            refusal = str(error)
            raise
    assert "\n" not in refusal, f"not one line: {refusal!r:.500}"
    assert len(refusal) < 10_000, f"a line of {len(refusal)} characters"
