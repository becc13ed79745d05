"""The page of a past step of a run, in one HTML file: its clips, crops, masks and metrics."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from wtours.report.page import render
from wtours.storage.atomic import write_bytes
from wtours.text import clock, plain

_MAX_WIDTH, _QUALITY = 1400, 80


@dataclass(frozen=True, slots=True)
class ShownClip:
    """A clip of the step."""

    facts: dict[str, Any]
    crops: Image.Image
    masks: Image.Image


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
        page: The file.
        run: Its name.
        step: The step.
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
    facts = clip.facts
    times = ", ".join(clock(pts) for pts in facts.get("pts_us", ()))
    name = f"{facts.get('video_id', facts.get('image', ''))} {times}"
    pictures = (("crops", clip.crops), ("masks", clip.masks))
    loss = facts.get("loss")
    return {
        "name": plain(name),
        "position": facts["position"],
        "loss": None if loss is None else f"{loss:.4f}",
        "frame_crop": facts["frame_crop"],
        "pictures": [{"kind": kind, **_webp(image)} for kind, image in pictures],
    }


def _webp(image: Image.Image) -> dict[str, Any]:
    if image.width > _MAX_WIDTH:
        height = max(1, round(image.height * _MAX_WIDTH / image.width))
        image = image.resize((_MAX_WIDTH, height), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "WEBP", quality=_QUALITY, method=4)
    return {"webp": data.getvalue(), "width": image.width, "height": image.height}
