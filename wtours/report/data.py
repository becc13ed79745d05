"""What the report reads: each video's entry, its download and its analysis, as far as they exist.

Nothing is measured here but the counting of stored detections, which depends on the score that one
counts from; so `wtours report --threshold` needs no second run of the detector.
"""

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wtours.analyze.object_counts import count_detections, scored_at_least
from wtours.analyze.quality.seconds import VideoQuality, load_quality
from wtours.analyze.schema import (
    DEFAULT_CUT_DETECTOR,
    NotAnalyzedError,
    ObjectCounts,
    ObjectsSummary,
    VideoSummary,
    explain_damage,
    open_parquet,
    published_analysis,
)
from wtours.errors import AnalysisError, VideoError
from wtours.storage.receipts import read_receipt
from wtours.workspace.layout import DETECTIONS_FILE, FRAMES_FILE, SHOTS_FILE, Layout
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.videos import DownloadedVideo, downloaded_video

THRESHOLDS = (0.1, 0.2, 0.3, 0.5)
"""Scores that the report always counts from: the paper names none."""


@dataclass(frozen=True, eq=False, slots=True)
class MeasuredObjects:
    """Detections of one video, counted; F frames given to the detector."""

    facts: ObjectsSummary
    counts: tuple[ObjectCounts, ...]
    """Ascending thresholds; none below the score that detections are stored from."""
    class_counts: tuple[tuple[str, int], ...]
    """(label, detections) from the report's threshold up, most frequent first."""
    pts_us: NDArray[np.int64]
    """(F,) the times of the frames given to the detector."""
    per_frame: NDArray[np.int64] | None
    """(F,) detections from the report's threshold up; None: they are stored from a higher score, so
    `class_counts` is empty too."""

    @property
    def rate(self) -> str:
        """Return the rate of the detector, in words."""
        return "every frame" if self.facts.every_frame else f"{self.facts.detect_fps:g} a second"

    def at(self, threshold: float) -> ObjectCounts | None:
        """Return the count at one of the thresholds; None: below what is stored."""
        return next((count for count in self.counts if count.threshold == threshold), None)


@dataclass(frozen=True, eq=False, slots=True)
class MeasuredVideo:
    """One video's analysis; N decoded frames."""

    summary: VideoSummary
    versions: dict[str, str]
    """Packages that made it."""
    pts_us: NDArray[np.int64]
    """(N,) microseconds from the first frame, ascending."""
    lightness: NDArray[np.float32]
    """(N,) mean CIELAB L*, 0..100."""
    lightness_p5: NDArray[np.float32]
    lightness_p95: NDArray[np.float32]
    """(N,) 5th and 95th percentile of L* over the frame."""
    detected: NDArray[np.bool_]
    """(N,) whether the frame was given to the object detector."""
    shots_us: tuple[tuple[int, int], ...]
    """[start, end) of each shot by the default cut detector."""
    objects: MeasuredObjects | None
    quality: VideoQuality | None = None
    """None: not measured."""
    stream: str | None = None
    """Of a file with several, as `DownloadedVideo.inputs` has it."""

    @property
    def cuts(self) -> int:
        """Return the number of cuts, which the paper calls "#shots"."""
        return self.summary.cuts[DEFAULT_CUT_DETECTOR]


@dataclass(frozen=True, eq=False, slots=True)
class ReportVideo:
    """One video as far as it is known."""

    entry: VideoEntry
    download: DownloadedVideo | None
    measured: MeasuredVideo | None
    label: str
    """Short, for the figure; plain ASCII."""
    problem: str = ""
    """Why its analysis, which is there, cannot be used."""

    @property
    def is_same_file(self) -> bool:
        """Return whether the file at hand is the one that was analyzed, and its stream."""
        if self.download is None or self.measured is None:
            return False
        is_stream = self.measured.stream in (None, self.download.inputs.get("stream"))
        return is_stream and self.download.sha256 == self.measured.summary.video_sha256


def load_videos(
    layout: Layout, entries: Sequence[VideoEntry], *, threshold: float
) -> list[ReportVideo]:
    """Return what is known of each entry, in order; what is missing is None."""
    titles = {entry.title for entry in entries}
    are_short = all(len(t) <= 20 and t.isascii() and t.isprintable() for t in titles)
    use_titles = are_short and len(titles) == len(entries)
    return [
        _load_video(layout, entry, threshold, entry.title if use_titles else entry.id)
        for entry in entries
    ]


