"""Table 6: what was measured beside what the paper published.

What was not measured says so and never shows as 0.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from wtours.report.comparison import Compared
from wtours.report.data import THRESHOLDS, ReportVideo
from wtours.report.footnotes import NO_OPTIONS, CommandHints, footnotes
from wtours.text import clock, plain
from wtours.workspace.manifest import PublishedFigures

NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Quantity:
    """A column of Table 6."""

    key: str
    """Its name in CSV and JSON."""
    heading: str
    decimals: int
    published: Callable[[PublishedFigures], float]
    own_heading: str
    """Where no paper stands beside it."""
    own_text: Callable[[float], str] | None = None
    """Likewise; None: with the decimals."""
    is_relative: bool = True
    """Deviation is a share of the published figure; otherwise a difference."""


QUANTITIES = (
    Quantity(
        *("frames_thousands", "#frames (x1000)", 1, lambda figures: figures.frames_thousands),
        *("Frames", lambda thousands: f"{thousands * 1000:,.0f}"),
    ),
    Quantity(
        *("minutes", "Duration (min)", 1, lambda figures: figures.minutes),
        *("Duration", lambda minutes: clock(round(minutes * 60_000_000))),
    ),
    Quantity(
        *("cuts", "#shots (cuts)", 0, lambda figures: figures.shots, "Cuts"), is_relative=False
    ),
    Quantity(
        *("objects_per_frame", "#objects/frame", 1, lambda figures: figures.objects_per_frame),
        "Objects/frame",
    ),
    Quantity("classes", "#classes", 0, lambda figures: figures.classes, "Classes"),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of one video."""

    measured: float | None
    """None: not measured."""
    published: float | None
    """None: the paper has no figure."""
    deviation: float | None
    """Measured against published; None: one of them is missing."""


@dataclass(frozen=True, slots=True)
class Row:
    """One video, or the average; cells in the order of `QUANTITIES`."""

    video_id: str
    title: str
    domain: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Table6:
    """The whole table at one threshold."""

    videos: Sequence[ReportVideo]
    rows: tuple[Row, ...]
    average: Row
    threshold: float
    notes: Sequence[str]

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Return the scores that objects are counted from, ascending."""
        return tuple(sorted({*THRESHOLDS, self.threshold}))

    @property
    def title(self) -> str:
        """Return the heading: the paper's where the paper has such a table."""
        return "Table 6" if self.has_published else "Summary"

    @property
    def names(self) -> list[str]:
        """Return what each row's video is called, as in the figure, the notes and the page."""
        return [video.label for video in self.videos]

    @property
    def shown(self) -> tuple[int, ...]:
        """Return which of `QUANTITIES` to show: of videos that no paper knows, those measured."""
        return tuple(
            number
            for number, cell in enumerate(self.average.cells)
            if self.has_published or cell.measured is not None
        )

    @property
    def headings(self) -> list[str]:
        """Return those of the columns that are shown: the paper's where it has such a table."""
        quantities = [QUANTITIES[number] for number in self.shown]
        return [q.heading if self.has_published else q.own_heading for q in quantities]

    def texts(self, row: Row) -> Iterator[tuple[Cell, str, str, str]]:
        """Yield each shown cell of a row, and as text what it measured and the paper published.

        Last comes the deviation. Text of what the paper does not have is "".
        """
        for number in self.shown:
            cell, quantity, is_average = row.cells[number], QUANTITIES[number], row is self.average
            measured = format_figure(
                cell.measured, quantity, is_average=is_average, beside_paper=self.has_published
            )
            published = ""
            if cell.published is not None:
                published = format_figure(cell.published, quantity, is_average=is_average)
            deviation = format_deviation(cell, quantity, is_average=is_average)
            yield cell, measured, published, deviation

    @property
    def has_domains(self) -> bool:
        """Return whether the manifest knows the domain of a video."""
        return any(row.domain not in ("", "unknown") for row in self.rows)

    @property
    def has_objects(self) -> bool:
        """Return whether the objects of a video were measured."""
        return any(v.measured is not None and v.measured.objects is not None for v in self.videos)

    @property
    def has_published(self) -> bool:
        """Return whether the paper has a figure for any of the videos."""
        return any(cell.published is not None for row in self.rows for cell in row.cells)


def make_table(
    videos: Sequence[ReportVideo],
    *,
    threshold: float,
    compared: Sequence[Compared] = (),
    hints: CommandHints = NO_OPTIONS,
) -> Table6:
    """Return Table 6 of these videos, counting objects from a score of `threshold` up.

    Folders that stand beside the videos in Figure 2 have notes only.
    """
    rows = tuple(_row(video, threshold) for video in videos)
    columns = zip(QUANTITIES, zip(*(row.cells for row in rows), strict=True), strict=True)
    average = Row("average", "Average", "", tuple(_average(*column) for column in columns))
    notes = footnotes(videos, threshold=threshold, compared=compared, hints=hints)
    notes += _average_notes(rows)
    return Table6(videos=videos, rows=rows, average=average, threshold=threshold, notes=notes)


