"""Arrays and images made elsewhere: a `.npy` a video, or a `.npy` or `.png` a frame."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wtours.errors import MissingPackageError, ShardError
from wtours.exporting.units import Unit
from wtours.layers.source import LayerSource, require_values
from wtours.shards.images.codecs import MAX_PIXELS
from wtours.shards.index import ShardIndex
from wtours.shards.schema import MAX_MEMBER_BYTES, sample_key
from wtours.storage.hashing import sha256_bytes, sha256_file
from wtours.text import counted, first_line

_SUFFIXES = (".npy", ".png")
_MODES = ("1", "L", "P", "I;16", "RGB", "RGBA")


class ArraySource(LayerSource):
    """A `.npy` for each video: an entry (…) for each of its frames in the set, in time order.

    Raises:
        ShardError: one is missing, damaged, or has another number of entries than the video frames.
    """

    def __init__(self, index: ShardIndex, path: Path) -> None:
        self._index = index
        self._arrays: dict[str, NDArray[Any]] = {}
        for video in index.videos:
            file = path / f"{video.video_id}.npy" if path.is_dir() else path
            if not path.is_dir() and len(index.videos) > 1:
                raise ShardError(
                    f"{index.directory} has several videos: give a folder of VIDEO.npy"
                )
            array, frames = _load(file), video.stop - video.start
            if array.ndim < 1 or len(array) != frames:
                raise ShardError(
                    f"{file} has {counted(len(array) if array.ndim else 0, 'entry', 'entries')} "
                    f"for {counted(frames, 'frame')} of {video.video_id}: give one for each frame "
                    f"of the set, in time order"
                )
            if array[:1].nbytes > MAX_MEMBER_BYTES:
                raise ShardError(f"{file}: an entry has more than {MAX_MEMBER_BYTES} bytes")
            self._arrays[video.video_id] = array
        shapes = {f"{array.shape[1:]} {array.dtype}" for array in self._arrays.values()}
        self.about = f"arrays made elsewhere: {'; '.join(sorted(shapes))}"
        self.params = {"kind": "arrays"}

    def inputs(self, unit: Unit) -> dict[str, str]:
        """Return the sha256 of the unit's values and times."""
        times = self._index.pts_us[unit.rows.start : unit.rows.stop].tobytes()
        values = np.ascontiguousarray(self._entries(unit))
        about = f"{values.shape} {values.dtype.str}".encode()
        return {"values": sha256_bytes(about + values.tobytes()), "times": sha256_bytes(times)}

    def values(self, unit: Unit) -> Iterator[NDArray[Any]]:
        """Yield the entry of each frame."""
        yield from self._entries(unit)

    def _entries(self, unit: Unit) -> NDArray[Any]:
        video = self._index.video_of(unit.rows.start)
        array = self._arrays[unit.video_id]
        entries: NDArray[Any] = array[unit.rows.start - video.start : unit.rows.stop - video.start]
        return entries


class FileSource(LayerSource):
    """A `.npy` or `.png` for each frame, named by its sample key (`venice-00000042.png`).

    They may lie in folders, as `wtours shards export --to imagefolder` lays out the frames.

    Raises:
        ShardError: a frame has none (unless that is allowed) or two, or a file is of no frame.
        MissingPackageError: there is a .png, and pillow is not installed.
    """

    def __init__(self, index: ShardIndex, folder: Path, *, allow_missing: bool) -> None:
        self._index = index
        self._files: dict[int, Path] = {}
        found: dict[str, Path] = {}
        for path in sorted(p for p in folder.rglob("[!.]*") if p.suffix.lower() in _SUFFIXES):
            if path.stem in found:
                raise ShardError(f"{path} and {found[path.stem]} are of one frame; remove one")
            found[path.stem] = path
        if any(p.suffix.lower() == ".png" for p in found.values()) and find_spec("PIL") is None:
            raise MissingPackageError("pillow", "layers", "reading a PNG")
        for row in range(len(index)):
            frame = index.frame(row)
            file = found.pop(sample_key(frame.video_id, frame.frame_index), None)
            if file is not None:
                self._files[row] = file
        if found:
            raise ShardError(
                f"{next(iter(found.values()))} is of no frame of {index.directory}: name files by "
                f"sample keys, for example {sample_key(index.videos[0].video_id, 42)}.png"
            )
        known = np.isin(np.arange(len(index)), list(self._files))
        require_values(index, known, allow_missing=allow_missing)
        suffixes = ", ".join(sorted({path.suffix[1:].lower() for path in self._files.values()}))
        self.about = f"a file a frame, made elsewhere ({suffixes}), as arrays of its own type"
        self.params = {"kind": "files"}

    def inputs(self, unit: Unit) -> dict[str, str]:
        """Return the sha256 of the unit's files and times."""
        times = self._index.pts_us[unit.rows.start : unit.rows.stop].tobytes()
        files = "".join(
            f"{number} {sha256_file(self._files[row])}\n"
            for number, row in enumerate(unit.rows)  # the same after other videos
            if row in self._files
        )
        return {"files": sha256_bytes(files.encode()), "times": sha256_bytes(times)}

    def values(self, unit: Unit) -> Iterator[NDArray[Any] | None]:
        """Yield the array of each frame's file."""
        for row in unit.rows:
            path = self._files.get(row)
            is_array = path is not None and path.suffix.lower() == ".npy"
            yield None if path is None else _load(path) if is_array else _image(path)


def _load(path: Path) -> NDArray[Any]:
    """Return a .npy of numbers, mapped: nothing is allocated for what a header merely claims.

    Raises:
        ShardError: it is none.
    """
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")  # refuses objects
        if array.dtype.kind not in "fiub":
            raise ValueError(f"an array of {array.dtype}")
    except FileNotFoundError as error:
        raise ShardError(f"{path} is not there; check the path") from error
    except (ValueError, OSError, EOFError, OverflowError, MemoryError) as error:
        raise ShardError(f"{path} is no .npy of numbers ({first_line(error)})") from error
    return array


def _image(path: Path) -> NDArray[Any]:
    """Return a PNG as (H, W) or (H, W, C) uint8, or (H, W) uint16; a palette's indices as they are.

    Raises:
        ShardError: it is none, or has more pixels than a frame may have.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            raw_mode = str(image.tile[0][3])  # pillow halves the bits of 16-bit colors
            is_halved = "16" in raw_mode and image.mode != "I;16"
            if image.width * image.height > MAX_PIXELS or image.mode not in _MODES or is_halved:
                raise ValueError(f"{image.width}x{image.height} pixels of mode {raw_mode}")
            array = np.asarray(image)
    except FileNotFoundError as error:
        raise ShardError(f"{path} is not there; check the path") from error
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ShardError(f"{path} is no PNG that can be read ({first_line(error)})") from error
    return array
