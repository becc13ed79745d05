"""Depth, flow and poses are what the pixels of a rendered walk do."""

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest

from wtours.errors import WtoursError
from wtours.synthetic import WalkSpec, load_truth, render_walk
from wtours.synthetic.drawing.backdrop import texture_maps
from wtours.synthetic.drawing.car import HALF_LENGTH, HALF_WIDTH
from wtours.synthetic.geometry import flow_between, surfaces_of
from wtours.synthetic.scene import Walk, render_frames

# Half the light: no pixel is too bright for its 8 bits.
SPEC = WalkSpec(
    seconds=8,
    width=320,
    height=180,
    frame_rate=10,
    seed=7,
    cut_seconds=(5,),
    light_start=0.5,
    light_end=0.5,
)
PAIRS = ((0, 1), (0, 3), (20, 25), (30, 36), (45, 40), (60, 70))


@pytest.fixture(scope="module")
def walk():
    return Walk(SPEC)


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    folder = tmp_path_factory.mktemp("walk")
    render_walk(SPEC, folder / "walk.mp4", truth_path=folder / "truth")
    return load_truth(folder / "truth")


def sampled(image, target):
    columns, rows = np.nan_to_num(target).astype(np.float32)
    return cv2.remap(image.astype(np.float32), columns, rows, cv2.INTER_LINEAR)


def grid(shape):
    return np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[0]))).astype(float)


def kinds_of(frame):
    """Return the pixels of each kind of surface."""
    number, owner = surfaces_of(frame).number, frame.owner
    is_car = np.isin(owner, [seen.number for seen in frame.objects if seen.sprite is None])
    return {
        "sky": (owner == 0) & (number == 0),
        "ground": (owner == 0) & (number == 1),
        "wall": (owner == 0) & (number != 0) & (number != 1),
        "car": is_car,
        "upright": (owner > 0) & ~is_car,
    }


def test_the_other_frame_looks_the_same_where_the_flow_leads_and_not_a_pixel_beside(walk):
    kinds = ("ground", "wall", "car", "upright")
    errors: dict[str, list[float]] = {kind: [] for kind in kinds}
    beside: dict[str, list[float]] = {kind: [] for kind in kinds}
    unwarped: list[float] = []
    for start, end in PAIRS:
        one, other = walk.frame(start), walk.frame(end)
        flow = flow_between(one, other)
        is_valid = ~np.isnan(flow[0])
        assert is_valid.mean() > 0.6
        image, later = (frame.image.mean(axis=2) + 0.5 for frame in (one, other))
        target = grid(image.shape) + np.nan_to_num(flow)
        # The exposure follows the whole image.
        gain = np.median(image[is_valid] / sampled(later, target)[is_valid])
        for kind, pixels in kinds_of(one).items():
            inner = cv2.erode((pixels & is_valid).astype(np.uint8), np.ones((3, 3))) > 0
            if kind not in kinds or inner.sum() < 100:
                continue
            shifts = [
                np.array(shift).reshape(2, 1, 1) for shift in ((1, 0), (-1, 0), (0, 1), (0, -1))
            ]
            error, *others = (
                np.abs(image - gain * sampled(later, target + shift))[inner].mean()
                for shift in (np.zeros((2, 1, 1)), *shifts)
            )
            errors[kind].append(error)
            beside[kind].append(min(others))
            unwarped.append(np.abs(image - gain * later)[inner].mean())
    for kind, found in errors.items():
        assert len(found) >= 4, kind
        assert all(np.less(found, beside[kind])), (kind, found, beside[kind])
        assert np.mean(found) < 2.1, (kind, found)  # of 255: moving shadows, coarser textures
    assert np.mean(unwarped) > 6


