"""Arrays as members of a layer's tar: `.npy`, or `.npz` where whole numbers compress well.

Any numpy reads them, and webdataset. Read here, no object is unpickled, and nothing is allocated
that the bytes do not hold or that a header merely claims.
"""

import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wtours.errors import ShardError
from wtours.shards.schema import MAX_MEMBER_BYTES

_ENTRY = "value.npy"
_MAX_HEADER_BYTES = 4096


def array_suffix(array: NDArray[Any]) -> str:
    """Return "npy" or "npz": masks, which are whole numbers, are compressed."""
    return "npy" if array.dtype.kind == "f" else "npz"


def encode_array(array: NDArray[Any]) -> bytes:
    """Return the bytes of the file; the same array gives the same bytes.

    Raises:
        ValueError: it is larger than a member may be, and would not be read.
    """
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array, order="C"), allow_pickle=False)
    if buffer.tell() > MAX_MEMBER_BYTES:
        raise ValueError(f"more than {MAX_MEMBER_BYTES} bytes")
    if array_suffix(array) == "npy":
        return buffer.getvalue()
    packed = io.BytesIO()
    entry = zipfile.ZipInfo(_ENTRY)  # of 1980: no clock in it
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(entry, buffer.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=1)
    return packed.getvalue()


def decode_array(data: bytes, suffix: str) -> NDArray[Any]:
    """Return the array of a file of `encode_array`.

    Raises:
        ValueError: it is none, or larger than a member may be.
    """
    if suffix == "npz":
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(_ENTRY) as entry:
                data = entry.read(MAX_MEMBER_BYTES + 1)
        except (zipfile.BadZipFile, KeyError, zlib.error, EOFError, NotImplementedError) as error:
            raise ValueError(f"no npz ({error})") from error
        if len(data) > MAX_MEMBER_BYTES:
            raise ValueError(f"more than {MAX_MEMBER_BYTES} bytes")
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an npy of another version than 1.0")
    header = np.lib.format.read_array_header_1_0(file, max_header_size=_MAX_HEADER_BYTES)
    shape, fortran_order, dtype = header
    count = math.prod(shape)
    if dtype.hasobject or dtype.kind not in "fiub" or fortran_order:
        raise ValueError(f"an array of {dtype}")
    if min(shape, default=0) < 0 or count * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"{len(data) - file.tell()} bytes for an array {shape} of {dtype}")
    return np.frombuffer(data, dtype, count, file.tell()).reshape(shape)


def stacked(values: Sequence[NDArray[Any] | None], layer: str) -> NDArray[Any]:
    """Return the values of a clip's T frames as (T, ...), NaN where one of floats is missing.

    Raises:
        ShardError: none is there, they differ in shape, or a whole number is missing.
    """
    present = [value for value in values if value is not None]
    kinds = {(value.shape, value.dtype) for value in present}
    if len(kinds) != 1 or (len(present) < len(values) and present[0].dtype.kind != "f"):
        raise ShardError(
            f"layer {layer!r} has {len(present)} values of {len(kinds)} shapes for a clip of "
            f"{len(values)} frames, which make no array: read the clips of `ClipDataset` itself, "
            f"not of `.torch()`"
        )
    missing = np.full(present[0].shape, np.nan) if len(present) < len(values) else present[0]
    return np.stack([missing if value is None else value for value in values]).astype(
        present[0].dtype, copy=False
    )
