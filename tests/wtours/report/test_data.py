"""An analysis whose files are damaged, or say what cannot be, costs its video: one line."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.report_workspace import (
    DETECTIONS,
    add_analysis,
    add_video,
    entry,
    make_workspace,
)
from wtours.report.build import ReportResult, build_report
from wtours.report.comparison import _joined
from wtours.report.curves import class_frequency, video_curves
from wtours.report.data import load_videos
from wtours.storage.receipts import read_receipt, record_file, write_receipt
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium


def rot(name: str, folder: Path) -> None:
    """Change a byte in the middle of a file: the size stays."""
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (folder / name).write_bytes(data)


def change_frames(rows: str, folder: Path) -> None:
    path = folder / "frames.parquet"
    table = pq.read_table(path)
    if rows == "cut_off":
        path.write_bytes(path.read_bytes()[:-400] + b"\0" * 396 + b"PAR1")
    else:
        if rows == "too_many":
            table = pa.table({"pts_us": np.zeros(40_000_000, np.int64)})
        order = {"none": [], "backwards": range(39, -1, -1)}.get(rows)
        table = table if order is None else table.take(pa.array(order, pa.int64()))
        table = table.drop_columns(["lightness"]) if rows == "no_column" else table
        pq.write_table(table, path, row_group_size=2**28, use_dictionary=False)


def change_summary(key: str, value: object, folder: Path) -> None:
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


def nest_summary(folder: Path) -> None:
    (folder / "summary.json").write_text("[" * 200_000)


def end_shots_before_they_begin(folder: Path) -> None:
    path = folder / "shots.parquet"
    table = pq.read_table(path)
    swapped = table.set_column(2, "start_us", table["end_us"]).set_column(
        3, "end_us", table["start_us"]
    )
    pq.write_table(swapped, path)


Harm = Callable[[Path], None]
ROTTEN: dict[str, Harm] = {
    f"rotten_{name.partition('.')[0]}": partial(rot, name)
    for name in ("frames.parquet", "shots.parquet", "detections.parquet", "summary.json")
}
SUMMARIES: dict[str, Harm] = {
    "rate_by_zero": partial(change_summary, "frame_rate", "1/0"),
    "rate_in_words": partial(change_summary, "frame_rate", "fast"),
    "cuts_of_one_detector": partial(change_summary, "cuts", {"content27": 3}),
    "seconds_in_words": partial(change_summary, "seconds", "long"),
    "no_lightness": partial(change_summary, "lightness", None),
}
FRAMES: dict[str, Harm] = {
    f"frames_{rows}": partial(change_frames, rows)
    for rows in ("none", "backwards", "cut_off", "too_many", "no_column")
}
SHOTS: dict[str, Harm] = {"shots_backwards": end_shots_before_they_begin}
VOUCHED_FOR = SUMMARIES | FRAMES | SHOTS | {"summary_too_deep": nest_summary}
"""The receipt agrees with the file, as of somebody who means it."""
HARMED = ROTTEN | VOUCHED_FOR
SAID = {
    **dict.fromkeys(ROTTEN, "not those that were published"),
    **dict.fromkeys(SUMMARIES, "is of another version"),
    **dict.fromkeys(SHOTS, "shots"),
}
"""What the line says, where more than the command."""


def vouch_for(layout: Layout, video_id: str) -> None:
    folder = layout.analysis_dir(video_id)
    receipt = read_receipt(layout.analysis_receipt(video_id))
    assert receipt is not None
    files = tuple(record_file(folder / f.path, relative_to=folder) for f in receipt.files)
    write_receipt(layout.analysis_receipt(video_id), receipt.model_copy(update={"files": files}))


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> ReportResult:
    """The report on a video for each harm, and on one without."""
    layout = Layout(tmp_path_factory.mktemp("harmed"))
    for video_id, harm in {**HARMED, "intact": lambda folder: None}.items():
        add_video(layout, video_id)
        add_analysis(layout, video_id, detections=DETECTIONS)
        harm(layout.analysis_dir(video_id))
        if video_id in VOUCHED_FOR:
            vouch_for(layout, video_id)
    return build_report(layout, [entry(video_id) for video_id in (*HARMED, "intact")])


def test_each_harm_costs_its_video_alone(report):
    assert list(report.problems) == list(report.not_analyzed) == list(HARMED)


@pytest.mark.parametrize("video_id", HARMED)
def test_a_harmed_analysis_is_one_line_with_the_command_that_measures_again(report, video_id):
    line = report.problems[video_id]
    assert SAID.get(video_id, "") in line
    assert "\n" not in line
    assert f"wtours analyze --video {video_id}" in line
    assert line in report.page.with_name("table6.md").read_text().replace("\\", "")


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


def test_an_analysis_that_is_made_again_while_it_is_read_is_not_mixed(tmp_path, monkeypatch):
    layout, entries = make_workspace(tmp_path)
    path, read = layout.analysis_receipt("alpha"), pq.read_table

    def read_while_it_is_made_again(*args, **kwargs):
        table, receipt = read(*args, **kwargs), read_receipt(path)
        assert receipt is not None
        write_receipt(path, receipt.model_copy(update={"versions": {"av": "17.0"}}))
        return table

    monkeypatch.setattr(pq, "read_table", read_while_it_is_made_again)
    alpha = load_videos(layout, entries, threshold=0.3)[0]
    assert alpha.measured is None
    assert "was made again while it was read; run the command again" in alpha.problem


def test_an_analysis_of_another_stream_is_not_of_the_file_at_hand(tmp_path):
    layout, entries = make_workspace(tmp_path)
    video, analysis = layout.video_receipt("alpha"), layout.analysis_receipt("alpha")
    downloaded, analyzed = read_receipt(video), read_receipt(analysis)
    assert downloaded is not None
    assert analyzed is not None
    facts = {**downloaded.facts, "stream": 0, "video_streams": 2}
    write_receipt(video, downloaded.model_copy(update={"facts": facts}))
    write_receipt(analysis, analyzed.model_copy(update={"inputs": {"stream": "1"}}))
    alpha, beta, _ = load_videos(layout, entries, threshold=0.3)
    assert (alpha.is_same_file, beta.is_same_file) == (False, True)
    assert "sha256 or stream differs" in "".join(build_report(layout, entries).table.notes)
