"""The colors of the report, and the settings of Figure 2."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib


@dataclass(frozen=True, slots=True)
class Theme:
    """Colors of the figure."""

    paper: str
    ink: str
    faint: str
    grid: str
    colors: tuple[str, ...]
    """By video, told apart with any color blindness; line styles tell apart more videos."""


# Okabe and Ito's palette, less its black and yellow (too near to the text and to the paper).
LIGHT = Theme(
    paper="#ffffff",
    ink="#1d2329",
    faint="#5c6670",
    grid="#dfe3e8",
    colors=("#0072b2", "#d55e00", "#009e73", "#b0478a", "#c98500", "#3a9ad9"),
)
DARK = Theme(
    paper="#171b20",
    ink="#e8ebee",
    faint="#a2acb6",
    grid="#333b44",
    colors=("#4fa8e0", "#f08a3c", "#35c195", "#e08fc0", "#f0b93c", "#8fd0ff"),
)


# The same palette for the most frequent classes, and one color for the rest.
CLASS_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1")
OTHER_CLASS_COLOR = "#8b949e"


@contextmanager
def drawing_style(theme: Theme) -> Iterator[None]:
    """Draw with these colors and nothing of the user's own matplotlib settings."""
    settings: Any = {
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "svg.hashsalt": "wtours",
        "text.color": theme.ink,
        "text.parse_math": False,  # a title with two dollar signs is no formula
        "figure.facecolor": theme.paper,
        "axes.facecolor": theme.paper,
        "axes.edgecolor": theme.grid,
        "axes.labelcolor": theme.faint,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.7,
        "xtick.color": theme.grid,
        "ytick.color": theme.grid,
        "xtick.labelcolor": theme.faint,
        "ytick.labelcolor": theme.faint,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield
