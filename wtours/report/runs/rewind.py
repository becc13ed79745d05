"""The page of a past step of a run, in one HTML file: its clips, crops, masks and metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from wtours.report.page import render
from wtours.report.thumbnails import reduced_webp
from wtours.storage.atomic import write_bytes
from wtours.text import clock, plain

ShownClip = tuple[dict[str, Any], Image.Image, Image.Image]
"""A clip of the step: its facts, a drawing of its crops, and one of its masks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewindPage:
    """What the page shows."""

    run: str
    step: int
    metrics: Mapping[str, Any]
    """The step's line of metrics.jsonl; empty: there is none."""
    before: Mapping[str, float]
    """The median of each metric over the steps before."""
    checkpoint_step: int
    """Of the checkpoint whose masks are shown."""
    clips: Sequence[ShownClip]
    """In the order to show."""
    num_clips: int
    """Of the whole step."""
    spikes: Sequence[tuple[int, float, float, float]]
    """(step, loss, loss before, jump), the largest first."""
    collapse: Sequence[str]
    """Warnings that the run gave."""


def write_rewind_page(path: Path, page: RewindPage) -> None:
    """Publish the page."""
    before = page.before
    numbers = {
        name: (f"{value:.6g}", f"{before[name]:.6g}" if name in before else "")
        for name, value in page.metrics.items()
        if isinstance(value, int | float) and name != "step"
    }
    html = render(
        "rewind",
        run=plain(page.run),
        step=page.step,
        metrics=numbers,
        checkpoint_step=page.checkpoint_step,
        num_clips=page.num_clips,
        clips=[_shown(clip) for clip in page.clips],
        spikes=[(at, *(f"{value:.4g}" for value in values)) for at, *values in page.spikes],
        collapse=[plain(warning) for warning in page.collapse],
        data={},
    )
    write_bytes(path, html.encode())


def _shown(clip: ShownClip) -> dict[str, Any]:
    facts, *drawings = clip
    times = ", ".join(clock(pts) for pts in facts.get("pts_us", ()))
    name = f"{facts.get('video_id', facts.get('image', ''))} {times}"
    loss = facts.get("loss")
    return {
        "name": plain(name),
        "position": facts["position"],
        "loss": None if loss is None else f"{loss:.4f}",
        "frame_crop": facts["frame_crop"],
        "pictures": [
            {"kind": kind, **reduced_webp(drawing)}
            for kind, drawing in zip(("crops", "masks"), drawings, strict=True)
        ],
    }
