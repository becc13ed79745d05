"""Downloaded videos for the tests of `analyze`, without a download."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.video_clips import write_clip
from wtours.media.probe import probe_video
from wtours.storage.receipts import Receipt, record_file, write_receipt
from wtours.workspace.layout import Layout

SCENES = ("testsrc2", "smptehdbars", "rgbtestsrc", "mandelbrot")
"""FFmpeg sources that differ so much that any detector sees a cut between two of them."""


def write_scenes(
    path: Path, *, seconds: tuple[float, ...], rate: int = 30, size: str = "160x120", **options
) -> Path:
    """Write a video with a hard cut after each of `seconds` but the last."""
    parts = [
        f"{SCENES[i % len(SCENES)]}=size={size}:rate={rate}"
        + (f",trim=duration={length},setsar=1,format=yuv420p[s{i}]")
        for i, length in enumerate(seconds)
    ]
    inputs = "".join(f"[s{i}]" for i in range(len(seconds)))
    source = ";".join([*parts, f"{inputs}concat=n={len(seconds)}:v=1:a=0"])
    return write_clip(path, source=source, **options)


def add_video(layout: Layout, video_id: str, source: Path) -> Path:
    """Publish a copy of `source` as if it had been downloaded; return the copy."""
    folder = layout.video_dir(video_id)
    folder.mkdir(parents=True, exist_ok=True)
    video = folder / f"{video_id}{source.suffix}"
    shutil.copyfile(source, video)
    facts = {**probe_video(video).to_json(), "source": f"file:{source.name}", "title": video_id}
    files = (record_file(video, relative_to=folder),)
    receipt = Receipt(stage="download", key=video_id, files=files, facts=facts)
    write_receipt(layout.video_receipt(video_id), receipt)
    return video


def published_bytes(layout: Layout, video_id: str) -> dict[str, bytes]:
    """Return every published file of an analysis by name."""
    folder = layout.analysis_dir(video_id)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def write_detections(
    path: Path, rows: list[tuple[Any, ...]], metadata: dict[str, str] | None = None
) -> Path:
    """Write rows of (pts_us, label, score, x0, y0, x1, y1) as precomputed detections."""
    names = ["pts_us", "label", "score", "x0", "y0", "x1", "y1"]
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path