def test_the_flow_of_the_streets_leads_to_the_same_texel_to_a_fiftieth_of_a_pixel(walk):
    """The renderer reads sky, ground and fronts from one image; which place of it is exact."""

    def texels(frame):
        atlas = walk._scene._atlas
        column, row, _ = texture_maps(frame.camera, frame.walls, atlas)
        level = np.searchsorted(atlas.level_x, column, side="right") - 1
        return np.stack([column - atlas.level_x[level], row]) * 2.0**level

    for start, end in PAIRS:
        one, other = walk.frame(start), walk.frame(end)
        here, there = texels(one), texels(other)
        flow = flow_between(one, other)
        target = grid(one.owner.shape) + flow
        error = np.hypot(*(sampled(b, target) - a for a, b in zip(here, there, strict=True)))
        per_pixel = np.hypot(*(np.gradient(part, axis=1) for part in here))
        for kind in ("sky", "ground", "wall"):
            inner = (kinds_of(one)[kind] & ~np.isnan(flow[0])).astype(np.uint8)
            inside = cv2.erode(inner, np.ones((5, 5))) > 0
            assert inside.sum() > 1000
            assert np.median((error / np.maximum(per_pixel, 0.01))[inside]) < 0.02, (kind, start)


def test_depth_and_pose_give_the_flow_of_what_stands_still(truth, walk):
    for start, end in ((0, 3), (20, 25), (60, 70)):
        depth, flow = truth.depth(start), truth.flow(start, end)
        one, other = walk.frame(start), walk.frame(end)
        later = {seen.key: (seen.x, seen.y) for seen in other.objects}
        parked = [
            seen.number
            for seen in one.objects
            if seen.sprite is None and later.get(seen.key) == (seen.x, seen.y)
        ]
        stands = np.isfinite(depth) & ~np.isnan(flow[0]) & np.isin(one.owner, [0, *parked])
        x, y = grid(depth.shape)[:, stands]
        pixels = np.stack([x, y, np.ones_like(x)])
        places = np.linalg.inv(truth.intrinsics) @ pixels * depth[stands]
        move = np.linalg.inv(truth.pose(end)) @ truth.pose(start)
        seen = truth.intrinsics @ (move[:3, :3] @ places + move[:3, 3:])
        moved = seen[:2] / seen[2] - pixels[:2]
        error = np.abs(moved - flow[:, stands]).max(axis=0)
        assert stands.mean() > 0.4
        assert np.median(error) < 1e-4
        assert (error > 0.01).mean() < 0.02  # the edges of cars
        assert np.abs(moved).mean() > 1


