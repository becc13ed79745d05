"""What killed processes leave, where several write to a folder without a lock."""

import os
import time

import pytest

from wtours.errors import StorageError
from wtours.storage.atomic import atomic_path, sweep_idle
from wtours.storage.hashing import sha256_file, unchanged

DAY = 24 * 3600


def left(folder, name, *, age):
    """Write a temporary file as a process that was killed `age` seconds ago left it."""
    path = folder / f".tmp-4711-0a1b2c3d-{name}"
    path.write_text("half")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_what_nobody_has_written_to_for_a_day_is_removed(tmp_path):
    old = left(tmp_path, "old.mp4", age=2 * DAY)
    folder = tmp_path / ".tmp-4711-0a1b2c3e-masks"
    folder.mkdir()
    left(folder, "00000.png", age=2 * DAY)
    os.utime(folder, (time.time() - 2 * DAY,) * 2)
    sweep_idle(tmp_path)
    assert not old.exists()
    assert not folder.exists()


def test_what_another_process_may_be_writing_and_what_is_not_ours_stays(tmp_path):
    new = left(tmp_path, "new.mp4", age=60)
    folder = tmp_path / ".tmp-4711-0a1b2c3e-masks"
    folder.mkdir()
    left(folder, "00000.png", age=60)
    os.utime(folder, (time.time() - 2 * DAY,) * 2)
    foreign = tmp_path / ".tmp-notes"
    foreign.write_text("a user's own")
    os.utime(foreign, (time.time() - 2 * DAY,) * 2)
    done = tmp_path / "done.png"
    done.write_text("whole")
    os.utime(done, (time.time() - 2 * DAY,) * 2)
    sweep_idle(tmp_path)
    sweep_idle(tmp_path / "absent")
    assert all(path.exists() for path in (new, folder, foreign, done))


def test_a_temporary_name_is_one_that_is_swept(tmp_path):
    with atomic_path(tmp_path / "a.json") as temp:
        temp.write_text("whole")
    (tmp_path / "a.json").rename(temp)  # as if it had been killed before
    os.utime(temp, (time.time() - 2 * DAY,) * 2)
    sweep_idle(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["replace", "write", "remove"])
def test_a_sha256_is_of_the_file_that_was_read(tmp_path, change):
    path, other = tmp_path / "weights", tmp_path / "other"
    path.write_text("one")
    other.write_text("two")
    with unchanged(path):
        assert path.read_text() == "one"
        assert len(sha256_file(path)) == 64
    changes = {
        "replace": lambda: other.replace(path),
        "write": lambda: path.write_text("two"),
        "remove": path.unlink,
    }
    with pytest.raises(StorageError, match="was replaced or removed"), unchanged(path):
        changes[change]()


def test_what_is_missing_is_for_its_reader_to_say(tmp_path):
    with pytest.raises(FileNotFoundError), unchanged(tmp_path / "absent"):
        (tmp_path / "absent").read_text()
