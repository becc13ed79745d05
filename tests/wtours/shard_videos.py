"""A workspace with downloaded videos, for the tests of shards."""

import bisect
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from wtours.layout import Layout
from wtours.receipts import Receipt, record_file, write_receipt
from wtours.videos import probe_video


def publish_video(
    layout: Layout, video_id: str, source: Path, *, facts: dict[str, Any] | None = None
) -> str:
    """Put a video where `download` puts it, and return its sha256; facts None: measured."""
    folder = layout.video_dir(video_id)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{video_id}{source.suffix}"
    shutil.copy(source, path)
    measured = probe_video(path).to_json() if facts is None else facts
    about = {
        "source": f"file:{source.name}",
        "title": f"A walk in {video_id}",
        "channel": None,
        "license_claimed": "CC-BY",
        "license_observed": None,
        "license_observed_at": None,
    }
    record = record_file(path, relative_to=folder)
    receipt = Receipt(stage="download", key=video_id, files=(record,), facts={**measured, **about})
    write_receipt(layout.video_receipt(video_id), receipt)
    return record.sha256


def listed_pts_us(path: Path) -> list[int]:
    """Return the pts of every packet, in microseconds from the first, straight from the demuxer."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        pts = sorted(p.pts for p in container.demux(stream) if p.pts is not None)
        return [round((p - pts[0]) * stream.time_base * 1_000_000) for p in pts]


def expected_ticks(pts_us: list[int], rate: Fraction) -> dict[int, int]:
    """Return {tick: pts of its frame}, tick by tick, as the definition reads."""
    kept = {}
    for tick in range(int(pts_us[-1] * rate / 1_000_000) + 2):
        moment_us = tick * 1_000_000 / rate
        first, end = moment_us - 500_000 / rate, moment_us + 500_000 / rate
        near = pts_us[bisect.bisect_left(pts_us, first) : bisect.bisect_left(pts_us, end)]
        if near:
            kept[tick] = min(near, key=lambda pts: (abs(pts - moment_us), pts))
    return kept


def files_of(directory: Path) -> dict[str, bytes]:
    """Return every file under a folder, by its relative path."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
