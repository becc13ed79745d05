"""Other datasets in Figure 2, as in the paper: a folder's videos joined, cropped to one length.

Its videos are those that `wtours analyze --from-dir` measured. Where two of them meet is no
cut: only cuts inside a video count.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wtours.analyze.object_counts import DetectionCount
from wtours.analyze.schema import DEFAULT_CUT_DETECTOR
from wtours.analyze.video_folder import folder_id, folder_videos
from wtours.errors import AnalysisError
from wtours.report.data import MeasuredObjects, MeasuredVideo, ReportVideo, load_measured
from wtours.text import plain
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry

_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Compared:
    """One folder, drawn as if it were one video."""

    video: ReportVideo
    num_joined: int
    num_not_analyzed: int
    """Files that come before the end of what is drawn, but are not analyzed."""
    folder: Path


def load_compared(
    layout: Layout, folder: Path, *, threshold: float, until_us: int | None
) -> Compared:
    """Return a folder's videos as one, joined in order and cropped.

    They were analyzed with --from-dir. With `until_us` None nothing is cropped.

    Raises:
        UsageError: it is no folder, or has no video.
    """
    parts: list[MeasuredVideo] = []
    length_us = num_not_analyzed = 0
    for video_id in folder_videos(folder):
        if until_us is not None and length_us >= until_us:
            break
        rest_us = None if until_us is None else until_us - length_us
        try:
            part = load_measured(layout, video_id, threshold, until_us=rest_us)
        except AnalysisError:  # there is none, or it is damaged: analyzing it mends both
            num_not_analyzed += 1
            continue
        parts.append(part)
        length_us += part.shots_us[-1][1]
    title = plain(folder.resolve().name) or "folder"
    entry = VideoEntry(id=folder_id(folder), title=title, sources=(f"file:{folder_id(folder)}",))
    return Compared(
        video=ReportVideo(
            entry=entry,
            download=None,
            measured=_joined(parts, threshold) if parts else None,
            label=title[:20] if title.isascii() else entry.id[:20],
        ),
        num_joined=len(parts),
        num_not_analyzed=num_not_analyzed,
        folder=folder,
    )


def _joined(parts: Sequence[MeasuredVideo], threshold: float) -> MeasuredVideo:
    ends = np.cumsum([part.shots_us[-1][1] for part in parts])
    offsets = [0, *ends[:-1].tolist()]
    light = np.concatenate([part.lightness for part in parts])
    cuts = [
        start + offset
        for part, offset in zip(parts, offsets, strict=True)
        for start, _ in part.shots_us[1:]
    ]
    bounds = [0, *cuts, int(ends[-1])]
    summary = parts[0].summary
    facts = {
        "frames": len(light),
        "seconds": int(ends[-1]) / _US,
        "cuts": {DEFAULT_CUT_DETECTOR: len(cuts)},
        "lightness": summary.lightness.model_copy(
            update={"mean": float(light.mean(dtype=np.float64))}
        ),
    }
    return MeasuredVideo(
        summary=summary.model_copy(update=facts),
        versions=parts[0].versions,
        pts_us=np.concatenate([p.pts_us + o for p, o in zip(parts, offsets, strict=True)]),
        lightness=light,
        lightness_p5=np.concatenate([part.lightness_p5 for part in parts]),
        lightness_p95=np.concatenate([part.lightness_p95 for part in parts]),
        detected=np.concatenate([part.detected for part in parts]),
        shots_us=tuple(itertools.pairwise(bounds)),
        objects=_joined_objects([part.objects for part in parts], offsets, threshold),
    )


def _joined_objects(
    parts: Sequence[MeasuredObjects | None], offsets: Sequence[int], threshold: float
) -> MeasuredObjects | None:
    """Return the objects of all; None unless one detector at one rate measured every part, and its
    detections are stored from the threshold up.
    """
    found = [part for part in parts if part is not None]
    counted = [part.per_frame for part in found if part.per_frame is not None]
    made_by = {(part.facts.detector.model_dump_json(), part.rate) for part in found}
    if len(counted) < len(parts) or len(made_by) != 1:
        return None
    labels: Counter[str] = Counter()
    for part in found:
        labels.update(dict(part.class_counts))
    per_frame = np.concatenate(counted)
    return MeasuredObjects(
        facts=found[0].facts.model_copy(
            update={"frames_analysed": len(per_frame), "detections": labels.total()}
        ),
        counts=(DetectionCount(labels, per_frame).figures(threshold),),
        class_counts=tuple(sorted(labels.items(), key=lambda item: (-item[1], item[0]))),
        pts_us=np.concatenate([p.pts_us + o for p, o in zip(found, offsets, strict=True)]),
        per_frame=per_frame,
    )