def _load_video(layout: Layout, entry: VideoEntry, threshold: float, label: str) -> ReportVideo:
    download, measured, problem = None, None, ""
    with contextlib.suppress(VideoError):
        download = downloaded_video(layout, entry.id)
    try:
        measured = load_measured(layout, entry.id, threshold)
    except NotAnalyzedError:
        pass
    except AnalysisError as error:
        problem = str(error)
    return ReportVideo(entry, download, measured, label, problem)


def detections_on(
    layout: Layout, video_id: str, frames: Sequence[int], *, threshold: float
) -> dict[int, list[dict[str, Any]]]:
    """Return the detections on some frames (ordinals) by frame: label, score, x0..y1."""
    path = layout.analysis_dir(video_id) / DETECTIONS_FILE
    found: dict[int, list[dict[str, Any]]] = {frame: [] for frame in frames}
    with explain_damage(path, f"run `wtours analyze --video {video_id}`"):
        table = pq.read_table(
            path,
            columns=["frame", "label", "score", "x0", "y0", "x1", "y1"],
            filters=pc.field("frame").isin(pa.array(frames, pa.int64()))
            & scored_at_least(threshold),
        )
        for row in table.to_pylist():
            found[row["frame"]].append(row)
    return found


def count_objects(
    path: Path, facts: ObjectsSummary, detected_us: NDArray[np.int64], *, threshold: float
) -> MeasuredObjects:
    """Count detections.parquet from `threshold` and from each of `THRESHOLDS` up.

    `detected_us` are the (F,) pts of the frames given to the detector, ascending. From `threshold`
    alone there are `class_counts` and `per_frame`.
    """
    thresholds = [
        score
        for score in sorted({*THRESHOLDS, threshold})
        if np.float32(score) >= np.float32(facts.detector.threshold)
    ]
    counts = count_detections(path, detected_us, thresholds)
    shown = counts.get(threshold)
    labels = Counter[str]() if shown is None else shown.labels
    return MeasuredObjects(
        facts=facts.model_copy(update={"frames_analysed": len(detected_us)}),
        counts=tuple(count.figures(score) for score, count in counts.items()),
        class_counts=tuple(sorted(labels.items(), key=lambda item: (-item[1], item[0]))),
        pts_us=detected_us,
        per_frame=None if shown is None else shown.per_frame,
    )


def load_measured(
    layout: Layout, video_id: str, threshold: float, *, until_us: int | None = None
) -> MeasuredVideo:
    """Return the analysis of a video, of its first `until_us` if given.

    Raises:
        NotAnalyzedError: there is none.
        AnalysisError: its files are damaged.
    """
    receipt, summary = published_analysis(layout, video_id)
    folder, stream = layout.analysis_dir(video_id), receipt.inputs.get("stream")
    before = None if until_us is None else pc.field("pts_us") < until_us
    remedy = f"run `wtours analyze --video {video_id}`"
    with explain_damage(folder, remedy):
        for name in (FRAMES_FILE, SHOTS_FILE):
            open_parquet(folder / name, remedy).close()
        frames = pq.read_table(folder / FRAMES_FILE, filters=before)
        pts_us, detected = frames["pts_us"].to_numpy(), frames["objects_measured"].to_numpy()
        if not len(pts_us) or pts_us[0] < 0 or (np.diff(pts_us) <= 0).any():
            raise ValueError("times of frames do not rise from 0")
        objects = None
        if summary.objects is not None and detected.any():
            objects = count_objects(
                folder / DETECTIONS_FILE, summary.objects, pts_us[detected], threshold=threshold
            )
        measured = MeasuredVideo(
            summary=summary,
            versions=receipt.versions,
            pts_us=pts_us,
            lightness=frames["lightness"].to_numpy(),
            lightness_p5=frames["lightness_p5"].to_numpy(),
            lightness_p95=frames["lightness_p95"].to_numpy(),
            detected=detected,
            shots_us=_shots(folder / SHOTS_FILE, until_us),
            objects=objects,
            quality=load_quality(layout, video_id, summary.video_sha256, stream=stream),
            stream=stream,
        )
    if read_receipt(layout.analysis_receipt(video_id)) != receipt:  # removed first, written last
        raise AnalysisError(f"{folder} was made again while it was read; run the command again")
    return measured


def _shots(path: Path, until_us: int | None) -> tuple[tuple[int, int], ...]:
    table = pq.read_table(path, filters=pc.field("detector") == DEFAULT_CUT_DETECTOR)
    shots = zip(table["start_us"].to_pylist(), table["end_us"].to_pylist(), strict=True)
    shown = tuple(
        (start, end if until_us is None else min(end, until_us))
        for start, end in shots
        if until_us is None or start < until_us
    )
    if not shown or any(start >= end for start, end in shown):
        raise ValueError("there are no shots, or such that end before they begin")
    return shown
