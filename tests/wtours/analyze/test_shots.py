import csv
import functools
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scenedetect import AdaptiveDetector, ContentDetector, SceneManager
from scenedetect import open_video as open_in_scenedetect
from scenedetect.common import FrameTimecode

from tests.support.analyze_cases import write_scenes
from wtours.analyze.downscale import FrameReducer
from wtours.analyze.merge import shot_rows
from wtours.analyze.shots import CUT_DETECTORS, ContentScorer, CutFinder
from wtours.media.reader import open_video

REAL_VIDEOS = (
    "bikes.mp4",
    "camvid_0006R0_1hz.mp4",
    "camvid_0016E5_0_1hz.mp4",
    "camvid_0016E5_15hz.mp4",
    "camvid_0016E5_1_1hz.mp4",
    "camvid_0016E5_2_1hz.mp4",
    "carnd_solidWhiteRight.mp4",
    "decord_flipping_a_pancake.mkv",
    "psd_fades.mp4",
    "psd_testvideo.mp4",
    "torchcodec_var_fps_video.mp4",
    "vtest.avi",
)


@functools.cache
def our_cuts(path: Path) -> tuple[dict[str, list[int]], list[int]]:
    """Return the cuts in microseconds by detector, and the times of all frames."""
    pts_us, scores, reducer, scorer = [], [], FrameReducer(), ContentScorer()
    with open_video(path) as video:
        for frame in video.frames():
            pts_us.append(frame.pts_us)
            scores.append(scorer.score(reducer.reduce(frame)))
        rate = video.metadata.nominal_frame_rate
    finder = CutFinder(rate)
    finder.add(pts_us, scores)
    return finder.cuts_us(), pts_us


def library_cuts(path: Path) -> dict[str, list[int]]:
    """Return what PySceneDetect finds by itself, with its command line's defaults."""
    video = open_in_scenedetect(str(path), backend="pyav")
    assert video.BACKEND_NAME == "pyav"
    min_frames = FrameTimecode("0.6s", video.frame_rate).frame_num
    detectors = {
        "adaptive": AdaptiveDetector(min_scene_len=min_frames),
        "content27": ContentDetector(threshold=27.0, min_scene_len=min_frames),
        "content30": ContentDetector(threshold=30.0, min_scene_len=min_frames),
    }
    cuts: dict[str, list[int]] = {name: [] for name in detectors}
    own_score, scored, score = ContentDetector()._calculate_frame_score, None, 0.0

    def shared_score(timecode, frame):  # for all three, whose weights are the same
        nonlocal scored, score
        if timecode is not scored:
            scored, score = timecode, own_score(timecode, frame)
        return score

    for name, detector in detectors.items():
        detector._calculate_frame_score = shared_score

        def process(timecode, frame, name=name, original=detector.process_frame):
            found = original(timecode, frame)
            cuts[name] += [round(cut.pts * cut.time_base * 1_000_000) for cut in found]
            return found

        detector.process_frame = process
    manager = SceneManager()
    for detector in detectors.values():
        manager.add_detector(detector)
    manager.detect_scenes(video)
    return cuts


def command_line_cuts(path: Path, folder: Path, *command: str) -> list[float]:
    """Return the starts in seconds of all shots but the first, by PySceneDetect's own command."""
    run = [sys.executable, "-m", "scenedetect", "-b", "pyav", "-i", str(path), "-q"]
    run += [*command, "list-scenes", "-s", "-q", "-o", str(folder), "-f", "scenes.csv"]
    subprocess.run(run, check=True, capture_output=True)
    with (folder / "scenes.csv").open() as file:
        return [float(row["Start Time (seconds)"]) for row in csv.DictReader(file)][1:]


@pytest.mark.medium
@pytest.mark.parametrize("name", REAL_VIDEOS)
def test_cuts_of_real_videos_are_pyscenedetects_own(data_dir, name):
    path = data_dir / "videos" / name
    cuts, _ = our_cuts(path)
    assert cuts == library_cuts(path)


def test_every_real_video_is_compared(data_dir):
    files = {path.name for path in (data_dir / "videos").iterdir() if path.suffix != ".json"}
    assert files == set(REAL_VIDEOS)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "command", "detector"),
    [
        ("bikes.mp4", ["detect-adaptive"], "adaptive"),
        ("psd_testvideo.mp4", ["detect-adaptive"], "adaptive"),
        ("camvid_0016E5_2_1hz.mp4", ["detect-content"], "content27"),
        ("camvid_0016E5_2_1hz.mp4", ["detect-content", "-t", "30"], "content30"),
    ],
)
def test_cuts_are_those_of_the_scenedetect_command(data_dir, tmp_path, name, command, detector):
    path = data_dir / "videos" / name
    cuts, _ = our_cuts(path)
    expected = command_line_cuts(path, tmp_path, *command)
    assert [cut / 1e6 for cut in cuts[detector]] == pytest.approx(expected, abs=0.0006)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL_VIDEOS)
