"""The spine of `wtours report`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

try:
    import jinja2  # noqa: F401
    import matplotlib  # noqa: F401
except ImportError as error:
    from wtours.errors import MissingPackageError

    raise MissingPackageError("matplotlib and jinja2", "analyze", "`wtours report`") from error

from wtours.analyze.schema import explain_damage
from wtours.errors import AnalysisError, UsageError, VideoError
from wtours.progress import Progress, no_progress
from wtours.report.comparison import load_compared
from wtours.report.curves import classes_over_time, span_of, video_curves
from wtours.report.data import ReportVideo, load_videos
from wtours.report.figure2 import figure_files
from wtours.report.footnotes import NO_OPTIONS, CommandHints
from wtours.report.page import PageVideo, colored_classes, render_page
from wtours.report.table6 import Table6, make_table
from wtours.report.table6_export import to_csv, to_json, to_markdown
from wtours.report.thumbnails import Figure, long_side, make_thumbnails
from wtours.storage.atomic import sweep, write_bytes, write_json
from wtours.storage.locks import lock
from wtours.workspace.layout import DETECTIONS_FILE, Layout
from wtours.workspace.manifest import VideoEntry

DEFAULT_THRESHOLD = 0.3
"""Objects are counted from this score up; the paper names none, Detic's examples 0.5 and 0.3."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportResult:
    """What was published, and what could not be shown."""

    table: Table6
    paths: tuple[Path, ...]
    """The page; Table 6 as Markdown, CSV and JSON; Figure 2 as PNG, SVG and PDF."""
    not_downloaded: tuple[str, ...]
    """Ids of videos that are not downloaded; their thumbnails are missing."""
    not_analyzed: tuple[str, ...]
    """Ids of videos that are not analyzed; their rows say "not measured"."""
    without_objects: tuple[str, ...]
    """Ids of analyzed videos whose objects are not measured."""
    problems: dict[str, str]
    """One line by id for a video whose analysis cannot be read, or whose thumbnails not be made."""

    @property
    def page(self) -> Path:
        """Return the page."""
        return self.paths[0]


def build_report(
    layout: Layout,
    entries: Sequence[VideoEntry],
    *,
    threshold: float = DEFAULT_THRESHOLD,
    compare: Sequence[Path] = (),
    hints: CommandHints = NO_OPTIONS,
    on_progress: Progress = no_progress,
) -> ReportResult:
    """Publish Table 6, Figure 2 and the page of these videos under `layout.reports_dir`.

    What was not downloaded or not analyzed is written as "not measured"; the report is made all the
    same. The same tables and videos give the same bytes.

    Args:
        entries: One or more videos of a manifest.
        threshold: Objects are counted, and detections drawn, from this score up.
        compare: Folders analyzed with --from-dir, to be drawn beside the videos in Figure 2, each
            as one video of at most the length of the longest.
        hints: The commands that bring what is missing.
        on_progress: Called with the video id and its thumbnails done and in all.

    Raises:
        UsageError: no videos, or a threshold that no score can reach.
        WtoursError: the disk is full.
    """
    if not entries:
        raise UsageError("a report needs one video at least; name one with --video")
    if not 0 < threshold <= 1:
        raise UsageError(f"--threshold must be above 0 and at most 1, got {threshold}")
    with lock(layout.lock("report"), what="the report"):
        sweep(layout.reports_dir)
        return _build(layout, entries, threshold, compare, hints, on_progress)


def _build(
    layout: Layout,
    entries: Sequence[VideoEntry],
    threshold: float,
    compare: Sequence[Path],
    hints: CommandHints,
    on_progress: Progress,
) -> ReportResult:
    folder = layout.reports_dir
    videos = load_videos(layout, entries, threshold=threshold)
    longest_us = max((v.measured.shots_us[-1][1] for v in videos if v.measured), default=None)
    compared = [
        load_compared(layout, path, threshold=threshold, until_us=longest_us) for path in compare
    ]
    table = make_table(videos, threshold=threshold, compared=compared, hints=hints)
    tables = tuple(folder / f"table6.{kind}" for kind in ("md", "csv", "json"))
    write_bytes(tables[0], to_markdown(table).encode())
    write_bytes(tables[1], to_csv(table).encode())
    write_json(tables[2], to_json(table))
    others = [folder.video for folder in compared]
    drawn = figure_files([*videos, *others])
    figures = {folder / f"figure2.{kind}": data for kind, data in drawn.items()}
    for path, data in figures.items():
        write_bytes(path, data)
    span_us = span_of([*videos, *others])
    classes = colored_classes(videos)
    side = long_side(len(videos))
    pages = [
        _page_video(layout, video, classes, threshold, span_us, side, on_progress)
        for video in videos
    ]
    beside = [
        PageVideo(v, video_curves(v.measured, span_us=span_us) if v.measured else None, (), "")
        for v in others
    ]
    page = render_page(table, pages, beside)
    write_bytes(folder / "report.html", page.encode())
    return ReportResult(
        table=table,
        paths=(folder / "report.html", *tables, *figures),
        not_downloaded=tuple(v.entry.id for v in videos if v.download is None),
        not_analyzed=tuple(v.entry.id for v in videos if v.measured is None),
        without_objects=tuple(
            v.entry.id for v in videos if v.measured is not None and v.measured.objects is None
        ),
        problems={
            page.video.entry.id: problem
            for page in pages
            if (problem := page.video.problem or page.problem)
        },
    )


def _page_video(
    layout: Layout,
    video: ReportVideo,
    classes: Sequence[str],
    threshold: float,
    span_us: float,
    side: int,
    on_progress: Progress,
) -> PageVideo:
    """Make a video's curves and thumbnails; one that cannot be decoded does not stop the others."""
    if video.measured is None:
        return PageVideo(video, None, (), "")
    video_id, problem, figures = video.entry.id, "", list[Figure]()
    curves = video_curves(video.measured, span_us=span_us)
    try:
        objects = video.measured.objects
        if objects is not None and objects.per_frame is not None:
            path = layout.analysis_dir(video_id) / DETECTIONS_FILE
            with explain_damage(path, f"run `wtours analyze --video {video_id}`"):
                by_class = classes_over_time(
                    path, objects.pts_us, classes, threshold=threshold, span_us=span_us
                )
            curves = replace(curves, by_class=by_class)
        if video.is_same_file:
            figures = make_thumbnails(
                layout,
                video,
                threshold=threshold,
                side=side,
                on_figure=lambda done, total: on_progress(video_id, done, total),
            )
    except (VideoError, AnalysisError) as error:
        problem = str(error)
    return PageVideo(video, curves, figures, problem)
