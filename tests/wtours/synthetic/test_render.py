"""Rendering a walk: cuts that detectors find, the same bytes again, whole files or none."""

import os
import signal
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from scenedetect import AdaptiveDetector, ContentDetector, detect

from wtours.errors import WtoursError
from wtours.media.encode import open_encoder
from wtours.synthetic import WalkSpec, load_truth, render_walk
from wtours.synthetic.camera_path import BLOCK, STREET, Route
from wtours.synthetic.crowd import LANES, Population
from wtours.synthetic.scene import render_frames

TINY = WalkSpec(seconds=1, width=128, height=72, frame_rate=10, seed=3)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("rate", "seed", "cuts"),
    [
        (25, 0, (1.2, 3.0, 4.4)),
        (30, 1, (2.0, 3.5)),
        (60, 2, (1.0, 2.5)),
        (Fraction(30000, 1001), 11, ()),
    ],
)
def test_default_cut_detectors_find_exactly_the_drawn_cuts(tmp_path, rate, seed, cuts):
    spec = WalkSpec(
        seconds=cuts[-1] + 1.2 if cuts else 5,
        width=256,
        height=144,
        frame_rate=rate,
        seed=seed,
        cut_seconds=cuts,
    )
    render_walk(spec, tmp_path / "walk.mp4", truth_path=tmp_path / "truth")
    truth = load_truth(tmp_path / "truth")
    assert len(truth.cuts) == len(cuts)
    for detector in (AdaptiveDetector(), ContentDetector()):
        scenes = detect(str(tmp_path / "walk.mp4"), detector, backend="pyav")
        assert tuple(start.frame_num for start, _ in scenes[1:]) == truth.cuts


@pytest.mark.medium
def test_the_same_spec_gives_the_same_bytes_and_another_seed_gives_others(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        spec = WalkSpec(seconds=1, width=128, height=72, frame_rate=10, seed=seed)
        render_walk(spec, tmp_path / name / "walk.mp4", truth_path=tmp_path / name / "truth")
    files = {
        name: {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in "abc"
    }
    assert len(files["a"]) == 4
    assert files["a"] == files["b"]
    assert all(files["a"][path] != files["c"][path] for path in files["a"] if path.stem != "frames")


def test_a_second_later_the_picture_has_moved_much_more_than_a_frame_later():
    spec = WalkSpec(seconds=3, width=128, height=72, frame_rate=30, light_end=1.0)
    pictures = [frame.image.astype(float) for frame in render_frames(spec)]
    per_frame = np.mean([np.abs(a - b).mean() for a, b in pairwise(pictures)])
    per_second = np.mean(
        [np.abs(a - b).mean() for a, b in zip(pictures, pictures[30:], strict=False)]
    )
    assert per_second > 3 * per_frame > 0


def test_an_error_midway_leaves_nothing(tmp_path):
    def dying(item, done, total):
        if done > 0.4:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        render_walk(TINY, tmp_path / "walk.mp4", truth_path=tmp_path / "truth", on_progress=dying)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.medium
def test_a_kill_midway_leaves_nothing_under_a_final_name(tmp_path):
    script = """
import os, signal, sys
from pathlib import Path
from wtours.synthetic import WalkSpec, render_walk
def dying(item, done, total):
    if done > 0.4:
        os.kill(os.getpid(), signal.SIGKILL)
folder = Path(sys.argv[1])
spec = WalkSpec(seconds=1, width=128, height=72, frame_rate=10)
render_walk(spec, folder / "walk.mp4", truth_path=folder / "truth", on_progress=dying)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert all(path.name.startswith(".tmp-") for path in tmp_path.iterdir())


def test_rendering_again_replaces_an_older_truth_but_no_other_folder(tmp_path):
    for seed in (1, 2):
        spec = WalkSpec(seconds=0.2, width=128, height=72, frame_rate=10, seed=seed)
        render_walk(spec, tmp_path / "walk.mp4", truth_path=tmp_path / "truth")
    assert '"seed": 2' in (tmp_path / "truth" / "truth.json").read_text()
    (tmp_path / "photos").mkdir()
    with pytest.raises(WtoursError, match="photos exists and is not the truth of a walk"):
        render_walk(TINY, tmp_path / "walk.mp4", truth_path=tmp_path / "photos")


def test_progress_counts_seconds_of_video(tmp_path):
    told = []
    render_walk(TINY, tmp_path / "walk.mp4", on_progress=lambda *args: told.append(args))
    assert told[0] == ("walk.mp4", 0.1, 1)
    assert told[-1] == ("walk.mp4", 1.0, 1)
    assert len(told) == 10


def test_a_video_that_cannot_be_written_is_one_clear_error(tmp_path):
    def write_frames():
        with open_encoder(
            tmp_path / "missing" / "walk.mp4",
            size=(TINY.width, TINY.height),
            frame_rate=TINY.frame_rate,
        ) as write:
            for _ in range(100):
                write(np.zeros((TINY.height, TINY.width, 3), np.uint8))

    with pytest.raises(WtoursError, match=r"ffmpeg could not write .*missing/walk\.mp4"):
        write_frames()


def test_without_opencv_the_extra_is_named(tmp_path):
    script = (
        "import sys; sys.modules['cv2'] = None\n"
        "from pathlib import Path\n"
        "from wtours.synthetic import WalkSpec, render_walk\n"
        "from wtours.errors import MissingPackageError\n"
        "try: render_walk(WalkSpec(seconds=1), Path('walk.mp4'))\n"
        "except MissingPackageError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert "pip install 'wtours[analyze]'" in done.stdout


def crowd_places(population, pose, seconds):
    crowd = population.near(pose, seconds)
    return {
        int(key): (LANES[lane].label, x, y)
        for key, lane, x, y in zip(crowd.key, crowd.lane, crowd.x, crowd.y, strict=True)
    }


def test_people_and_dogs_move_and_trees_do_not():
    route = Route(np.random.default_rng(0), 30.0)
    population, pose = Population(1, route, 30.0), route.pose(0.0)
    before, after = (crowd_places(population, pose, seconds) for seconds in (0.0, 2.0))
    moved = {
        label: {
            round(float(np.hypot(after[k][1] - x, after[k][2] - y)), 6)
            for k, (kind, x, y) in before.items()
            if kind == label and k in after
        }
        for label in ("person", "dog", "tree", "car")
    }
    assert moved["tree"] == {0.0}
    assert min(moved["person"]) == pytest.approx(1.8)
    assert min(moved["dog"]) > 1
    assert moved["car"] == {0.0, 9.0}


def test_the_walk_stays_in_the_streets_and_turns_corners():
    route = Route(np.random.default_rng(5), 600.0)
    places = route.positions(np.arange(0, 600, 0.5))
    to_street = np.abs(places - BLOCK * np.round(places / BLOCK)).min(axis=1)
    assert to_street.max() < STREET / 2
    yaws = np.array([route.pose(seconds).yaw for seconds in np.arange(0, 600, 0.5)])
    assert np.ptp(yaws) > np.pi / 2
    assert np.abs(np.diff(yaws)).max() < np.radians(18)
    assert np.hypot(*np.diff(places, axis=0).T).max() == pytest.approx(0.7, abs=0.02)
