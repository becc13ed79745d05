"""Near duplicates and burned-in text: found where they were put, and nowhere else."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support.analyze_cases import add_video
from wtours.analyze.pipeline import analyze_videos
from wtours.analyze.quality.meter import ADDED, QualityMeter, merge_quality
from wtours.analyze.quality.seconds import load_quality
from wtours.errors import ShardError
from wtours.media.encode import open_encoder
from wtours.report.build import build_report
from wtours.sharding.selection.seconds import taken_seconds, with_where
from wtours.shards.params import ShardParams
from wtours.storage.receipts import read_receipt, record_file, write_receipt
from wtours.synthetic import WalkSpec, render_walk
from wtours.workspace.layout import SECONDS_FILE, Layout
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.videos import downloaded_video

RATE = 10
SIZE = (320, 180)


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Return twelve seconds of a rendered walk, (H, W, 3) BGR each."""
    path = tmp_path_factory.mktemp("walk") / "walk.mp4"
    spec = WalkSpec(seconds=12, width=SIZE[0], height=SIZE[1], frame_rate=RATE, light_end=0.9)
    render_walk(spec, path)
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def write_video(path, frames, *, crf=23):
    with open_encoder(
        path, size=SIZE, frame_rate=Fraction(RATE), pixel_format="bgr24", crf=crf
    ) as write:
        for frame in frames:
            write(frame)
    return path


def with_text(frame, text, place):
    """Return the frame with white letters with a black outline, 5 % of its height."""
    drawn = frame.copy()
    for color, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(drawn, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, width, cv2.LINE_AA)
    return drawn


def measured(layout, path, **options):
    add_video(layout, "walk", path)
    report = analyze_videos(layout, ["walk"], frame_quality=True, **options)
    assert report.done == ["walk"], report
    return pq.read_table(layout.analysis_dir("walk") / "measurements" / "quality" / SECONDS_FILE)


def seconds_where(table, name):
    return [row["second"] for row in table.to_pylist() if row[name]]


@pytest.mark.medium
def test_a_repeated_stretch_and_letters_are_found_and_nothing_else(frames, tmp_path):
    """A walk, then its seconds 3 to 6 again, half a second later in the second, encoded again."""
    again = frames[25:65]
    letters = [with_text(frame, "old town, 1873", (60, 165)) for frame in frames[60:115]]
    edited = [*frames[:60], *letters, *frames[115:], *again]
    path = write_video(tmp_path / "edited.mp4", edited, crf=28)
    table = measured(Layout(tmp_path / "one"), path)
    assert seconds_where(table, "near_duplicate") == [12, 13, 14, 15]
    # Whole seconds 6 to 10: in second 11 the letters are gone after its half.
    assert seconds_where(table, "text_overlay") == [6, 7, 8, 9, 10]
    split = measured(Layout(tmp_path / "split"), path, segment_seconds=3)
    assert split.equals(table)
    plain = measured(Layout(tmp_path / "plain"), write_video(tmp_path / "plain.mp4", frames))
    assert seconds_where(plain, "near_duplicate") == []
    assert seconds_where(plain, "text_overlay") == []


@pytest.mark.medium
def test_letters_on_a_camera_that_stands_are_not_told_apart(frames, tmp_path):
    still = [with_text(frames[20], "old town, 1873", (60, 165))] * 60
    table = measured(Layout(tmp_path), write_video(tmp_path / "still.mp4", still))
    assert seconds_where(table, "text_overlay") == []
    assert seconds_where(table, "near_duplicate") == [1, 2, 3, 4, 5]


