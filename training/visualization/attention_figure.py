"""The figure of a clip, as an image or a video: its frames, and where its objects are in them."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from training.config.train import TrainConfig
from training.data.clips import SourceClip
from training.visualization.attention_maps import ClipAttention, attend, crop_clip, mask_overlap
from training.visualization.overlay import (
    Picture,
    Row,
    draw_grid,
    object_colors,
    overlay,
    stretched,
    strongest_object,
)


def draw_clip(
    clip: SourceClip,
    backbone: VisionTransformer,
    heads: Tensor,
    config: TrainConfig,
    facts: dict[str, Any],
) -> tuple[Image.Image, dict[str, Any]]:
    """Return the figure of one clip, a column for each frame, and its JSON.

    Args:
        backbone: In evaluation mode.
        heads: (O,) int64, the heads that find the objects.
        facts: What else the JSON says: `run`, `step` and `palette` at least.
    """
    pictures, inputs = crop_clip(clip, config.data.global_crop_pixels)
    device = next(backbone.parameters()).device
    attention = attend(backbone, inputs.to(device), heads, config.tracking)
    facts = {
        **facts,
        "heads": heads.tolist(),
        "video_id": clip.video_id,
        "pts_us": list(clip.pts_us),
        "mask_overlap": {
            "plain": mask_overlap(attention.plain),
            "refined": mask_overlap(attention.refined),
        },
    }
    rows = picture_rows(pictures, attention, facts)
    return draw_grid(_title(facts), _times(facts["pts_us"]), rows, _legend(facts)), facts


def picture_rows(
    pictures: list[Picture], attention: ClipAttention, facts: dict[str, Any]
) -> list[Row]:
    """Return the frames of one clip, under the maps of equation 3 and 6, and equation 6 smoothed.

    Args:
        pictures: T frames (S, S, 3).
    """
    rows = [Row(["frames"], pictures)]
    for label, key, maps, draw in (
        (["cross-attention", "T, eq. 3"], "plain", attention.plain, overlay),
        (["refined", "T', eq. 6"], "refined", attention.refined, overlay),
        (["refined, smooth", "strongest object"], None, attention.refined, strongest_object),
    ):
        overlap = facts["mask_overlap"][key] if key else None
        if overlap is not None:
            label = [*label, f"mask overlap {overlap:.2f}"]
        by_frame = stretched(maps.double().numpy()).transpose(1, 0, 2)  # (T, O, N)
        drawn = [
            draw(frame, of_frame, facts["palette"])
            for frame, of_frame in zip(pictures, by_frame, strict=True)
        ]
        rows.append(Row(label, drawn))
    return rows


def draw_video(rows: list[Row], pts_us: Sequence[int], facts: dict[str, Any]) -> Iterator[Picture]:
    """Yield an image for each frame, with the rows' images side by side."""
    labels = [", ".join(row.label[:2]) for row in rows]
    for i, time in enumerate(_times(pts_us)):
        row = Row([], [row.pictures[i] for row in rows])
        yield np.asarray(draw_grid(f"{_title(facts)} · {time}", labels, [row], _legend(facts)))


def png_bytes(figure: Image.Image) -> bytes:
    """Return an image as a PNG."""
    png = io.BytesIO()
    figure.save(png, "PNG")
    return png.getvalue()


def _title(facts: dict[str, Any]) -> str:
    return f"{facts['video_id']} · run {facts['run']}, step {facts['step']:,}"


def _legend(facts: dict[str, Any]) -> list[tuple[str, Sequence[float]]]:
    """Return the objects, each with the attention head that finds it, and their colors."""
    heads = facts["heads"]
    colors = object_colors(len(heads), facts["palette"]).tolist()
    return [
        (f"object {number}, head {head}", color)
        for number, (head, color) in enumerate(zip(heads, colors, strict=True), 1)
    ]


def _times(pts_us: Sequence[int]) -> list[str]:
    return [f"{time_us / 1e6:.1f} s" for time_us in pts_us]
