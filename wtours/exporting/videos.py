"""Layouts of short videos: MP4 clips, and V-JEPA's list of them."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wtours.errors import ShardError
from wtours.exporting.units import Exporter, Unit, clip_units, frames_of, rate_of
from wtours.media.encode import open_encoder, set_times
from wtours.shards import FrameRef, ShardIndex
from wtours.shards.images.codecs import decode_image
from wtours.shards.schema import sample_key
from wtours.storage.atomic import atomic_path, write_bytes

_US = 1_000_000


@dataclass(frozen=True)
class Mp4Exporter(Exporter):
    """`<video_id>/<key of the first frame>.mp4` and clips.csv: H.264, one shot a clip.

    The frames are encoded a second time, so they lose a little; equal sets give equal bytes. They
    are shown at a steady rate, or where that is off by a frame, at their own times.
    """

    clip_seconds: float = 10.0
    crf: int = 18
    suffix = "mp4"

    def units(self, index: ShardIndex) -> list[Unit]:
        """Return a unit for each clip."""
        return clip_units(index, self.clip_seconds)

    def is_done(self, index: ShardIndex, unit: Unit, out: Path) -> bool:
        """Return whether the clip is there: it is published whole."""
        return _clip_path(unit, out).is_file()

    def write(self, index: ShardIndex, unit: Unit, out: Path) -> None:
        """Publish a clip.

        Raises:
            ShardError: a frame does not decode, or is of another size than the first.
        """
        with atomic_path(_clip_path(unit, out)) as temp:
            frames = (_decode(frame, bytes(jpeg)) for frame, _, jpeg in frames_of(index, unit))
            first = next(frames)
            size, rate = (first.shape[1], first.shape[0]), rate_of(index, unit.video_id)
            with open_encoder(
                temp,
                size=size,
                frame_rate=rate,
                pixel_format="rgb24",
                crf=self.crf,
            ) as write:
                write(first)
                for pixels in frames:
                    if pixels.shape != first.shape:
                        raise ShardError(f"{unit.name}: the size of its frames changes")
                    write(pixels)
            times_us = index.pts_us[unit.rows.start : unit.rows.stop]
            period_us = float(_US / rate)
            steady_us = times_us[0] + np.arange(len(times_us)) * period_us
            if float(np.abs(times_us - steady_us).max()) > period_us:
                set_times(temp, times_us.tolist(), frame_rate=rate)

    def finish(self, index: ShardIndex, units: Sequence[Unit], out: Path) -> None:
        """Publish clips.csv: file, video, times and number of frames."""
        lines = ["file_name,video_id,start_us,end_us,frames"]
        for unit in units:
            name = _clip_path(unit, out).relative_to(out).as_posix()
            first, last = (int(index.pts_us[row]) for row in (unit.rows[0], unit.rows[-1]))
            lines.append(f"{name},{unit.video_id},{first},{last},{len(unit.rows)}")
        write_bytes(out / "clips.csv", "\n".join([*lines, ""]).encode())


@dataclass(frozen=True)
class VJepaExporter(Mp4Exporter):
    """The same clips, and vjepa.csv as V-JEPA's VideoDataset reads it: a line `path label`.

    Paths are absolute, as V-JEPA wants them: export again, which takes no time, after a move. The
    label is the number of the video, 0 for the first id. V-JEPA reads the list by pandas, split
    at spaces, for which a path with one stands in quotes.
    """

    suffix = "vjepa"

    def finish(self, index: ShardIndex, units: Sequence[Unit], out: Path) -> None:
        """Publish clips.csv and vjepa.csv."""
        super().finish(index, units, out)
        numbers = {video.video_id: n for n, video in enumerate(index.dataset.videos)}
        text = io.StringIO()
        lines = csv.writer(text, delimiter=" ", lineterminator="\n")
        lines.writerows((_clip_path(unit, out.resolve()), numbers[unit.video_id]) for unit in units)
        write_bytes(out / "vjepa.csv", text.getvalue().encode())


def _clip_path(unit: Unit, out: Path) -> Path:
    return out / unit.video_id / f"{unit.name}.mp4"


def _decode(frame: FrameRef, jpeg: bytes) -> NDArray[np.uint8]:
    try:
        pixels: NDArray[np.uint8] = decode_image(jpeg)
    except ValueError as error:
        key = sample_key(frame.video_id, frame.frame_index)
        raise ShardError(
            f"{key} does not decode ({error}); run `wtours verify` to find the damaged shard"
        ) from error
    return pixels
