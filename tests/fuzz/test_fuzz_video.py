"""Damaged and hostile videos: no uncaught exception, 20 s and 512 MiB at most (`make fuzz`)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.video_clips import write_clip

pytestmark = pytest.mark.slow
RUNS = int(os.environ.get("WTOURS_FUZZ_RUNS", "150"))
MAX_BYTES = 512 * 2**20
ROOT = Path(__file__).resolve().parents[2]
SOURCE = "testsrc2=size=64x48:rate=10:duration=2"
KINDS: list[tuple[str, dict[str, Any]]] = [
    (".mp4", {"bf": 2}),
    (".mp4", {"movflags": "frag_keyframe+empty_moov", "g": 5}),
    (".mkv", {"bf": 2}),
    (".ts", {"bf": 2}),
    (".avi", {"vcodec": "mpeg4"}),
    (".webm", {"vcodec": "libvpx"}),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("corpus")
    for number, (suffix, options) in enumerate(KINDS):
        write_clip(folder / f"{number}{suffix}", source=SOURCE, **options)
    data = Path(os.environ.get("WTOURS_TEST_DATA", ROOT.parent / "shared" / "data")) / "cases"
    for name in ("paff.mkv", "elst_tail.mp4", "epoch.mkv", "preview_first.mov"):
        if (data / name).is_file():
            shutil.copy(data / name, folder)
    return folder


@pytest.mark.parametrize("seed", range(2))
def test_no_mutant_of_a_video_breaks_the_reader(seed, corpus):
    command = [sys.executable, "-m", "tests.fuzz.fuzz_video", str(corpus), str(RUNS), str(seed)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    left = [path.name for path in (corpus / "mutants").iterdir()]
    assert found.returncode == 0, (left, found.stderr[-2000:])
    assert int(found.stdout.split()[-1]) < MAX_BYTES
