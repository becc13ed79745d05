"""A small file system in a file: its copy is what a disk holds when the power goes."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def make_image(tmp_path: Path) -> Path:
    """Return a file that holds an empty ext4 file system which this process may mount."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a file system from a file")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("needs mkfs.ext4")
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(64 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(path)], check=True)
    trial = ["mount", "-o", "loop", str(path), str(tmp_path / "trial")]
    (tmp_path / "trial").mkdir()
    result = subprocess.run(trial, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"needs the right to mount a loop device: {result.stderr.strip()}")
    subprocess.run(["umount", str(tmp_path / "trial")], check=True)
    return path


def cut_power(script: str, *arguments: str, after: str, image: Path, copy: Path) -> None:
    """Run a script, and copy the disk right after it has printed the line `after`."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == after:
            break
    else:
        raise AssertionError(f"the script ended with {process.wait()} and never said {after!r}")
    process.send_signal(signal.SIGSTOP)
    shutil.copyfile(image, copy)
    process.kill()
    process.communicate()
