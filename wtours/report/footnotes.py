"""What a reader must know before comparing Table 6 with the paper's."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wtours.analyze.schema import DEFAULT_CUT_DETECTOR
from wtours.report.comparison import Compared
from wtours.report.data import ReportVideo
from wtours.text import clock, counted, plain

_TEXT_MINUTES = {"bangkok": ("2 h 55 min", 175)}
"""Durations that the paper's section 3.1 gives in words."""
_US = 1_000_000


_CUTS = f'Cuts are found by PySceneDetect\'s detector "{DEFAULT_CUT_DETECTOR}".'
_CUTS_BESIDE_PAPER = (
    'The paper\'s "#shots" are cuts: a video without a cut has 0. Measured here by '
    f'PySceneDetect\'s detector "{DEFAULT_CUT_DETECTOR}"; the paper does not name its detector '
    "or settings."
)


@dataclass(frozen=True, slots=True)
class CommandHints:
    """The commands that bring what a report lacks, with its own options: they work when pasted."""

    manifest: Path | None = None
    """None: the built-in one."""
    root: Path | None = None
    """None: the default."""

    def for_all(self, command: str, *options: str) -> str:
        """Return for example "wtours download --manifest walks.toml --video my_walk".

        It is of every video of the manifest, if no option names one.
        """
        manifest = () if self.manifest is None else ("--manifest", str(self.manifest))
        return self.words(command, *manifest, *options)

    def words(self, *words: str) -> str:
        """Return a command that is of no manifest."""
        root = () if self.root is None else ("--root", str(self.root))
        return plain(shlex.join(["wtours", *words, *root]))


NO_OPTIONS = CommandHints()


def footnotes(
    videos: Sequence[ReportVideo],
    *,
    threshold: float,
    compared: Sequence[Compared] = (),
    hints: CommandHints = NO_OPTIONS,
) -> list[str]:
    """Return the notes of Table 6, plain text, each a few sentences."""
    beside_paper = any(video.entry.published for video in videos)
    return [
        *_paper_notes(videos),
        _CUTS_BESIDE_PAPER if beside_paper else _CUTS,
        *_object_notes(videos, threshold, beside_paper=beside_paper),
        *(comparison_note(folder, hints) for folder in compared),
        *_missing_notes(videos, hints),
    ]


def _paper_notes(videos: Sequence[ReportVideo]) -> list[str]:
    """Return where the published figures contradict each other, computed from them."""
    published = {video.label: video.entry.published for video in videos}
    labels = {video.entry.id: video.label for video in videos}
    rates = {
        label: figures.frames_thousands * 1000 / (figures.minutes * 60)
        for label, figures in published.items()
        if figures is not None
    }
    if not rates:
        return []
    low, high = min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__)
    note = (
        f"The paper's frames of {low} divided by its minutes are {rates[low]:.1f} frames/s."
        if low == high
        else "The paper's frames and minutes contradict each other: dividing them gives "
        f"{rates[low]:.1f} ({low}) to {rates[high]:.1f} ({high}) frames/s."
    )
    for video_id, (words, minutes) in _TEXT_MINUTES.items():
        label = labels.get(video_id, "")
        figures = published.get(label)
        if figures is not None and figures.minutes != minutes:
            note += f" Its text says that {label} lasts {words}, its table {figures.minutes:g} min."
    frames = (
        "Frames measured are all frames of the file at its own rate (see how it was measured); a "
        "60 frames-per-second copy has twice those of a 30 frames-per-second copy."
    )
    return [f"{note} So measured stands beside published and is not expected to be equal.", frames]


def _object_notes(
    videos: Sequence[ReportVideo], threshold: float, *, beside_paper: bool
) -> list[str]:
    found = [v.measured.objects for v in videos if v.measured is not None and v.measured.objects]
    if not found:
        return []
    detectors = sorted({plain(objects.facts.detector.name) for objects in found})
    rates = sorted({objects.rate for objects in found})
    of_paper = (
        " The paper names no threshold, and Detic's own examples use 0.5 and 0.3; the default here "
        "is 0.3, and the counts from other scores stand beside it.",
        "; the paper looked at every frame",
        " The paper used Detic.",
    )
    threshold_of_paper, rate_of_paper, detector_of_paper = of_paper if beside_paper else [""] * 3
    notes = [
        f"Objects per frame and classes count detections with a score of at least {threshold:g}."
        f"{threshold_of_paper}",
        "The number of classes grows with the number of frames looked at and shrinks as the "
        f"threshold rises. Frames looked at here: {', '.join(rates)}{rate_of_paper}.",
        f"Detector here: {', '.join(detectors)}.{detector_of_paper} Another detector or "
        "vocabulary gives other counts: compare them only where the detector is the same.",
    ]
    stored = {o.facts.detector.threshold for o in found if o.per_frame is None}
    if stored:
        notes.append(
            f"Detections are stored from a score of {max(stored):g} up: from {threshold:g} up they "
            f"are not measured."
        )
    capped = [
        f"{video.label} ({counted(objects.facts.frames_at_cap, 'frame')})"
        for video in videos
        if video.measured is not None
        and (objects := video.measured.objects) is not None
        and objects.facts.frames_at_cap
    ]
    if capped:
        notes.append(
            "Some frames have as many detections as the detector gives at most, so their true "
            f"number may be larger: {', '.join(capped)}."
        )
    return notes


def comparison_note(compared: Compared, hints: CommandHints) -> str:
    """Return what a folder beside the videos amounts to, in a few sentences."""
    name, measured = plain(compared.video.entry.title), compared.video.measured
    run = f"run `{hints.words('analyze', '--from-dir', str(compared.folder))}`"
    if measured is None:
        return f"{name}, beside the videos in Figure 2, is not measured: {run}."
    text = (
        f"{name}, beside the videos in Figure 2: {compared.num_joined} of its videos joined in the "
        f"order of their names, {clock(round(measured.summary.seconds * _US))} in all, not "
        f"longer than the longest video; {counted(measured.cuts, 'cut')}, not counting where two "
        f"videos meet; mean lightness {measured.summary.lightness.mean:.1f}"
    )
    if measured.objects is None:
        text += "; objects not measured, or not all by one detector at one rate"
    else:
        (count,) = measured.objects.counts
        classes = counted(count.classes, "class", "classes")
        text += f"; {count.objects_per_frame:.1f} objects/frame, {classes}"
    if compared.num_not_analyzed:
        videos = counted(compared.num_not_analyzed, "video is", "videos are")
        text += f"; {videos} not analyzed ({run})"
    return f"{text}."


def _missing_notes(videos: Sequence[ReportVideo], hints: CommandHints) -> list[str]:
    notes = []
    without_objects: dict[str, list[str]] = {}
    for video in videos:
        video_id = video.entry.id
        if video.problem:
            notes.append(f"{video.label} is not measured: {plain(video.problem)}.")
            continue
        if video.measured is None:
            command = "analyze" if video.download is not None else "download"
            run = hints.for_all(command, "--video", video_id)
            notes.append(f"{video.label} is not measured: run `{run}`.")
            continue
        if video.measured.objects is None:
            reason = plain(
                video.measured.summary.objects_not_measured or "no frame was looked at"
            ).rstrip(".")
            without_objects.setdefault(reason, []).append(video.label)
        if video.download is not None and not video.is_same_file:
            notes.append(
                f"{video.label} was analyzed from another file than the one at hand (sha256 or "
                f"stream differs): run `{hints.for_all('analyze', '--video', video_id)}`."
            )
    notes += [
        f"Objects of {', '.join(labels)} are not measured: {reason}."
        for reason, labels in without_objects.items()
    ]
    return notes
