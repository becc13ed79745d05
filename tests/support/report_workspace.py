"""A small workspace for the report's tests, its tables written by hand.

`alpha` has a clip of 4 s at 10 frames a second, a cut at 2 s, and a detector that looked at frames
0, 10, 20 and 30; `beta` was analyzed without a detector; `gamma` is not downloaded.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.support.video_clips import write_clip
from wtours.analyze.schema import (
    DETECTIONS_SCHEMA,
    FRAMES_SCHEMA,
    SHOTS_SCHEMA,
    DetectorFacts,
    LightnessSummary,
    ObjectsSummary,
    VideoSummary,
    table_of,
    write_table,
)
from wtours.media.probe import probe_video
from wtours.storage.atomic import write_json
from wtours.storage.hashing import sha256_file
from wtours.storage.receipts import Receipt, record_file, write_receipt
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry

FRAMES = 40
DETECTIONS = [
    (0, "person", 0.9),
    (0, "person", 0.35),
    (0, "car", 0.25),
    (20, "dog", 0.1),
    (20, "car", 0.6),
    (30, "person", 0.3),
    (30, "tree", 0.07),
]
PUBLISHED = {
    "frames_thousands": 0.05,
    "minutes": 0.1,
    "shots": 0,
    "objects_per_frame": 2,
    "classes": 4,
}


def entry(video_id: str, **fields: Any) -> VideoEntry:
    return VideoEntry(id=video_id, **{"title": video_id.title(), "sources": ("file:x",), **fields})


def make_workspace(root: Path) -> tuple[Layout, list[VideoEntry]]:
    layout = Layout(root)
    for video_id in ("alpha", "beta"):
        add_video(layout, video_id)
    add_analysis(layout, "alpha", detections=DETECTIONS, more_cuts={"transnetv2": 7})
    add_analysis(layout, "beta", detections=None)
    alpha = entry("alpha", domain="Urban", published=PUBLISHED)
    return layout, [alpha, entry("beta"), entry("gamma", published={**PUBLISHED, "shots": 3})]


def add_video(layout: Layout, video_id: str, **facts: Any) -> None:
    folder = layout.video_dir(video_id)
    folder.mkdir(parents=True)
    clip = write_clip(folder / f"{video_id}.mp4", source="testsrc2=size=160x120:rate=10:duration=4")
    write_json(folder / "info.json", {})
    files = tuple(record_file(path, relative_to=folder) for path in (clip, folder / "info.json"))
    about = {"source": f"https://example.org/{video_id}", "title": "A title"}
    facts = {**probe_video(clip).to_json(), **about, **facts}
    write_receipt(
        layout.video_receipt(video_id),
        Receipt(stage="download", key=video_id, files=files, facts=facts),
    )


def add_analysis(
    layout: Layout,
    video_id: str,
    *,
    detections: list[tuple[int, str, float]] | None,
    more_cuts: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Publish an analysis; `detections` are (frame, label, score), None: objects not measured."""
    folder = layout.analysis_dir(video_id)
    _write_frames(folder, detected=detections is not None)
    objects, names = None, ["frames.parquet", "shots.parquet", "summary.json"]
    if detections is not None:
        names.append("detections.parquet")
        vocabulary = tuple(sorted({label for _, label, _ in detections}))
        _write_detections(folder, detections, vocabulary)
        objects = ObjectsSummary(
            detector=DetectorFacts(
                name="file:truth.parquet",
                weights_sha256="0" * 64,
                vocabulary=vocabulary,
                threshold=0.05,
            ),
            detect_fps=1,
            every_frame=False,
            frames_analysed=4,
            detections=len(detections),
            frames_at_cap=0,
            counts=(),
        )
    summary = VideoSummary(
        video_id=video_id,
        video_sha256=sha256_file(layout.video_dir(video_id) / f"{video_id}.mp4"),
        width=160,
        height=120,
        frame_rate="10",
        frames=FRAMES,
        corrupt_frames=0,
        seconds=4.0,
        last_pts_us=3_900_000,
        cuts={"adaptive": 1, "content27": 2, "content30": 0, **more_cuts},
        lightness=LightnessSummary(mean=45, min=20, max=70),
        objects=objects,
        objects_not_measured=None if objects else "no detector was asked for",
    )
    write_json(folder / "summary.json", summary.model_dump(mode="json"))
    files = tuple(record_file(folder / name, relative_to=folder) for name in sorted(names))
    receipt = Receipt(stage="analyze", key=video_id, versions={"av": "16.0"}, files=files)
    write_receipt(layout.analysis_receipt(video_id), receipt)


def _write_frames(folder: Path, *, detected: bool) -> None:
    """Lightness is 20 before the cut and 70 after it; the detector looks once a second."""
    light = [20.0 if frame < 20 else 70.0 for frame in range(FRAMES)]
    columns = {
        "pts_us": [frame * 100_000 for frame in range(FRAMES)],
        "frame": list(range(FRAMES)),
        "lightness": light,
        "lightness_p5": [value - 10 for value in light],
        "lightness_p95": [value + 10 for value in light],
        "content_score": [0.0] * FRAMES,
        "is_corrupt": [False] * FRAMES,
        "objects_measured": [detected and frame % 10 == 0 for frame in range(FRAMES)],
    }
    write_table(folder / "frames.parquet", table_of(FRAMES_SCHEMA, columns), FRAMES_SCHEMA)
    shots = {
        "detector": ["adaptive", "adaptive", "content30"],
        "shot": [0, 1, 0],
        "start_us": [0, 2_000_000, 0],
        "end_us": [2_000_000, 4_000_000, 4_000_000],
    }
    write_table(folder / "shots.parquet", table_of(SHOTS_SCHEMA, shots), SHOTS_SCHEMA)


def _write_detections(
    folder: Path, detections: list[tuple[int, str, float]], vocabulary: tuple[str, ...]
) -> None:
    frames, labels, scores = zip(*detections, strict=True)
    count = len(detections)
    columns = {
        "pts_us": [frame * 100_000 for frame in frames],
        "frame": frames,
        "label": labels,
        "label_id": [vocabulary.index(label) for label in labels],
        "score": scores,
        "x0": [16.0] * count,
        "y0": [30.0] * count,
        "x1": [80.0] * count,
        "y1": [90.0] * count,
    }
    write_table(
        folder / "detections.parquet", table_of(DETECTIONS_SCHEMA, columns), DETECTIONS_SCHEMA
    )
