"""How many samples the tables of an MP4 or MOV file declare, counted before FFmpeg believes them.

FFmpeg allocates 24 bytes a sample when it opens the file: 1.3 kB of boxes can ask for gigabytes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from wtours.errors import VideoError

_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}
_FIRST_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"pnot", b"moof"}
_VISUAL_ENTRY = 78
"""Bytes of a sample entry before its boxes."""
_AUDIO_SAMPLES_PER_ENTRY = 1024
"""FFmpeg indexes PCM by pieces of a chunk."""


def declared_samples(path: Path) -> int:
    """Return the number of index entries that FFmpeg would make; 0: it is no MP4.

    Raises:
        VideoError: the header is compressed, so that nothing can be said of it; or there are two:
            FFmpeg reads the first alone, and half of the recording would be lost without a word.
    """
    with path.open("rb") as file:
        if file.read(8)[4:] not in _FIRST_BOXES:
            return 0
        total, tables = 0, dict[bytes, int]()
        for kind, place, size in _checked_boxes(path, file):
            if kind == b"trak":
                total, tables = total + _of_track(tables), {}
            file.seek(place)
            if kind == b"trun":
                total += _number(file.read(8)[4:8])
            elif kind == b"hdlr":
                tables[file.read(12)[8:12]] = 1
            elif kind in (b"stsz", b"stz2"):
                tables[b"stsz"] = _number(file.read(12)[8:12])
            elif kind in (b"stco", b"co64"):
                tables[b"stco"] = _number(file.read(8)[4:8])
            elif kind == b"stts":
                entries = file.read(16)
                tables[b"pcm"] = _number(entries[4:8]) == _number(entries[12:16]) == 1
            elif kind == b"stsc":
                box = file.read(min(size, 2**20))  # the largest samples_per_chunk
                tables[b"stsc"] = max(
                    (_number(box[i : i + 4]) for i in range(12, len(box), 12)), default=0
                )
        return total + _of_track(tables)


def is_dolby_vision_alone(path: Path) -> bool:
    """Return whether an MP4 says that its picture is for Dolby Vision, and for nothing else.

    Profile 5 has colors (IPTPQc2) that every other decoder shows purple and green.
    """
    with path.open("rb") as file:
        if file.read(8)[4:] not in _FIRST_BOXES:
            return False
        for kind, place, size in _boxes(file, 0, file.seek(0, 2)):
            if kind != b"stsd":
                continue
            for _, entry, length in _boxes(file, place + 8, place + size):
                for name, config, _ in _boxes(file, entry + _VISUAL_ENTRY, entry + length):
                    if name in (b"dvcC", b"dvvC"):
                        file.seek(config)
                        record = file.read(5)  # half of the last byte: what else shows it
                        return len(record) == 5 and not record[4] >> 4
    return False


def _checked_boxes(path: Path, file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    num_headers = 0
    for kind, place, size in _boxes(file, 0, file.seek(0, 2)):
        num_headers += kind == b"moov"
        if num_headers > 1:
            raise VideoError(
                f"{path} has two recordings, one behind the other in one file, of which only the "
                f"first can be read: join the two files by wtours add --join"
            )
        if kind == b"cmov":
            raise VideoError(
                f"{path} has a compressed header; remux it: ffmpeg -i IN -c copy OUT.mkv"
            )
        yield kind, place, size


def _of_track(tables: dict[bytes, int]) -> int:
    if b"soun" in tables and tables.get(b"pcm"):
        per_chunk = -(-tables.get(b"stsc", 0) // _AUDIO_SAMPLES_PER_ENTRY)
        return tables.get(b"stco", 0) * per_chunk
    return tables.get(b"stsz", 0)


def _boxes(file: BinaryIO, place: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, where its content is, the content's bytes), parents before children."""
    stack = [(place, end)]
    while stack:
        place, end = stack.pop()
        if place + 8 > end:
            continue
        file.seek(place)
        header = file.read(16)
        size, kind = _number(header[:4]), header[4:8]
        content = place + 8
        if size == 1:
            size, content = int.from_bytes(header[8:16], "big"), place + 16
        elif size == 0:
            size = end - place
        if size < content - place:
            continue  # FFmpeg, too, goes no further in this box
        following = min(place + size, end)
        stack.append((following, end))
        if kind in _CONTAINERS:
            stack.append((content, following))
        yield kind, content, following - content


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big") if len(data) == 4 else 0