def test_poses_are_rigid_and_follow_the_walk(truth):
    poses = np.stack([truth.pose(number) for number in range(50)])
    turns = poses[:, :3, :3]
    np.testing.assert_allclose(
        turns @ turns.transpose(0, 2, 1), np.tile(np.eye(3), (50, 1, 1)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(turns), 1)
    steps = np.linalg.norm(np.diff(poses[:, :2, 3], axis=0), axis=1)
    assert steps == pytest.approx(0.14, abs=0.01)  # 1.4 m/s at 10 frames a second
    assert (poses[:, 2, 3] > 1.5).all()


def test_depth_is_that_of_the_ground_and_endless_in_the_sky(truth, walk):
    depth, frame = truth.depth(0), walk.frame(0)
    kinds = kinds_of(frame)
    assert np.array_equal(np.isinf(depth), kinds["sky"])
    row = 170
    height, below = truth.pose(0)[2, 3], row - truth.intrinsics[1, 2]
    ground = depth[row][kinds["ground"][row]]
    assert ground == pytest.approx(height * truth.intrinsics[0, 0] / below, rel=1e-5)
    near = frame.objects[-1]
    assert depth[frame.owner == near.number].max() < 50


def test_instances_move_with_the_flow(truth):
    for start, end in ((0, 3), (20, 25), (60, 65)):
        before, after, flow = truth.instances(start), truth.instances(end), truth.flow(start, end)
        is_valid = ~np.isnan(flow[0]) & (before > 0)
        columns, rows = np.rint(grid(before.shape) + np.nan_to_num(flow)).astype(int)
        arrived = after[rows[is_valid], columns[is_valid]]
        assert set(np.unique(before[is_valid])) >= set(np.unique(arrived)) - {0}
        labeled = arrived > 0  # an object may have become too small for a label
        assert labeled.mean() > 0.95
        assert np.array_equal(arrived[labeled], before[is_valid][labeled])
        elsewhere = truth.instances(end + 5)[rows[is_valid], columns[is_valid]]
        assert (elsewhere != before[is_valid]).mean() > 0.1
        assert is_valid.sum() > 0.3 * (before > 0).sum()


def test_masks_are_those_of_the_tracks(truth):
    tracks = truth.instances(20)
    for row in truth.detections.to_pylist():
        if row["frame_index"] == 20:
            assert np.array_equal(tracks == row["track_id"], truth.mask(20, row["track_id"]))
    assert tracks.max() > 0


def test_what_is_hidden_or_leaves_has_no_flow(walk):
    one, other = walk.frame(20), walk.frame(25)
    flow = flow_between(one, other)
    target = np.rint(grid(one.owner.shape) + np.nan_to_num(flow)).astype(int)
    is_valid = ~np.isnan(flow[0])
    columns, rows = target[:, is_valid]
    assert columns.min() >= 0
    assert rows.min() >= 0
    assert columns.max() < 320
    assert rows.max() < 180
    # What is street here is nobody's there.
    assert (other.owner[rows, columns][one.owner[is_valid] == 0] == 0).all()
    gone = {seen.key for seen in one.objects} - {seen.key for seen in other.objects}
    for seen in one.objects:
        if seen.key in gone:
            assert np.isnan(flow[:, one.owner == seen.number]).all()
    assert np.array_equal(np.isnan(flow[0]), np.isnan(flow[1]))


def test_a_limb_that_has_swung_has_no_flow(walk):
    for start, end in PAIRS:
        one, other = walk.frame(start), walk.frame(end)
        flow = flow_between(one, other)
        is_valid = ~np.isnan(flow[0])
        later = {seen.key: seen.sprite for seen in other.objects}
        walkers = [
            seen.number
            for seen in one.objects
            if seen.key in later and later[seen.key] is not seen.sprite
        ]
        of_walker = np.isin(one.owner, walkers)
        image, there = (frame.image.mean(axis=2) + 0.5 for frame in (one, other))
        warped = sampled(there, grid(image.shape) + flow)
        gain = np.median(image[is_valid] / warped[is_valid])
        still = of_walker & is_valid
        assert 100 < still.sum() < 0.7 * of_walker.sum()
        assert np.abs(image - gain * warped)[still].max() < 15  # a leg on the street: 30 and more


def test_no_part_of_a_car_is_farther_from_its_middle_than_it_is_large(walk):
    num_cars = 0
    for frame in map(walk.frame, range(0, 80, 4)):
        depth = surfaces_of(frame).depth
        for car in (seen for seen in frame.objects if seen.sprite is None):
            middle, _ = frame.camera.relative(np.array(car.x), np.array(car.y))
            away = np.abs(depth[frame.owner == car.number] - middle)
            assert away.max(initial=0) < np.hypot(HALF_LENGTH, HALF_WIDTH) + 1e-9
            num_cars += 1
    assert num_cars > 50


def test_a_truth_that_another_version_wrote_is_refused(truth, tmp_path):
    other = replace(truth, spec=replace(SPEC, seed=8))
    for ask in (lambda: other.depth(20), lambda: other.flow(20, 21)):
        with pytest.raises(WtoursError, match="frame 20 of the walk is drawn otherwise now"):
            ask()


def test_a_frame_flows_to_itself_by_nothing(truth):
    assert np.abs(truth.flow(33, 33)).max() < 1e-9


def test_there_is_no_flow_over_a_cut_and_no_frame_beyond_the_end(truth):
    with pytest.raises(ValueError, match="a cut between the frames 49 and 50"):
        truth.flow(49, 50)
    for ask in (truth.depth, truth.pose):
        with pytest.raises(IndexError, match="no frame 80: the walk has 80"):
            ask(80)


def test_a_frame_is_the_same_whichever_were_asked_for_before():
    # Longer than people look ahead: who would bump into the walker depends on when he first came.
    spec = WalkSpec(seconds=240, width=64, height=64, frame_rate=1, seed=0)
    (expected,) = itertools.islice(render_frames(spec), 210, 211)
    walk = Walk(spec)
    walk.frame(3)
    for _ in range(2):
        frame = walk.frame(210)
        assert np.array_equal(frame.image, expected.image)
        assert np.array_equal(frame.owner, expected.owner)
        walk.frame(100)
