"""The headers of a tar from anywhere: every size bounded, always forward, never beyond the end.

`tarfile` parses a block here but does not walk: in many a Python 3.11 and 3.12 a negative size
leads it back for ever (CVE-2025-8194), and a pax header of digits costs the square of its length
(CVE-2024-6232). It also takes a tar that was cut between two members for a whole one.
"""

import contextlib
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 2048 * _BLOCK
_MAX_EXTENSION_BYTES = 2**20
"""Of a header that extends the next one: names and comments, no payload."""
Kind = Literal["file", "folder", "hard link", "symbolic link", "other"]
_KINDS: dict[bytes, Kind] = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.DIRTYPE: "folder",
    tarfile.LNKTYPE: "hard link",
    tarfile.SYMTYPE: "symbolic link",
}
_WITHOUT_PAYLOAD = {
    *(tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE),
    *(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
}


@dataclass(frozen=True, slots=True)
class TarMember:
    """One member of a tar."""

    name: str
    """As stored."""
    kind: Kind
    """What has no plain bytes is "other": devices, sparse files."""
    offset: int
    """Where its payload begins, in the tar or in what it unpacks to."""
    size: int
    """Bytes of the payload."""
    target: str = ""
    """Of a link."""


def read_headers(file: BinaryIO) -> Iterator[TarMember]:
    """Yield the members of a tar in the order of their headers; no payload is read.

    Args:
        file: Seekable forward; from its beginning.

    Raises:
        tarfile.ReadError: it is no tar, was cut, has a header that cannot be, or another tar
            follows it.
    """
    position, extension = 0, dict[str, str]()
    while True:
        block = _read_at(file, position, _BLOCK)
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # a zero block; not in typeshed
            _require_no_second(file)
            return
        except (tarfile.HeaderError, ValueError) as error:
            raise tarfile.ReadError(f"header at byte {position}: {error}") from error
        start, size = position + _BLOCK, header.size
        if size < 0:
            raise tarfile.ReadError(f"header at byte {position}: a size of {size} bytes")
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            key = "path" if header.type == tarfile.GNUTYPE_LONGNAME else "linkpath"
            text = _extension(file, start, size).partition(b"\0")[0]
            extension[key] = text.decode("utf-8", "surrogateescape")
        elif header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            extension |= _pax_records(_extension(file, start, size), position)
        elif header.type == tarfile.XGLTYPE:
            _extension(file, start, size)  # of the whole tar: none that names or sizes a member
        else:
            if header.type == tarfile.GNUTYPE_SPARSE:
                start = _after_sparse_map(file, start, more=block[482])
            size = 0 if header.type in _WITHOUT_PAYLOAD else int(extension.get("size", size))
            sparse = any(key.startswith("GNU.sparse.") for key in extension)
            name = extension.get("GNU.sparse.name", extension.get("path", header.name))
            kind: Kind = "other" if sparse else _KINDS.get(header.type, "other")
            if kind == "file" and name.endswith("/"):  # a folder of the first tars
                kind = "folder"
            yield TarMember(name, kind, start, size, extension.get("linkpath", header.linkname))
            extension = {}
        position = start + -(-size // _BLOCK) * _BLOCK


def _read_at(file: BinaryIO, position: int, num_bytes: int) -> bytes:
    file.seek(position)
    data = file.read(num_bytes)
    if len(data) < num_bytes:
        length = file.seek(0, os.SEEK_CUR)
        raise tarfile.ReadError(f"it was cut after {length} bytes, its end is missing")
    return data


def _require_no_second(file: BinaryIO) -> None:
    """Refuse two tars in one file, as `cat` joins them: whoever reads such a file sees the first.

    Zeros that fill up the last record, and bytes that are no header, may follow a tar.
    """
    while chunk := file.read(_CHUNK):
        rest = chunk.lstrip(b"\0")
        if not rest:
            continue
        start = (len(chunk) - len(rest)) // _BLOCK * _BLOCK
        block = chunk[start : start + _BLOCK]
        with contextlib.suppress(tarfile.HeaderError, ValueError):
            tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            raise tarfile.ReadError(
                "another tar follows its end; unpack it with tar -i and pack it again"
            )
        return


def _after_sparse_map(file: BinaryIO, start: int, *, more: int) -> int:
    while more:
        more = _read_at(file, start, _BLOCK)[504]
        start += _BLOCK
    return start


def _extension(file: BinaryIO, start: int, size: int) -> bytes:
    if size > _MAX_EXTENSION_BYTES:
        raise tarfile.ReadError(f"header at byte {start - _BLOCK}: a name of {size} bytes")
    return _read_at(file, start, size)


def _pax_records(data: bytes, position: int) -> dict[str, str]:
    """Return the records "<length> <key>=<value>\\n" of a pax header."""
    records: dict[str, str] = {}
    start = 0
    while start < len(data) and data[start] != 0:
        length, space, _ = data[start : start + 8].partition(b" ")
        stop = start + int(length) if space and length.isdigit() else 0
        record = data[start + len(length) + 1 : stop]
        key, equals, value = record[:-1].partition(b"=")
        if not equals or record[-1:] != b"\n" or stop > len(data):
            raise tarfile.ReadError(f"pax header at byte {position}: no record at {start}")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        start = stop
    size = records.get("size", "0")
    if not (size.isascii() and size.isdigit() and len(size) <= 19):
        raise tarfile.ReadError(f"pax header at byte {position}: a size that is no number")
    return records
