"""The figure of a clip, as an image or a video: its frames, and where its objects are in them."""

import io
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from training.visualization.overlay import Picture, Row, draw_grid, overlay, stretched


def picture_rows(
    pictures: list[Picture], plain: Tensor, refined: Tensor, facts: dict[str, Any]
) -> list[Row]:
    """Return the frames of one clip, and under the maps of equation 3 and of equation 6.

    Args:
        pictures: T frames (S, S, 3).
        plain: (O, T, N) maps of equation 3.
        refined: (O, T, N) maps of equation 6.
        facts: The figure's JSON.
    """
    rows = [Row(["frames"], pictures)]
    for label, key, maps in (
        (["cross-attention", "T, eq. 3"], "plain", plain),
        (["refined", "cross-attention", "T', eq. 6"], "refined", refined),
    ):
        overlap = facts["mask_overlap"][key]
        if overlap is not None:
            label = [*label, f"mask overlap {overlap:.2f}"]
        by_frame = stretched(maps.double().numpy()).transpose(1, 0, 2)  # (T, O, N)
        drawn = [
            overlay(frame, of_frame, facts["palette"])
            for frame, of_frame in zip(pictures, by_frame, strict=True)
        ]
        rows.append(Row(label, drawn))
    return rows


def draw_still(rows: list[Row], facts: dict[str, Any]) -> Image.Image:
    """Return the figure of one clip, a column for each frame."""
    return draw_grid(_title(facts), _times(facts), rows)


def draw_video(rows: list[Row], facts: dict[str, Any]) -> list[Picture]:
    """Return an image for each frame, with the rows' images side by side."""
    labels = [" ".join(row.label[:-1] if len(row.label) > 2 else row.label) for row in rows]
    return [
        np.asarray(
            draw_grid(_title(facts), labels, [Row([time], [row.pictures[i] for row in rows])])
        )
        for i, time in enumerate(_times(facts))
    ]


def png_bytes(figure: Image.Image) -> bytes:
    """Return an image as a PNG."""
    png = io.BytesIO()
    figure.save(png, "PNG")
    return png.getvalue()


def _title(facts: dict[str, Any]) -> str:
    heads = ", ".join(map(str, facts["heads"]))
    return f"{facts['video_id']} · run {facts['run']}, step {facts['step']} · heads {heads}"


def _times(facts: dict[str, Any]) -> list[str]:
    return [f"{pts_us / 1e6:.1f} s" for pts_us in facts["pts_us"]]
