"""The colors of the report, and the settings of Figure 2."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Theme:
    """Colors of the figure and of the pages."""

    paper: str
    ink: str
    faint: str
    grid: str
    colors: tuple[str, ...]
    """By video or run, one in all panels; after these, lines are dashed (`line_style`). Each is
    4.5:1 from the paper, since names are written in it."""

    def color(self, number: int) -> str:
        """Return the color of the video or run with this number in its report, from 0."""
        return self.colors[number % len(self.colors)]


# Okabe and Ito's palette, less its black and yellow (too near to the text and to the paper), and
# four more: the ten Walking Tours have a color each.
LIGHT = Theme(
    paper="#ffffff",
    ink="#1d2329",
    faint="#57616b",
    grid="#dde2e7",
    colors=(
        *("#0072b2", "#c04a00", "#00805d", "#b3468c", "#8c6500"),
        *("#1b7a94", "#6b57b8", "#6e4b35", "#4f7400", "#c2334d"),
    ),
)
DARK = Theme(
    paper="#171b20",
    ink="#e8ebee",
    faint="#a8b2bc",
    grid="#343d46",
    colors=(
        *("#4fa8e0", "#f08a3c", "#35c195", "#e08fc0", "#f0b93c"),
        *("#7fd3e6", "#a99bf0", "#c99b6d", "#a3cf3f", "#f27d92"),
    ),
)

# The most frequent classes of a page; each at least 3:1 on light and on dark paper. The rest share
# the last color, and a dashed line as their second sign.
CLASS_COLORS = (
    *("#2f7fc1", "#d9700a", "#1f9268", "#c0609a", "#d8493f"),
    *("#2a95b8", "#8a6ac4", "#8f8a14", "#a5683a", "#5f8f2a"),
)
OTHER_CLASS_COLOR = "#7d8791"


def line_style(number: int) -> str:
    """Return matplotlib's line style: solid for the first colors, dashed when they come again."""
    return ("-", "--", ":", "-.")[number // len(LIGHT.colors) % 4]


@contextmanager
def drawing_style() -> Iterator[None]:
    """Draw with the light colors and nothing of the user's own matplotlib settings."""
    import matplotlib  # here: pages need the colors alone

    settings: Any = {
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "svg.hashsalt": "wtours",
        "text.color": LIGHT.ink,
        "text.parse_math": False,  # a title with two dollar signs is no formula
        "figure.facecolor": LIGHT.paper,
        "axes.facecolor": LIGHT.paper,
        "axes.edgecolor": LIGHT.grid,
        "axes.labelcolor": LIGHT.faint,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": LIGHT.grid,
        "grid.linewidth": 0.7,
        "xtick.color": LIGHT.grid,
        "ytick.color": LIGHT.grid,
        "xtick.labelcolor": LIGHT.faint,
        "ytick.labelcolor": LIGHT.faint,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield
