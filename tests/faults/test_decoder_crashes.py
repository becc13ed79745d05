"""A file at which the decoder ends the process, with one job: it is named, the others are done."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sharded_videos import publish_video
from tests.support.video_clips import write_clip
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium
REPOSITORY = Path(__file__).parents[2]
VIDEOS = ("one", "two")
MANIFEST = 'format = 1\nname = "mine"\n' + "".join(
    f'[[video]]\nid = "{video_id}"\ntitle = "A walk"\nsources = ["file:{video_id}.mp4"]\n'
    for video_id in VIDEOS
)
# Python imports it at the start of every process, the workers too.
CRASH_AT_TWO = """
import os, signal, sys
from importlib import import_module

module = import_module("{module}")
real = module.open_video

def opened(path, **options):
    if "two" in str(path):
        os.kill(os.getpid(), signal.SIGSEGV)
    return real(path, **options)

module.open_video = opened
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.toml").write_text(MANIFEST)
    for video_id in VIDEOS:
        write_clip(tmp_path / f"{video_id}.mp4", source="testsrc2=size=64x48:rate=10:duration=2")
    return tmp_path


def run(folder: Path, module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose decoder, as `module` opens it, crashes at the video "two"."""
    (folder / "crash").mkdir(exist_ok=True)
    (folder / "crash/sitecustomize.py").write_text(CRASH_AT_TWO.format(module=module))
    path = os.pathsep.join([str(folder / "crash"), str(REPOSITORY)])
    command = [sys.executable, "-m", "wtours", *words, "--manifest", "mine.toml", "--root", "root"]
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("one_at_a_time", [("--jobs", "1"), ("--executor", "serial")])
def test_with_one_job_shard_names_the_video_and_makes_the_others(folder, one_at_a_time):
    layout = Layout(folder / "root")
    for video_id in VIDEOS:
        publish_video(layout, video_id, folder / f"{video_id}.mp4")
    result = run(folder, "wtours.sharding.segment_writer", "shard", *one_at_a_time)
    assert result.returncode == 3, result.stderr
    assert "two from 0 s to 60 s" in result.stderr
    assert "Traceback" not in result.stderr
    dataset = json.loads((layout.shards_dir("default") / "dataset.json").read_text())
    assert [video["video_id"] for video in dataset["videos"]] == ["one"]


def test_a_rerun_of_download_names_the_video_and_takes_the_others(folder):
    words = ("download", "--from-dir", str(folder))
    first = run(folder, "wtours.media.probe", *words)
    assert first.returncode == -signal.SIGSEGV
    for _ in range(2):  # and so does each that follows
        again = run(folder, "wtours.media.probe", *words)
        assert again.returncode == 3, again.stderr
        assert "two: two.mp4: the process died while it looked at the file" in again.stderr
        assert "Traceback" not in again.stderr
        layout = Layout(folder / "root")
        receipts = [json.loads(layout.video_receipt(name).read_text()) for name in VIDEOS]
        assert [receipt["status"] for receipt in receipts] == ["done", "failed_permanent"]
    # Another decoder reads it: the mark is no verdict.
    mended = run(folder, "wtours.sharding.segment_writer", *words)
    assert mended.returncode == 0, mended.stderr
