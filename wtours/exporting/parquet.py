"""Parquet files, laid out here: pyarrow's writer would copy every image twice more.

It copies a value into the buffer of a column, and that into a page. Here the bytes of a page are
written as they come. Each column of a row group is one page, plain and not compressed, which is
what images want; the metadata are in Thrift's compact protocol
(https://github.com/apache/parquet-format).
"""

import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

MAX_PAGE_BYTES = 2**31 - 1
LENGTH = struct.Struct("<I")
"""Stands before each value of bytes or text."""
_MAGIC = b"PAR1"
_PLAIN, _RLE = 0, 3  # encodings
_OPTIONAL, _UTF8 = 1, 0
_BYTE_ARRAY = 6
_TYPES: dict[pa.DataType, int] = {
    pa.int32(): 1,
    pa.int64(): 2,
    pa.binary(): _BYTE_ARRAY,
    pa.string(): _BYTE_ARRAY,
}


@dataclass(frozen=True, slots=True)
class Values:
    """One column of a row group."""

    is_there: Sequence[bool]
    """Of each row: the others are null."""
    num_bytes: int
    pieces: Iterable[bytes | memoryview]
    """Those that are there, as Parquet encodes them; `num_bytes` in all."""
    bounds: tuple[bytes, bytes] | None = None
    """The least and the greatest; None: they say nothing."""


def text_values(texts: Sequence[str], *, has_bounds: bool = True) -> Values:
    """Return a column of strings."""
    encoded = [text.encode() for text in texts]
    data = b"".join(LENGTH.pack(len(text)) + text for text in encoded)
    bounds = (min(encoded), max(encoded)) if has_bounds else None
    return Values([True] * len(texts), len(data), [data], bounds)


def number_values(numbers: Sequence[int | None], dtype: pa.DataType) -> Values:
    """Return a column of whole numbers."""
    there = np.array([number for number in numbers if number is not None], str(dtype))
    data = there.tobytes()
    bounds = (there.min().tobytes(), there.max().tobytes()) if len(there) else None
    return Values([number is not None for number in numbers], len(data), [data], bounds)


class ParquetWriter:
    """Writes a file; without `close` it is none.

    Args:
        file: At its beginning.
        schema: Columns of bytes, strings, int32 and int64, and structs of such; and the metadata.
        created_by: The program, for readers.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema, *, created_by: str) -> None:
        self._file, self._schema, self._created_by = file, schema, created_by
        self._leaves = [(path, type_) for path, type_ in _leaves(schema)]
        self._groups: list[dict[int, Any]] = []
        self._num_rows = 0
        self._at = file.write(_MAGIC)

    def write_group(self, columns: Sequence[Values]) -> None:
        """Write a row group: a column for each leaf of the schema, in its order."""
        begin, num_rows = self._at, len(columns[0].is_there)
        chunks = [
            self._write_column(path, type_, values)
            for (path, type_), values in zip(self._leaves, columns, strict=True)
        ]
        self._groups.append({1: chunks, 2: _I64(self._at - begin), 3: _I64(num_rows)})
        self._num_rows += num_rows

    def close(self) -> None:
        """Write the metadata, which make it a file."""
        pairs = (self._schema.metadata or {}).items()
        footer = {
            1: 2,
            2: list(_schema_elements(self._schema)),
            3: _I64(self._num_rows),
            4: self._groups,
            5: [{1: key, 2: value} for key, value in pairs],
            6: self._created_by.encode(),
            7: [{1: {}} for _ in self._leaves],  # bounds are in the order of the type
        }
        data = _encoded(footer)
        self._file.write(data + LENGTH.pack(len(data)) + _MAGIC)

    def _write_column(
        self, path: tuple[str, ...], type_: pa.DataType, values: Values
    ) -> dict[int, Any]:
        """Write a column of a row group, and return what the metadata say of it."""
        begin, num_rows = self._at, len(values.is_there)
        levels = _levels(values.is_there, len(path))
        num_bytes = len(levels) + values.num_bytes
        page = {1: num_rows, 2: _PLAIN, 3: _RLE, 4: _RLE}
        header = _encoded({1: 0, 2: num_bytes, 3: num_bytes, 5: page})
        for piece in itertools.chain([header + levels], values.pieces):
            self._at += self._file.write(piece)
        if self._at != begin + len(header) + num_bytes:
            raise ValueError(f"{'.'.join(path)} has other values than its {values.num_bytes} bytes")
        found = {
            1: _TYPES[type_],
            2: [_PLAIN, _RLE],
            3: [name.encode() for name in path],
            4: 0,  # not compressed
            5: _I64(num_rows),
            6: _I64(self._at - begin),
            7: _I64(self._at - begin),
            9: _I64(begin),
        }
        if values.bounds is not None:
            least, greatest = values.bounds
            found[12] = {3: _I64(num_rows - sum(values.is_there)), 5: greatest, 6: least}
        return {2: _I64(0), 3: found}


def _leaves(schema: pa.Schema) -> Iterator[tuple[tuple[str, ...], pa.DataType]]:
    for field in schema:
        if pa.types.is_struct(field.type):
            yield from (((field.name, child.name), child.type) for child in field.type)
        else:
            yield (field.name,), field.type


def _schema_elements(schema: pa.Schema) -> Iterator[dict[int, Any]]:
    """Yield the schema as Parquet has it: each node before those below it."""
    yield {4: b"schema", 5: len(schema)}
    for field in schema:
        below = list(field.type) if pa.types.is_struct(field.type) else []
        if below:
            yield {3: _OPTIONAL, 4: field.name.encode(), 5: len(below)}
        for leaf in below or [field]:
            is_text = {6: _UTF8, 10: {1: {}}} if pa.types.is_string(leaf.type) else {}
            yield {1: _TYPES[leaf.type], 3: _OPTIONAL, 4: leaf.name.encode(), **is_text}


def _levels(is_there: Sequence[bool], depth: int) -> bytes:
    """Return how many nodes of each value's path are there, as runs with their length before."""
    runs = b"".join(
        _varint(len(list(run)) << 1) + bytes([depth if there else depth - 1])
        for there, run in itertools.groupby(is_there)
    )
    return LENGTH.pack(len(runs)) + runs


class _I64(int):
    """A number of 64 bits in Thrift, where an int has 32."""


def _encoded(fields: dict[int, Any]) -> bytes:
    """Return a struct in Thrift's compact protocol: its fields by number, rising, then a stop."""
    data, last = bytearray(), 0
    for number, value in fields.items():
        kind, encoded = _value(value)
        data += bytes([(number - last) << 4 | kind]) + encoded
        last = number
    return bytes(data) + b"\0"


def _value(value: Any) -> tuple[int, bytes]:
    """Return the type and the bytes of a value in Thrift's compact protocol; a dict is a struct."""
    if isinstance(value, dict):
        return 12, _encoded(value)
    if isinstance(value, bytes):
        return 8, _varint(len(value)) + value
    if isinstance(value, list):
        items = [_value(item) for item in value]
        kind = items[0][0] if items else 12
        short = min(len(items), 15)
        head = bytes([short << 4 | kind]) + (_varint(len(items)) if short == 15 else b"")
        return 9, head + b"".join(data for _, data in items)
    return 6 if isinstance(value, _I64) else 5, _varint(
        value << 1 if value >= 0 else ~value << 1 | 1
    )


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])