@pytest.mark.medium
def test_a_table_of_an_earlier_version_stays_of_use(frames, tmp_path):
    """Its own columns serve the page and --where; the new ones are asked for, or measured again."""
    layout = Layout(tmp_path / "root")
    table = measured(layout, write_video(tmp_path / "walk.mp4", frames))
    folder = layout.analysis_dir("walk") / "measurements" / "quality"
    _make_old(folder)
    params = ShardParams(frames_per_second="5", short_side=64)
    entries = [VideoEntry(id="walk", title="Walk", sources=("file:walk.mp4",))]
    quality = load_quality(layout, "walk", downloaded_video(layout, "walk").sha256)
    assert quality is not None
    assert quality.near_duplicate is None
    assert quality.blur.tolist() == table["blur"].to_pylist()
    page = build_report(layout, entries).page.read_text()
    assert "Near duplicate: not measured" in page
    assert "Black: none" in page
    with pytest.raises(ShardError, match="near_duplicate of walk is not measured: run `wtours ana"):
        with_where(layout, "new", params, ["walk"], "not near_duplicate")
    old = with_where(layout, "old", params, ["walk"], "blur > 0").where
    assert analyze_videos(layout, ["walk"], frame_quality=True).done == ["walk"]
    assert pq.read_table(folder / SECONDS_FILE).equals(table)
    assert "Near duplicate: none" in build_report(layout, entries).page.read_text()
    # A set keeps the columns of its condition, so that of the old ones has the bytes it had.
    again = with_where(layout, "again", params, ["walk"], "blur > 0").where
    assert again == old
    new = with_where(layout, "new", params, ["walk"], "not near_duplicate").where
    assert old is not None
    assert new is not None
    assert new.seconds_sha256 != old.seconds_sha256
    assert taken_seconds(layout.shards_dir("new"), new, "walk") == set(range(12))
    assert taken_seconds(layout.shards_dir("old"), old, "walk") == set(range(12))


def _make_old(folder):
    """Put the measurement in place that was published before there were the new columns."""
    table = pq.read_table(folder / SECONDS_FILE).drop_columns(list(ADDED))
    pq.write_table(table, folder / SECONDS_FILE, compression="zstd")
    receipt = read_receipt(folder / "receipt.json")
    assert receipt is not None
    params = {name: value for name, value in receipt.params.items() if name not in ADDED}
    files = (record_file(folder / SECONDS_FILE, relative_to=folder),)
    old = receipt.model_copy(update={"params": params, "files": files})
    write_receipt(folder / "receipt.json", old)


def test_gaps_and_changes_of_size_hold_nothing(frames, tmp_path):
    """Five seconds with a hole are no window, nor are seconds of two sizes."""
    lettered = [with_text(frame, "old town, 1873", (60, 165)) for frame in frames]
    whole = [(n * 100_000, cv2.resize(f, (256, 144))) for n, f in enumerate(lettered[:60])]
    hole = [(pts_us + 1_000_000 * (pts_us >= 3_000_000), bgr) for pts_us, bgr in whole]
    sizes = [(t, bgr if t < 3_000_000 else bgr[:, :240]) for t, bgr in whole]
    assert seconds_where(_merged(whole, tmp_path / "whole"), "text_overlay") == list(range(6))
    assert seconds_where(_merged(hole, tmp_path / "hole"), "text_overlay") == []
    assert seconds_where(_merged(sizes, tmp_path / "sizes"), "text_overlay") == []
    tiny = [(t, bgr[:6, :6]) for t, bgr in whole]
    assert seconds_where(_merged(tiny, tmp_path / "tiny"), "near_duplicate") == []


def _merged(frames, folder):
    meter = QualityMeter(0)
    for pts_us, bgr in frames:
        meter.push(pts_us, np.ascontiguousarray(bgr))
    folder.mkdir()
    meter.write(folder)
    out = folder / "out"
    out.mkdir()
    merge_quality([folder], out)
    return pq.read_table(out / SECONDS_FILE)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "near_duplicate", "text_overlay"),
    [
        ("camvid_0006R0_1hz.mp4", (0, 0), (0, 0)),  # a drive without a stop
        ("camvid_0016E5_1_1hz.mp4", (15, 35), (0, 0)),  # with two stops at lights
        ("vtest.avi", (70, 80), (0, 0)),  # a camera that stands
        ("psd_testvideo.mp4", (0, 24), (15, 24)),  # a copyright notice from second 1
    ],
)
def test_real_videos(data_dir, tmp_path, name, near_duplicate, text_overlay):
    table = measured(Layout(tmp_path), data_dir / "videos" / name)
    for column, (low, high) in (
        ("near_duplicate", near_duplicate),
        ("text_overlay", text_overlay),
    ):
        assert low <= len(seconds_where(table, column)) <= high, seconds_where(table, column)