def format_figure(
    value: float | None, quantity: Quantity, *, is_average: bool = False, beside_paper: bool = True
) -> str:
    """Return a measured figure as the tables show it; beside the paper, in the paper's units."""
    if value is None:
        return NOT_MEASURED
    if quantity.own_text is not None and not beside_paper:
        return quantity.own_text(value)
    if is_average and quantity.key == "classes":
        return f"{value:,.1f}".removesuffix(".0")  # a mean; the paper's is a whole number
    decimals = quantity.decimals
    if is_average and quantity.key == "cuts":
        decimals = 1  # as the paper's average row
    return f"{value:,.{decimals}f}"


def format_deviation(cell: Cell, quantity: Quantity, *, is_average: bool = False) -> str:
    """Return "+3.1 %", for cuts "+2", or "equal"; "" where there is nothing to compare."""
    if cell.deviation is None:
        return ""
    if cell.deviation == 0:
        return "equal"
    if quantity.is_relative:
        text = f"{100 * cell.deviation:+.1f} %"
    else:
        text = f"{cell.deviation:+.{1 if is_average else 0}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def count_at(video: ReportVideo, threshold: float) -> tuple[float | None, int | None]:
    """Return objects per frame and classes, counted from one of the table's thresholds up."""
    if video.measured is None or video.measured.objects is None:
        return None, None
    count = video.measured.objects.at(threshold)
    return (None, None) if count is None else (count.objects_per_frame, count.classes)


def format_counts(video: ReportVideo, thresholds: Sequence[float]) -> tuple[list[str], list[str]]:
    """Return objects per frame and classes, counted from each threshold up, as the tables do."""
    counts = [count_at(video, threshold) for threshold in thresholds]
    return (
        [format_figure(objects, QUANTITIES[3]) for objects, _ in counts],
        [format_figure(classes, QUANTITIES[4]) for _, classes in counts],
    )


def _row(video: ReportVideo, threshold: float) -> Row:
    figures, published = _figures(video, threshold), video.entry.published
    cells = []
    for quantity, figure in zip(QUANTITIES, figures, strict=True):
        paper = None if published is None else quantity.published(published)
        cells.append(Cell(figure, paper, _deviation(figure, paper, quantity)))
    entry = video.entry
    return Row(entry.id, plain(entry.title), plain(entry.domain), tuple(cells))


def _figures(video: ReportVideo, threshold: float) -> list[float | None]:
    """Return the measured figures in the order of `QUANTITIES`."""
    if video.measured is None:
        return [None] * len(QUANTITIES)
    summary = video.measured.summary
    counts = count_at(video, threshold)
    return [summary.frames / 1000, summary.seconds / 60, video.measured.cuts, *counts]


def _average(quantity: Quantity, cells: Sequence[Cell]) -> Cell:
    measured = [cell.measured for cell in cells if cell.measured is not None]
    published = [cell.published for cell in cells if cell.published is not None]
    ours, paper = fmean(measured) if measured else None, fmean(published) if published else None
    # Means over different videos are not compared.
    is_same = all((cell.measured is None) == (cell.published is None) for cell in cells)
    return Cell(ours, paper, _deviation(ours, paper, quantity) if is_same else None)


def _average_notes(rows: Sequence[Row]) -> list[str]:
    """Return which averages are not over all videos, in a sentence; nothing where all are."""
    has_published = any(cell.published is not None for row in rows for cell in row.cells)
    columns = list(zip(QUANTITIES, zip(*(row.cells for row in rows), strict=True), strict=True))
    counts = {
        quantity.heading if has_published else quantity.own_heading: sum(
            cell.measured is not None for cell in cells
        )
        for quantity, cells in columns
    }
    partial = [f"{name} {count}" for name, count in counts.items() if 0 < count < len(rows)]
    is_compared = all(
        (cell.measured is None) == (cell.published is None)
        for _, cells in columns
        for cell in cells
    )
    if not partial and (is_compared or not has_published):
        return []
    of = f" (of {len(rows)}: {', '.join(partial)})" if partial else ""
    rest = "; averages over different videos are not compared" if has_published else ""
    return [f"An average is over the videos that have the figure{of}{rest}."]


def _deviation(ours: float | None, paper: float | None, quantity: Quantity) -> float | None:
    if ours is None or paper is None:
        return None
    if not quantity.is_relative:
        return ours - paper
    return (ours - paper) / paper if paper else None
