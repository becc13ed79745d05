"""An analysis whose files are damaged, or say what cannot be, costs its video: one line."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.report_workspace import make_workspace
from wtours.report import build_report
from wtours.report.comparison import _joined
from wtours.report.curves import class_frequency, video_curves
from wtours.report.data import load_videos
from wtours.storage.receipts import read_receipt, record_file, write_receipt
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium


def problem(layout, entries) -> str:
    """Build the report and return why alpha is not in it; beta still is."""
    result = build_report(layout, entries)
    assert list(result.problems) == ["alpha"]
    assert result.not_analyzed == ("alpha", "gamma")
    line = result.problems["alpha"]
    assert "\n" not in line
    assert "wtours analyze --video alpha" in line
    assert line in result.table6_markdown.read_text().replace("\\", "")
    return line


@pytest.mark.parametrize(
    "name", ["frames.parquet", "shots.parquet", "detections.parquet", "summary.json"]
)
def test_a_rotten_file_of_the_right_size(tmp_path, name):
    layout, entries = make_workspace(tmp_path)
    path = layout.analysis_dir("alpha") / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert "not those that were published" in problem(layout, entries)


def tampered(layout: Layout, path: Path) -> None:
    """Make the receipt agree with a file, as somebody who means it does."""
    receipt = read_receipt(layout.analysis_receipt("alpha"))
    assert receipt is not None
    files = tuple(record_file(path.parent / f.path, relative_to=path.parent) for f in receipt.files)
    write_receipt(layout.analysis_receipt("alpha"), receipt.model_copy(update={"files": files}))


def test_counts_from_below_what_is_stored_are_not_measured_and_not_0(tmp_path):
    layout, entries = make_workspace(tmp_path)
    alpha = load_videos(layout, entries, threshold=0.01)[0]
    assert alpha.measured is not None
    objects = alpha.measured.objects
    assert objects is not None
    assert (objects.per_frame, objects.class_counts) == (None, ())
    assert video_curves(alpha.measured, span_us=1e6).objects is None
    result = build_report(layout, entries, threshold=0.01)
    assert result.problems == {}
    assert "Detections are stored from a score of 0.05 up: from 0.01 up" in "".join(
        result.table.notes
    )
    joined = _joined([alpha.measured, alpha.measured], 0.01)
    assert joined.objects is None


def test_a_video_in_which_nothing_was_found_has_0_classes_and_is_measured(tmp_path):
    layout, entries = make_workspace(tmp_path)
    alpha, beta, _ = load_videos(layout, entries, threshold=1.0)
    found = class_frequency(alpha)
    assert found is not None
    assert len(found) == 0
    assert class_frequency(beta) is None
    result = build_report(layout, entries, threshold=1.0)
    assert result.problems == {}
    assert result.page.read_text().count("0 classes") == 1


@pytest.mark.parametrize("rows", ["none", "backwards", "cut off", "too many", "no column"])
def test_frames_that_cannot_be(tmp_path, rows):
    layout, entries = make_workspace(tmp_path)
    path = layout.analysis_dir("alpha") / "frames.parquet"
    table = pq.read_table(path)
    if rows == "cut off":
        path.write_bytes(path.read_bytes()[:-400] + b"\0" * 396 + b"PAR1")
    else:
        if rows == "too many":
            table = pa.table({"pts_us": np.zeros(40_000_000, np.int64)})
        order = {"none": [], "backwards": range(39, -1, -1)}.get(rows)
        table = table if order is None else table.take(pa.array(order, pa.int64()))
        table = table.drop_columns(["lightness"]) if rows == "no column" else table
        pq.write_table(table, path, row_group_size=2**28, use_dictionary=False)
    tampered(layout, path)
    problem(layout, entries)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("frame_rate", "1/0"),
        ("frame_rate", "fast"),
        ("cuts", {"content27": 3}),
        ("seconds", "long"),
        ("lightness", None),
    ],
)
def test_a_summary_that_cannot_be(tmp_path, key, value):
    layout, entries = make_workspace(tmp_path)
    path = layout.analysis_dir("alpha") / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    tampered(layout, path)
    assert "is of another version" in problem(layout, entries)


def test_a_summary_nested_too_deeply(tmp_path):
    layout, entries = make_workspace(tmp_path)
    path = layout.analysis_dir("alpha") / "summary.json"
    path.write_text("[" * 200_000)
    tampered(layout, path)
    problem(layout, entries)


def test_shots_that_end_before_they_begin(tmp_path):
    layout, entries = make_workspace(tmp_path)
    path = layout.analysis_dir("alpha") / "shots.parquet"
    table = pq.read_table(path)
    swapped = table.set_column(2, "start_us", table["end_us"]).set_column(
        3, "end_us", table["start_us"]
    )
    pq.write_table(swapped, path)
    tampered(layout, path)
    assert "shots" in problem(layout, entries)
