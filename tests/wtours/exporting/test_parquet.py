"""What is laid out here, read by pyarrow: of any values and any number of row groups."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wtours.exporting.parquet import (
    LENGTH,
    ParquetWriter,
    Values,
    number_values,
    text_values,
)

_PAIR = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
SCHEMA = pa.schema(
    [
        pa.field("image", _PAIR),
        pa.field("id", pa.string()),
        pa.field("wide", pa.int64()),
        pa.field("small", pa.int32()),
    ],
    metadata={"about": "ÿ" * 200},
)


def signed(bits):
    return st.none() | st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


ROWS = st.fixed_dictionaries(
    {
        "image": st.fixed_dictionaries({"bytes": st.binary(max_size=300), "path": st.text()}),
        "id": st.text(),
        "wide": signed(64),
        "small": signed(32),
    }
)


def write_group(writer, rows):
    images = [row["image"]["bytes"] for row in rows]
    pieces = [LENGTH.pack(len(image)) + image for image in images]
    writer.write_group(
        [
            Values([True] * len(rows), sum(map(len, pieces)), pieces),
            text_values([row["image"]["path"] for row in rows], has_bounds=False),
            text_values([row["id"] for row in rows]),
            number_values([row["wide"] for row in rows], pa.int64()),
            number_values([row["small"] for row in rows], pa.int32()),
        ]
    )


@settings(max_examples=40, deadline=None)
@given(groups=st.lists(st.lists(ROWS, min_size=1, max_size=5), max_size=20))
def test_any_values_are_read_by_pyarrow_as_they_were(groups):
    file = io.BytesIO()
    writer = ParquetWriter(file, SCHEMA, created_by="a test")
    for rows in groups:
        write_group(writer, rows)
    writer.close()
    rows = [row for group in groups for row in group]
    read = pq.ParquetFile(io.BytesIO(file.getvalue()))
    assert read.read().equals(pa.Table.from_pylist(rows, schema=SCHEMA), check_metadata=True)
    assert (read.num_row_groups, read.metadata.created_by) == (len(groups), "a test")
    for number, group in enumerate(groups):
        for column, name in ((3, "wide"), (4, "small")):
            numbers = [row[name] for row in group if row[name] is not None]
            found = read.metadata.row_group(number).column(column).statistics
            assert found is None or (found.min, found.max) == (min(numbers), max(numbers))
            assert (found is None) == (not numbers)


def test_values_of_other_bytes_than_were_said_are_refused():
    writer = ParquetWriter(io.BytesIO(), pa.schema([("image", pa.binary())]), created_by="a test")
    with pytest.raises(ValueError, match="image has other values than its 9 bytes"):
        writer.write_group([Values([True], 9, [LENGTH.pack(3), b"abc"])])
