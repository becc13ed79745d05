"""Hours of video in a memory that does not grow with them."""

import os
import subprocess
import sys

import ffmpeg
import imageio_ffmpeg
import pytest

from tests.support.analyze_cases import add_video, write_detections, write_scenes
from wtours.analyze.schema import load_summary
from wtours.workspace.layout import Layout

ANALYZE = (
    "import sys; from pathlib import Path; from wtours.workspace.layout import Layout;"
    "from wtours.analyze.pipeline import analyze_videos;"
    "report = analyze_videos(Layout(Path(sys.argv[1])), ['walk'], detector='file:' + sys.argv[2]);"
    "sys.exit(report.done != ['walk'])"
)


def peak_mib(root, truth):
    process = subprocess.Popen([sys.executable, "-c", ANALYZE, str(root), str(truth)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss / 1024


@pytest.mark.slow
def test_three_hours_take_no_more_memory_than_ten_minutes(tmp_path):
    minute = write_scenes(tmp_path / "minute.mp4", seconds=(20, 40), rate=20, size="160x120", bf=0)
    rows = [(second * 1_000_000, "cat", 0.9, 0.0, 0.0, 9.0, 9.0) for second in range(3 * 3600)]
    truth = write_detections(tmp_path / "truth.parquet", rows * 10)
    peaks = {}
    for minutes in (10, 180):
        layout = Layout(tmp_path / str(minutes))
        clip = tmp_path / f"{minutes}.mp4"
        looped = ffmpeg.input(str(minute), stream_loop=minutes - 1).output(str(clip), c="copy")
        ffmpeg.run(looped, cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True)
        add_video(layout, "walk", clip)
        peaks[minutes] = peak_mib(layout.root, truth)
        summary = load_summary(layout, "walk")
        assert summary.frames == minutes * 1200
        assert summary.seconds == pytest.approx(minutes * 60, abs=0.1)
        assert summary.cuts["adaptive"] == 2 * minutes - 1
        assert summary.objects is not None
        assert summary.objects.frames_analysed == pytest.approx(minutes * 60, abs=1)
        # The tick at the very end has a frame, but after three hours no row of the file.
        assert summary.objects.detections == pytest.approx(minutes * 600, abs=10)
    assert peaks[180] < peaks[10] + 48