def test_cuts_of_every_video_are_those_of_the_scenedetect_command(data_dir, tmp_path, name):
    path = data_dir / "videos" / name
    cuts, _ = our_cuts(path)
    commands = {
        "adaptive": ["detect-adaptive"],
        "content27": ["detect-content"],
        "content30": ["detect-content", "-t", "30"],
    }
    for detector, command in commands.items():
        expected = command_line_cuts(path, tmp_path, *command)
        assert [cut / 1e6 for cut in cuts[detector]] == pytest.approx(expected, abs=0.0006)


@pytest.mark.medium
def test_hard_cuts_checked_by_eye_are_found_to_the_frame(data_dir):
    reference = json.loads((data_dir / "videos/shots_reference.json").read_text())
    for name, truth in reference.items():
        if name.startswith("_"):
            continue
        cuts, pts_us = our_cuts(data_dir / "videos" / name)
        found = {pts_us.index(cut) for cut in cuts["adaptive"]}
        assert found >= set(truth["cuts"])
        spans = truth.get("gradual", [])
        assert all(
            any(start <= cut < end for start, end in spans) for cut in found - set(truth["cuts"])
        )


@pytest.mark.medium
def test_uninterrupted_videos_have_no_cut(data_dir):
    for name in REAL_VIDEOS:
        if name not in ("bikes.mp4", "psd_testvideo.mp4"):
            assert our_cuts(data_dir / "videos" / name)[0]["adaptive"] == [], name


def test_variable_rate_gives_the_librarys_cuts_at_the_real_times(tmp_path):
    # 3 s at 30 frames a second, then every 5th frame only: the average rate is not 30.
    path = write_scenes(
        tmp_path / "vfr.mp4",
        seconds=(1, 1, 1.5, 0.4, 2.5, 1),
        filters="select='lt(n,90)+not(mod(n,5))'",
        fps_mode="vfr",
    )
    with open_video(path) as video:
        assert video.metadata.frame_rate < 28
        assert video.metadata.nominal_frame_rate == 30
    cuts, pts_us = our_cuts(path)
    assert cuts == library_cuts(path)
    assert cuts["content27"][:2] == [1_000_000, 2_000_000]
    assert set(cuts["content27"]) <= set(pts_us)


@pytest.mark.medium
def test_cuts_of_a_full_hd_film_are_pyscenedetects_own(tmp_path):
    path = write_scenes(tmp_path / "a.mp4", seconds=(1, 0.8, 1), rate=10, size="1920x1080")
    cuts, pts_us = our_cuts(path)
    assert len(pts_us) == 28
    assert cuts == library_cuts(path)
    assert cuts["adaptive"] == [1_000_000, 1_800_000]


@pytest.mark.parametrize("rate", [1, 5, 60])
def test_cuts_at_one_and_at_sixty_frames_a_second_have_the_same_time(tmp_path, rate):
    path = write_scenes(tmp_path / "a.mp4", seconds=(2, 3, 2), rate=rate, size="96x64")
    cuts, _ = our_cuts(path)
    assert cuts["content27"] == [2_000_000, 5_000_000]
    assert cuts == library_cuts(path)


def test_the_score_is_the_librarys_to_the_last_bit():
    rng = np.random.default_rng(0)
    ours, theirs = ContentScorer(), ContentDetector()
    for _ in range(20):
        bgr = rng.integers(0, 256, (37, 53, 3), dtype=np.uint8)
        expected = theirs._calculate_frame_score(FrameTimecode(0, 30.0), bgr)
        assert ours.score(bgr) == expected


def test_scores_may_come_in_pieces():
    rng = np.random.default_rng(1)
    pts_us = [round(i * 1e6 / 30) for i in range(300)]
    scores = np.where(rng.uniform(size=300) < 0.02, 80.0, rng.uniform(0, 20, 300)).tolist()
    whole, pieces = CutFinder(Fraction(30)), CutFinder(Fraction(30))
    whole.add(pts_us, scores)
    for start in range(0, 300, 7):
        pieces.add(pts_us[start : start + 7], scores[start : start + 7])
    assert pieces.cuts_us() == whole.cuts_us()
    assert set(whole.cuts_us()) == set(CUT_DETECTORS)
    assert len(whole.cuts_us()["content27"]) > 1


def test_shots_are_half_open_and_cover_the_video():
    for cuts_us, expected in (([], [(0, 10)]), ([3, 7], [(0, 3), (3, 7), (7, 10)])):
        rows = shot_rows("adaptive", cuts_us, end_us=10).to_pylist()
        assert [(row["start_us"], row["end_us"]) for row in rows] == expected
