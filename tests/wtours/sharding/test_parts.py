"""`--part i/N` and `--seal`: the same files as one run, in any order and at the same time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.support.sharded_videos import files_of, workspace
from tests.support.video_clips import write_clip
from wtours.cli.app import app
from wtours.errors import ShardError, UsageError, WtoursError
from wtours.execution.parts import Part
from wtours.sharding.build import ShardReport, build_shards, finalize_shards
from wtours.sharding.missing import array_expression, missing_segments, unfinished_parts
from wtours.shards.params import ShardParams
from wtours.workspace.layout import Layout

SECOND = ShardParams(shard_seconds=1, short_side=32)
VIDEOS = ["one", "two"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, source="testsrc2=size=64x48:rate=30:duration=4")


@pytest.fixture(scope="module")
def expected(clip, tmp_path_factory) -> dict[str, bytes]:
    """What one run writes."""
    layout = workspace(clip, tmp_path_factory.mktemp("one_run"))
    return files_of(build_shards(layout, VIDEOS, params=SECOND).directory)


def do_part(layout: Layout, text: str) -> ShardReport:
    return build_shards(layout, VIDEOS, params=SECOND, part=Part.parse(text))


@given(st.text("abcxyz019_", min_size=1), st.integers(1, 50), st.integers(0, 500))
def test_each_segment_falls_to_one_part_and_each_part_gets_its_share(video_id, count, segments):
    parts = [Part(number, count) for number in range(1, count + 1)]
    owned = [sum(part.has(video_id, segment) for segment in range(segments)) for part in parts]
    assert sum(owned) == segments
    assert max(owned) - min(owned) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "1", "a/b", "-1/3", "1/3/5", "1/99999"])
def test_a_part_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="must be i/N"):
        Part.parse(text)


@pytest.mark.parametrize("order", [["1/3", "2/3", "3/3"], ["3/3", "1/3", "2/3"]])
def test_parts_in_any_order_write_the_files_of_one_run(clip, expected, tmp_path, order):
    layout = workspace(clip, tmp_path)
    reports = [do_part(layout, text) for text in order]
    assert [report.dataset is not None for report in reports] == [False, False, True]
    assert sum(report.num_segments_written for report in reports) == 8
    assert files_of(reports[0].directory) == expected
    again = do_part(layout, order[0])
    assert (again.num_segments_written, again.num_segments_kept) == (0, 3)
    assert files_of(again.directory) == expected


def test_parts_of_another_count_only_do_what_is_left(clip, expected, tmp_path):
    layout = workspace(clip, tmp_path)
    written = [do_part(layout, text).num_segments_written for text in ("1/2", "1/3", "3/3", "2/3")]
    assert written[0] == 4
    assert sum(written) == 8
    assert files_of(layout.shards_dir("default")) == expected


PART = """
import sys
from pathlib import Path
from wtours.workspace.layout import Layout
from wtours.sharding.build import build_shards
from wtours.execution.parts import Part
from wtours.shards.params import ShardParams
params = ShardParams(shard_seconds=1, short_side=32)
sys.stdin.readline()
build_shards(Layout(Path(sys.argv[1])), ["one", "two"], params=params, part=Part.parse(sys.argv[2]))
"""


@pytest.mark.medium
def test_parts_at_the_same_time_write_the_files_of_one_run(clip, expected, tmp_path):
    layout = workspace(clip, tmp_path)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PART, str(tmp_path), text], stdin=subprocess.PIPE, text=True
        )
        for text in ("1/4", "2/4", "3/4", "4/4")
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert files_of(layout.shards_dir("default")) == expected


def test_sealing_takes_the_finished_videos_and_names_the_others(clip, expected, tmp_path):
    layout = workspace(clip, tmp_path)
    build_shards(layout, ["one"], params=SECOND, part=Part(1, 1))
    do_part(layout, "1/2")
    report = finalize_shards(layout, "default")
    assert report.dataset is not None
    assert [video.video_id for video in report.dataset.videos] == ["one"]
    assert report.dataset.params == SECOND
    assert report.failed == {"two": "2 of 4 segments are missing: run `wtours shard`"}
    do_part(layout, "2/2")
    assert finalize_shards(layout, "default").failed == {}
    assert files_of(report.directory) == expected


def test_sealing_nothing_says_so(clip, tmp_path):
    layout = workspace(clip, tmp_path)
    with pytest.raises(ShardError, match="has no receipts of shards; run `wtours shard`"):
        finalize_shards(layout, "default")
    do_part(layout, "1/2")
    with pytest.raises(ShardError, match="no video of shard set 'default' is finished"):
        finalize_shards(layout, "default")


def test_what_a_killed_part_left_is_swept_by_the_next_that_works_alone(clip, expected, tmp_path):
    layout = workspace(clip, tmp_path)
    litter = layout.shards_dir("default") / ".tmp-1-0a0b0c0d-one-00000.tar"
    litter.parent.mkdir(parents=True)
    litter.write_bytes(b"half a tar")
    do_part(layout, "1/2")
    assert not litter.exists()
    do_part(layout, "2/2")
    assert files_of(litter.parent) == expected


def test_who_may_work_at_the_same_time(clip, tmp_path):
    layout = workspace(clip, tmp_path)
    litter = layout.shards_dir("default") / ".tmp-1-0a0b0c0d-one-00000.tar"
    refusals: list[str] = []

    def others(*_: object) -> None:
        if refusals:
            return
        for other in (None, Part(1, 2)):
            with pytest.raises(WtoursError) as caught:
                build_shards(layout, VIDEOS, params=SECOND, part=other)
            refusals.append(str(caught.value).split(" by ")[0])
        litter.write_bytes(b"another part writes this")
        refusals.append(str(do_part(layout, "2/2").num_segments_written))
        assert litter.exists()

    build_shards(layout, VIDEOS, params=SECOND, part=Part(1, 2), on_progress=others)
    whole, same_part = "shard set 'default' is in use", "part 1/2 of shard set 'default' is in use"
    assert refusals == [whole, same_part, "4"]
    litter.unlink()


def test_a_part_is_refused_while_one_process_does_the_whole_set(clip, tmp_path):
    layout = workspace(clip, tmp_path)
    refusals: list[str] = []

    def part(*_: object) -> None:
        if not refusals:
            with pytest.raises(WtoursError) as caught:
                do_part(layout, "1/2")
            refusals.append(str(caught.value))

    build_shards(layout, VIDEOS, params=SECOND, on_progress=part)
    assert "which works on all of it; wait for it or stop it" in refusals[0]


def test_a_video_whose_file_was_deleted_stays_in_a_finished_set(clip, expected, tmp_path):
    layout = workspace(clip, tmp_path)
    report = build_shards(layout, VIDEOS, params=SECOND)
    next(layout.video_dir("one").glob("one.*")).unlink()
    again = build_shards(layout, VIDEOS, params=SECOND)
    assert again.failed == {}
    assert again.num_segments_kept == 8
    assert files_of(report.directory) == expected
    (report.directory / "one-00001.tar").unlink()
    assert (
        "wtours download --video one" in build_shards(layout, VIDEOS, params=SECOND).failed["one"]
    )


@given(st.lists(st.integers(0, 200), unique=True).map(sorted))
def test_an_array_expression_names_each_number_once(numbers):
    text = array_expression(numbers)
    named: list[int] = []
    for run in filter(None, text.split(",")):
        first, _, last = run.partition("-")
        named += range(int(first), int(last or first) + 1)
    assert named == numbers
    assert array_expression([0, 3, 7, 8, 9]) == "0,3,7-9"


def test_missing_names_the_parts_that_are_not_finished(clip, tmp_path):
    layout = workspace(clip, tmp_path)
    second = do_part(layout, "2/3")
    directory, missing = second.directory, missing_segments(second.directory)
    assert sum(map(len, missing.values())) == 8 - second.num_segments_written
    assert unfinished_parts(directory, 3) == [1, 3]
    result = CliRunner().invoke(
        app,
        ["shards", "missing", "--root", str(tmp_path), "--parts", "3", "--array"],
    )
    assert (result.exit_code, result.stdout.split()) == (3, ["1,3"])
    do_part(layout, "1/3")
    do_part(layout, "3/3")
    assert unfinished_parts(directory, 3) == []
    command = ["shards", "missing", "--root", str(tmp_path), "--parts", "3", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    assert json.loads(result.output) == {"missing": {}, "parts": [], "array": ""}


def test_the_part_of_a_segment_is_that_of_earlier_versions():
    assert [Part.of("venice", segment, 4).number for segment in range(5)] == [3, 4, 1, 2, 3]
