"""Layouts of loose images: a folder a video (ImageFolder), and DAVIS sequences."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wtours.errors import UsageError
from wtours.exporting.units import Exporter, Unit, clip_units, frames_of, shard_units
from wtours.shards.index import ShardIndex
from wtours.shards.schema import sample_key
from wtours.shards.split import read_split
from wtours.storage.atomic import TEMP_PREFIX, write_bytes
from wtours.storage.os_errors import explain_os_errors


@dataclass(frozen=True)
class ImageFolderExporter(Exporter):
    """`<video_id>/<key>.jpg` and `metadata.csv`: torchvision's and Hugging Face's ImageFolder.

    The images are those of the shards, byte for byte; a class of torchvision's is a video.
    """

    suffix = "imagefolder"

    def is_done(self, index: ShardIndex, unit: Unit, out: Path) -> bool:
        """Return whether every image is there in full length."""
        return _are_there(index, unit, out, self._names(index, unit))

    def write(self, index: ShardIndex, unit: Unit, out: Path) -> None:
        """Publish the images of a unit."""
        _write_images(index, unit, out, self._names(index, unit))

    def finish(self, index: ShardIndex, units: Sequence[Unit], out: Path) -> None:
        """Publish metadata.csv: a line a frame."""
        lines = ["file_name,video_id,frame_index,pts_us,shot"]
        for unit in units:
            rows = slice(unit.rows.start, unit.rows.stop)
            columns = (index.frame_index, index.pts_us, index.shot)
            numbers = zip(*(column[rows].tolist() for column in columns), strict=True)
            lines += [
                f"{name},{unit.video_id},{frame_index},{pts_us},{shot if shot >= 0 else ''}"
                for name, (frame_index, pts_us, shot) in zip(
                    self._names(index, unit), numbers, strict=True
                )
            ]
        write_bytes(out / "metadata.csv", "\n".join([*lines, ""]).encode())

    def _names(self, index: ShardIndex, unit: Unit) -> list[str]:
        """Return the paths of the images in the export; a split's are `<part>/<tar>` units."""
        part, slash, _ = unit.name.rpartition("/")
        folder, suffix = f"{part}{slash}{unit.video_id}", index.dataset.params.suffix
        return [
            f"{folder}/{sample_key(unit.video_id, frame_index)}{suffix}"
            for frame_index in index.frame_index[unit.rows.start : unit.rows.stop].tolist()
        ]


@dataclass(frozen=True)
class SplitImageFolderExporter(ImageFolderExporter):
    """The same below `train/` and `val/`, by the set's split.json; frames of no part are left out.

    As labeled images for an evaluation: which video is a frame from?
    """

    split_sha256: str
    """Of the file; another split is another export."""

    def units(self, index: ShardIndex) -> list[Unit]:
        """Return a unit for each stretch of a tar that lies in one part.

        Raises:
            ShardError: the set has no split.json, or not of these videos.
        """
        parts = [(part, read_split(index, part)) for part in ("train", "val")]
        units: list[Unit] = []
        for tar in shard_units(index):
            pts_us = index.pts_us[tar.rows.start : tar.rows.stop]
            for part, split in parts:
                held = split.holds(tar.video_id, pts_us, 0)
                edges = np.flatnonzero(np.diff(held, prepend=False, append=False)).tolist()
                for first, stop in zip(edges[::2], edges[1::2], strict=True):
                    rows = range(tar.rows.start + first, tar.rows.start + stop)
                    units.append(Unit(len(units), f"{part}/{tar.name}", tar.video_id, rows))
        return units


@dataclass(frozen=True)
class DavisExporter(Exporter):
    """`JPEGImages/480p/<clip>/00000.jpg` and `ImageSets/2017/train.txt`, as DAVIS 2017 has them.

    A sequence is at most `clip_seconds` of one shot without a missing frame. There are no masks:
    the layout serves loaders of unlabeled sequences (TimeTuning).
    """

    clip_seconds: float = 10.0
    suffix = "davis"

    def units(self, index: ShardIndex) -> list[Unit]:
        """Return a unit for each sequence.

        Raises:
            UsageError: the frames are no JPEGs, which DAVIS's loaders alone find.
        """
        if index.dataset.params.codec != "jpeg":
            raise UsageError("--to davis holds JPEGs, and this set has none; use imagefolder")
        return clip_units(index, self.clip_seconds)

    def is_done(self, index: ShardIndex, unit: Unit, out: Path) -> bool:
        """Return whether every image of the sequence is there in full length."""
        return _are_there(index, unit, out, self._names(unit))

    def write(self, index: ShardIndex, unit: Unit, out: Path) -> None:
        """Publish a sequence."""
        _write_images(index, unit, out, self._names(unit))

    def finish(self, index: ShardIndex, units: Sequence[Unit], out: Path) -> None:
        """Publish the list of sequences."""
        names = "".join(f"{unit.name}\n" for unit in units)
        write_bytes(out / "ImageSets" / "2017" / "train.txt", names.encode())

    def _names(self, unit: Unit) -> list[str]:
        folder = f"JPEGImages/480p/{unit.name}"
        return [f"{folder}/{number:05d}.jpg" for number in range(len(unit.rows))]


def _are_there(index: ShardIndex, unit: Unit, out: Path, names: Sequence[str]) -> bool:
    sizes = index.size[unit.rows.start : unit.rows.stop].tolist()
    try:
        return all(
            (out / name).stat().st_size == size for name, size in zip(names, sizes, strict=True)
        )
    except (FileNotFoundError, NotADirectoryError):
        return False


def _write_images(index: ShardIndex, unit: Unit, out: Path, names: Sequence[str]) -> None:
    """Publish the images of a unit, which share a folder, each by a rename.

    They are not flushed one by one, which would take ten times as long as to copy them: a kill
    loses nothing, and after a power cut a file of another length is written again.
    """
    folder = (out / names[0]).parent
    folder.mkdir(parents=True, exist_ok=True)
    temp = folder / f"{TEMP_PREFIX}image"
    for name, (_, _, image) in zip(names, frames_of(index, unit), strict=True):
        path = out / name
        with explain_os_errors(path):
            temp.write_bytes(image)
            temp.replace(path)
