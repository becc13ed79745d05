"""What is to be measured of a video, and publishing it when its segments are there."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scenedetect
from numpy.typing import NDArray

from wtours.analyze.detectors.base import DetectorIdentity
from wtours.analyze.detectors.server import Endpoint
from wtours.analyze.detectors.spec import DetectorSpec
from wtours.analyze.merge import (
    MergedFrames,
    measured_in,
    merge_detections,
    merge_frames,
    write_shots,
)
from wtours.analyze.previous import Earlier, find_earlier
from wtours.analyze.schema import (
    DETECTIONS_FILE,
    FRAMES_FILE,
    SHOTS_FILE,
    SUMMARY_FILE,
    ObjectsSummary,
    VideoSummary,
)
from wtours.analyze.shots import CUT_DETECTORS, cut_frame_rate
from wtours.analyze.transnet import TRANSNET, transnet_versions
from wtours.media.container import VideoMetadata
from wtours.storage.atomic import remove, write_json
from wtours.storage.receipts import Receipt, record_file, versions_of, write_receipt
from wtours.workspace.videos import DownloadedVideo

FORMAT = 1
"""Raised when the same parameters would give other bytes; earlier analyses are then made anew."""
_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """One video and what to measure."""

    video: DownloadedVideo
    folder: Path
    detector: DetectorIdentity | None
    """What looks for objects."""
    spec: DetectorSpec
    endpoint: Endpoint | None
    """Where its process is, if it is a network."""
    rate: Fraction
    not_measured: str | None
    """Why there is no detector."""
    transnet: dict[str, Any] | None
    """The network that finds cuts too; None: PySceneDetect alone does."""

    @property
    def inputs(self) -> dict[str, str]:
        """Return what the receipt names as the video."""
        return {"video": self.video.sha256}

    @property
    def params(self) -> dict[str, Any]:
        """Return what that which is measured now depends on, beside the video."""
        objects = None
        if self.detector is not None:
            facts = self.detector.facts.model_dump(mode="json")
            objects = {"detector": facts, "detect_fps": str(self.rate)}
        params = {"format": FORMAT, "cut_detectors": list(CUT_DETECTORS), "objects": objects}
        return params if self.transnet is None else {**params, TRANSNET: self.transnet}

    @property
    def segments_dir(self) -> Path:
        """Return where the segments are until the tables are published."""
        return self.folder / "segments"

    def is_done(self) -> bool:
        """Return whether it is published; what was not asked for may be there or not."""
        there = find_earlier(self.folder, inputs=self.inputs, format_number=FORMAT)
        return there is not None and there.receipt.params == self.params | there.kept(self.params)

    def set_aside(self) -> Earlier | None:
        """Return a copy of an earlier analysis of which parts are kept, if there is one."""
        aside = self.segments_dir / "earlier"
        for folder in (self.folder, aside):  # the second, where a run was killed while it published
            earlier = find_earlier(folder, inputs=self.inputs, format_number=FORMAT)
            if earlier is not None and earlier.kept(self.params):
                return earlier.set_aside(aside)
        return None


def publish(
    plan: Plan,
    metadata: VideoMetadata,
    segments: Sequence[Path],
    transitions: NDArray[np.float32] | None,
) -> None:
    """Publish the tables of a video, the receipt last; what is not asked for anew is kept.

    Args:
        plan: What was measured.
        metadata: Of the video.
        segments: The folders of its segments, in time order.
        transitions: As `wtours.analyze.transnet.read_predictions` gives it, if that was asked for.

    Raises:
        VideoError: no frame could be decoded.
        AnalysisError: other frames are decoded than when what is to be kept was measured.
    """
    folder, names = plan.folder, [FRAMES_FILE, SHOTS_FILE, SUMMARY_FILE]
    measured_pts_us = measured_in(segments)
    earlier = plan.set_aside()
    kept = {} if earlier is None else earlier.kept(plan.params)
    if earlier is not None:
        earlier.require_same_frames(segments)
        if "objects" in kept:
            measured_pts_us = earlier.measured_pts_us()
        if TRANSNET in kept:
            transitions = earlier.transitions()
    remove(folder / "receipt.json")  # it must never stand beside tables of two analyses
    frames = merge_frames(
        segments,
        folder,
        frame_rate=metadata.frame_rate,
        cut_rate=cut_frame_rate(plan.video.path) or metadata.frame_rate,
        measured_pts_us=measured_pts_us,
        transitions=transitions,
    )
    write_shots(folder, frames)
    if earlier is not None and "objects" in kept:
        objects, not_measured = earlier.publish_objects(folder)
    else:
        objects, not_measured = _publish_objects(plan, metadata, segments, frames)
    if objects is not None:
        names.append(DETECTIONS_FILE)
    summary = _summary(plan, metadata, frames, objects or not_measured)
    write_json(folder / SUMMARY_FILE, summary.model_dump(mode="json"))
    receipt = Receipt(
        stage="analyze",
        key=plan.video.video_id,
        inputs=plan.inputs,
        params=plan.params | kept,
        versions=({} if earlier is None else earlier.receipt.versions) | _versions(plan),
        files=tuple(record_file(folder / name, relative_to=folder) for name in sorted(names)),
    )
    write_receipt(folder / "receipt.json", receipt)
    if objects is None:
        remove(folder / DETECTIONS_FILE)  # of an earlier video or format: the receipt lacks it


def _publish_objects(
    plan: Plan, metadata: VideoMetadata, segments: Sequence[Path], frames: MergedFrames
) -> tuple[ObjectsSummary | None, str | None]:
    """Publish the detections; return what they amount to, or why there are none."""
    if plan.detector is None:
        return None, plan.not_measured
    if len(frames.measured_pts_us) == 0:
        return None, "every frame is corrupt"
    objects = merge_detections(
        segments,
        plan.folder,
        frames=frames,
        detector=plan.detector.facts,
        rate=plan.rate,
        frame_rate=metadata.frame_rate,
    )
    return objects, None


def _versions(plan: Plan) -> dict[str, str]:
    return {
        **versions_of("av", "numpy", "pyarrow"),
        "opencv": cv2.__version__,
        "scenedetect": scenedetect.__version__,
        **({} if plan.detector is None else plan.detector.versions),
        **({} if plan.transnet is None else transnet_versions()),
    }


def _summary(
    plan: Plan,
    metadata: VideoMetadata,
    frames: MergedFrames,
    objects: ObjectsSummary | str | None,
) -> VideoSummary:
    return VideoSummary(
        video_id=plan.video.video_id,
        video_sha256=plan.video.sha256,
        width=metadata.width,
        height=metadata.height,
        frame_rate=str(metadata.frame_rate),
        frames=frames.count,
        corrupt_frames=frames.corrupt,
        seconds=frames.end_us / _US,
        last_pts_us=frames.last_pts_us,
        cuts={name: len(cuts) for name, cuts in frames.cuts_us.items()},
        lightness=frames.lightness,
        objects=None if isinstance(objects, str) else objects,
        objects_not_measured=objects if isinstance(objects, str) else None,
    )
