"""Layouts of loose images: a folder a video (ImageFolder), and DAVIS sequences."""

from collections.abc import Iterator, Sequence
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
        return _are_there(self._paths(index, unit, out))

    def write(self, index: ShardIndex, unit: Unit, out: Path) -> None:
        """Publish the images of a unit."""
        _write_images(index, unit, [path for path, _ in self._paths(index, unit, out)])

    def finish(self, index: ShardIndex, units: Sequence[Unit], out: Path) -> None:
        """Publish metadata.csv: a line a frame."""
        lines = ["file_name,video_id,frame_index,pts_us,shot"]
        for unit in units:
            for (path, _), row in zip(self._paths(index, unit, out), unit.rows, strict=True):
                shot = int(index.shot[row])
                name = path.relative_to(out).as_posix()
                lines.append(
                    f"{name},{unit.video_id},{index.frame_index[row]},{index.pts_us[row]},"
                    f"{shot if shot >= 0 else ''}"
                )
        write_bytes(out / "metadata.csv", "\n".join([*lines, ""]).encode())

    def _paths(self, index: ShardIndex, unit: Unit, out: Path) -> Iterator[tuple[Path, int]]:
        folder = out / unit.name.rpartition("/")[0] / unit.video_id
        for row in unit.rows:
            key = sample_key(unit.video_id, int(index.frame_index[row]))
            yield folder / f"{key}{index.dataset.params.suffix}", int(index.size[row])


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
        sizes = index.size[unit.rows.start : unit.rows.stop].tolist()
        return _are_there(zip(self._paths(unit, out), sizes, strict=True))

    def write(self, index: ShardIndex, unit: Unit, out: Path) -> None:
        """Publish a sequence."""
        _write_images(index, unit, self._paths(unit, out))

    def finish(self, index: ShardIndex, units: Sequence[Unit], out: Path) -> None:
        """Publish the list of sequences."""
        names = "".join(f"{unit.name}\n" for unit in units)
        write_bytes(out / "ImageSets" / "2017" / "train.txt", names.encode())

    def _paths(self, unit: Unit, out: Path) -> list[Path]:
        folder = out / "JPEGImages" / "480p" / unit.name
        return [folder / f"{number:05d}.jpg" for number in range(len(unit.rows))]


def _are_there(files: Iterator[tuple[Path, int]]) -> bool:
    try:
        return all(path.stat().st_size == size for path, size in files)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _write_images(index: ShardIndex, unit: Unit, paths: Sequence[Path]) -> None:
    """Publish the images of a unit, each by a rename.

    They are not flushed one by one, which would take ten times as long as to copy them: a kill
    loses nothing, and after a power cut a file of another length is written again.
    """
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    for path, (_, _, jpeg) in zip(paths, frames_of(index, unit), strict=True):
        temp = path.with_name(f"{TEMP_PREFIX}{path.name}")
        with explain_os_errors(path):
            temp.write_bytes(jpeg)
            temp.replace(path)
