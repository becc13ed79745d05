"""The truth beside a rendered walk agrees with its pictures."""

import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from wtours.errors import WtoursError
from wtours.media.reader import open_video
from wtours.synthetic import WalkSpec, WalkTruth, load_truth, render_walk
from wtours.synthetic.ground_truth import MIN_VISIBLE_SHARE
from wtours.synthetic.scene import render_frames

SPEC = WalkSpec(seconds=12, width=320, height=180, frame_rate=10, seed=4, cut_seconds=(7,))


@dataclass(frozen=True)
class RenderedWalk:
    path: Path
    truth: WalkTruth


@pytest.fixture(scope="module")
def small_walk(tmp_path_factory) -> RenderedWalk:
    folder = tmp_path_factory.mktemp("walk")
    render_walk(SPEC, folder / "walk.mp4", truth_path=folder / "truth")
    return RenderedWalk(folder / "walk.mp4", load_truth(folder / "truth"))


def rows_of(truth, frame_index):
    return [row for row in truth.detections.to_pylist() if row["frame_index"] == frame_index]


def test_the_video_is_what_was_asked_for_and_its_times_are_the_truths(small_walk):
    with open_video(small_walk.path) as video:
        meta = video.metadata
        times = [frame.pts_us for frame in video.frames()]
    assert (meta.codec, meta.width, meta.height) == ("h264", 320, 180)
    assert meta.frame_rate == Fraction(10)
    assert meta.pixel_format == "yuv420p"
    assert times == [SPEC.pts_us(index) for index in range(120)]
    truth = small_walk.truth
    assert (truth.num_frames, truth.cuts, truth.cut_pts_us) == (120, (70,), (7_000_000,))


def test_mean_lightness_follows_the_drawn_curve(small_walk):
    with open_video(small_walk.path) as video:
        pictures = [frame.to_bgr().astype(np.float32) / 255 for frame in video.frames()]
    measured = np.array([cv2.cvtColor(p, cv2.COLOR_BGR2LAB)[..., 0].mean() for p in pictures])
    drawn = small_walk.truth.lightness
    assert drawn == pytest.approx(np.linspace(1, 0.35, 120), abs=1e-6)
    assert np.corrcoef(measured, drawn)[0, 1] > 0.98
    assert (np.diff(measured.reshape(12, 10).mean(axis=1)) < 0).all()


def test_the_streets_are_as_busy_as_promised(small_walk):
    detections = small_walk.truth.detections
    assert detections.num_rows / small_walk.truth.num_frames >= 3
    assert {"person", "car", "tree", "traffic light"} <= set(detections["label"].to_pylist())


def test_boxes_are_the_bounds_of_masks_and_no_pixel_has_two_owners(small_walk):
    truth = small_walk.truth
    for frame_index in (0, 40, 69, 70, 119):
        owners = np.zeros((180, 320), int)
        for row in rows_of(truth, frame_index):
            mask = truth.mask(frame_index, row["track_id"])
            y, x = np.nonzero(mask)
            bounds = (x.min(), y.min(), x.max() + 1, y.max() + 1)
            assert bounds == (row["x0"], row["y0"], row["x1"], row["y1"])
            assert mask.sum() >= MIN_VISIBLE_SHARE * mask.size
            owners += mask
        assert owners.max() == 1


def test_masks_are_the_pixels_the_renderer_gave_each_object(small_walk):
    first = next(iter(render_frames(SPEC)))
    labeled = np.zeros_like(first.owner, bool)
    for row in rows_of(small_walk.truth, 0):
        mask = small_walk.truth.mask(0, row["track_id"])
        assert len(np.unique(first.owner[mask])) == 1
        labeled |= mask
    small = (first.owner > 0) & ~labeled
    assert all(
        (first.owner == number).sum() < MIN_VISIBLE_SHARE * first.owner.size
        for number in np.unique(first.owner[small])
    )


def test_near_objects_hide_part_of_far_ones(small_walk):
    truth = small_walk.truth
    covered = 0.0
    for frame_index in range(0, 120, 10):
        rows = rows_of(truth, frame_index)
        masks = [truth.mask(frame_index, row["track_id"]) for row in rows]
        for far, row in enumerate(rows):
            box = tuple(int(row[name]) for name in ("x0", "y0", "x1", "y1"))
            for near in masks[far + 1 :]:
                covered = max(covered, near[box[1] : box[3], box[0] : box[2]].mean())
    assert covered > 0.2


def test_near_things_grow_faster_than_far_ones(small_walk):
    """A standing thing's height is focal * size / depth, so its growth goes with height squared."""
    heights: dict[int, dict[int, float]] = {}
    for row in small_walk.truth.detections.to_pylist():
        if row["label"] in ("tree", "traffic light") and row["y0"] > 0 and row["y1"] < 180:
            heights.setdefault(row["track_id"], {})[row["frame_index"]] = row["y1"] - row["y0"]
    growth = [
        (track[index], track[index + 10] - track[index])
        for track in heights.values()
        for index in track
        if index + 10 in track
    ]
    near = [grown for height, grown in growth if height > 60]
    far = [grown for height, grown in growth if height < 30]
    assert np.median(near) > 3 * np.median(far) > 0


def test_tracks_keep_their_class_and_never_cross_a_cut(small_walk):
    seen: dict[int, set[tuple[str, bool]]] = {}
    for row in small_walk.truth.detections.to_pylist():
        seen.setdefault(row["track_id"], set()).add((row["label"], row["frame_index"] >= 70))
    assert all(len(kinds) == 1 for kinds in seen.values())
    assert sorted(seen) == list(range(1, len(seen) + 1))


def test_an_unknown_object_has_no_mask(small_walk):
    with pytest.raises(KeyError, match="no object 9999 in frame 3"):
        small_walk.truth.mask(3, 9999)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("truth.json", lambda text: b"[]"),
        ("truth.json", lambda text: text.replace(b'"frame_rate": "10"', b'"frame_rate": "1/0"')),
        ("truth.json", lambda text: text.replace(b'"seed": 4', b'"seed": -4')),
        ("truth.json", lambda text: text.replace(b'"seed": 4', b'"seeds": 4')),
        ("truth.json", lambda text: text.replace(b'"cut_seconds"', b'"cuts"')),
        ("frames.parquet", lambda data: data[:-9]),
        ("detections.parquet", lambda data: b""),
    ],
)
def test_a_damaged_truth_is_one_line(small_walk, tmp_path, name, change):
    folder = shutil.copytree(small_walk.path.parent / "truth", tmp_path / "truth")
    before = (folder / name).read_bytes()
    (folder / name).write_bytes(change(before))
    assert (folder / name).read_bytes() != before
    with pytest.raises(
        WtoursError, match=r"is no whole truth of a walk \(.*render it again"
    ) as told:
        load_truth(folder)
    assert "\n" not in str(told.value)


def test_a_folder_without_truth_is_named(tmp_path):
    with pytest.raises(WtoursError, match=r"holds no truth\.json"):
        load_truth(tmp_path)
