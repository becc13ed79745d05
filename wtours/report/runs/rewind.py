"""The page of a past step of a run, in one HTML file: its clips, crops, masks and metrics."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from wtours.report.page import render
from wtours.report.thumbnails import reduced_webp
from wtours.storage.atomic import write_bytes
from wtours.text import clock, plain

ShownClip = tuple[dict[str, Any], Image.Image, Image.Image]
"""A clip of the step: its facts, a drawing of its crops, and one of its masks."""


def write_rewind_page(
    page: Path,
    *,
    run: str,
    step: int,
    metrics: dict[str, Any] | None,
    checkpoint_step: int,
    clips: Sequence[ShownClip],
    num_clips: int,
    spikes: Sequence[tuple[int, float, float, float]],
) -> None:
    """Publish the page.

    Args:
        metrics: Its line of metrics.jsonl; None: there is none.
        checkpoint_step: The step of the checkpoint whose masks are shown.
        clips: In the order to show.
        num_clips: Of the whole step.
        spikes: (step, loss, loss before, jump), the largest first.
    """
    numbers = {
        name: f"{value:.6g}"
        for name, value in (metrics or {}).items()
        if isinstance(value, int | float) and name != "step"
    }
    html = render(
        "rewind",
        run=plain(run),
        step=step,
        metrics=numbers,
        checkpoint_step=checkpoint_step,
        num_clips=num_clips,
        clips=[_shown(clip) for clip in clips],
        spikes=[(at, *(f"{value:.4g}" for value in values)) for at, *values in spikes],
        data={},
    )
    write_bytes(page, html.encode())


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
