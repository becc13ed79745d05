"""What is asked for of a video, and whether it is there."""

from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from wtours.analyze.detectors.base import DetectorIdentity, DetectorSource
from wtours.analyze.detectors.precomputed import PrecomputedFile, precomputed_facts
from wtours.analyze.detectors.server import DetectorService
from wtours.analyze.detectors.spec import DetectorSpec, parse_detector
from wtours.analyze.measurements import (
    FRAMES,
    OBJECTS,
    QUALITY,
    SHOTS,
    TRANSNET,
    Measurements,
    Stored,
)
from wtours.analyze.publish import published_params
from wtours.analyze.quality.meter import quality_params
from wtours.analyze.schema import FORMAT
from wtours.analyze.shots import CUT_DETECTORS
from wtours.analyze.transnet import TRANSNETV2, transnet_facts
from wtours.errors import AnalysisError, MissingPackageError, WorkerDiedError
from wtours.execution.executor import Executor
from wtours.media.sampling import parse_rate
from wtours.storage.atomic import RECEIPT_FILE
from wtours.storage.receipts import read_receipt
from wtours.workspace.layout import Layout
from wtours.workspace.videos import DownloadedVideo


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be measured of every video."""

    detector: DetectorSpec
    rate: Fraction
    """Frames a second that it is given."""
    cut_network: dict[str, Any] | None
    """What the cuts of TransNet V2 depend on; None: they are not asked for."""
    frame_quality: bool

    @classmethod
    def parse(
        cls, detector: str, detect_fps: str, *, transnet: bool, frame_quality: bool
    ) -> "Asked":
        """Return it from the options of `analyze_videos`, which says what this raises."""
        spec, rate = parse_detector(detector), parse_rate(detect_fps)
        return cls(spec, rate, transnet_facts() if transnet else None, frame_quality)


@dataclass(frozen=True, slots=True)
class Plan:
    """One video and what is asked for of it."""

    measurements: Measurements
    detector: DetectorIdentity | None
    """What objects are detected with."""
    source: DetectorSource | None
    """Where it is."""
    rate: Fraction
    not_measured: str | None
    """Why there is no detector."""
    params: dict[str, dict[str, Any]]
    """What each measurement that is asked for depends on, besides the video."""

    @property
    def video(self) -> DownloadedVideo:
        """Return the video."""
        return self.measurements.video

    @property
    def segments_dir(self) -> Path:
        """Return where the segments are until everything is published."""
        return self.measurements.folder / "segments"

    def is_published(self) -> bool:
        """Return whether the tables hold what is asked for; they may hold more.

        The quality is in none of them: its own folder must be whole, and of today's measures.
        """
        if QUALITY in self.params:
            own = self.measurements.receipt_in(self.measurements.path(QUALITY))
            if own is None or own.params != self.params[QUALITY]:
                return False
        receipt = self.measurements.receipt_in(self.measurements.folder)
        asked = {k: v for k, v in published_params(self.params).items() if v is not None}
        return receipt is not None and asked.items() <= receipt.params.items()

    def require_not_lost(self, stored: Stored) -> None:
        """Refuse to publish tables without what they had, unless it is asked for.

        Raises:
            AnalysisError: objects, transitions or the quality were measured, and their files are
                damaged.
        """
        receipt = read_receipt(self.measurements.folder / RECEIPT_FILE)
        if receipt is None or not self.video.has_made(receipt):
            return
        for name, key in ((OBJECTS, "objects"), (TRANSNET, TRANSNETV2), (QUALITY, QUALITY)):
            if receipt.params.get(key) is not None and name not in {*stored, *self.params}:
                raise AnalysisError(
                    f"{name}, measured earlier, is damaged: ask for it again in the same command, "
                    f"or remove {self.measurements.folder} to do without it"
                )


def plan_video(
    layout: Layout,
    video: DownloadedVideo,
    asked: Asked,
    service: DetectorService,
    executor: Executor,
) -> Plan:
    """Return what is asked for; without a detector that cannot be loaded.

    The service starts it, if it is a network; the executor checks its file, if it is one.
    """
    spec, rate = asked.detector, asked.rate
    detector: DetectorIdentity | None = None
    source: DetectorSource | None = None
    not_measured = "no detector was asked for (--detector none)" if spec.kind == "none" else None
    try:
        if spec.is_network:
            detector, source = service.ready(), service.endpoint()
        elif spec.kind == "file":
            path = spec.file(video.video_id)
            check = partial(precomputed_facts, rate=rate)
            ((_, facts),) = executor.map(check, [path])
            detector = DetectorIdentity(facts, versions={})
            source = PrecomputedFile(path, rate, facts.weights_sha256)
    except (AnalysisError, MissingPackageError, WorkerDiedError) as error:
        not_measured = str(error)
    params: dict[str, dict[str, Any]] = {FRAMES: {}, SHOTS: {"cut_detectors": [*CUT_DETECTORS]}}
    if detector is not None:
        facts = detector.facts
        # Absent where there are none, as in receipts from before it was recorded.
        absent = {"settings_sha256"} if facts.settings_sha256 is None else set[str]()
        params[OBJECTS] = {
            "detector": facts.model_dump(mode="json", exclude=absent),
            "detect_fps": str(rate),
        }
    if asked.cut_network is not None:
        params[TRANSNET] = asked.cut_network
    if asked.frame_quality:
        params[QUALITY] = quality_params()
    return Plan(
        measurements=Measurements(layout.analysis_dir(video.video_id), video),
        detector=detector,
        source=source,
        rate=rate,
        not_measured=not_measured,
        params={name: {"format": FORMAT, **own} for name, own in params.items()},
    )
