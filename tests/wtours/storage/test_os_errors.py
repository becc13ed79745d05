"""What the file system refuses is one line; a bug stays a traceback."""

import errno
import fcntl
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.small_disk import small_disk
from wtours.errors import DiskFullError, StorageError
from wtours.storage.atomic import read_json, write_bytes
from wtours.storage.locks import lock, shared_lock
from wtours.storage.os_errors import explain_os_error, explain_os_errors


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "videos").write_bytes(b"")
    for path in (tmp_path / "videos" / "a" / "x.json", tmp_path / "videos" / "x.json"):
        with pytest.raises(StorageError, match=r"move (the file|it) away") as caught:
            write_bytes(path, b"x")
        assert str(caught.value).startswith(f"{tmp_path}/videos: a file where a folder should be")


def test_a_folder_where_a_file_should_be_is_named(tmp_path):
    (tmp_path / "x.json").mkdir()
    with pytest.raises(StorageError, match=r"x\.json: is a directory; move the folder away"):
        write_bytes(tmp_path / "x.json", b"x")
    with pytest.raises(StorageError, match=r"x\.json: is a directory"):
        read_json(tmp_path / "x.json")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.parametrize("hold", [lock, shared_lock])
def test_a_file_system_without_locks_is_one_line(tmp_path, monkeypatch, hold, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))  # NFS without lockd, Lustre without -o flock

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(
            StorageError, match=r"x\.lock: the file system has no file locks; mount it with them"
        ),
        hold(tmp_path / "x.lock", what="it"),
    ):
        pass


def test_a_name_that_is_too_long_is_named_and_shortened(tmp_path):
    with pytest.raises(StorageError, match="file name too long; choose a shorter") as caught:
        write_bytes(tmp_path / ("x" * 5000) / "y", b"x")
    assert len(str(caught.value)) < 500


def test_a_lock_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "locks").write_bytes(b"")
    with (
        pytest.raises(StorageError, match="locks: a file where a folder should be"),
        lock(tmp_path / "locks" / "x.lock", what="x"),
    ):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="permission denied; change its owner"):
        write_bytes(tmp_path / "x", b"x")


def test_a_file_larger_than_allowed_leaves_nothing(tmp_path):
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from wtours.errors import StorageError\n"
        "from wtours.storage.atomic import write_bytes\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_bytes(Path(sys.argv[1]), b'x' * 2000)\n"
        "except StorageError as error: print(error)\n"
    )
    path = tmp_path / "x"
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith(f"{path}: file too large; ")
    assert "ulimit -f" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_too_many_open_files_say_how_to_raise_the_limit(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(StorageError, match="too many open files; raise the limit"):
            write_bytes(tmp_path / "x", b"x")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES])
def test_what_only_the_kernel_can_do_is_explained_by_its_number(number, tmp_path):
    with pytest.raises(StorageError, match=r"walk\.mp4: ") as caught, explain_os_errors(tmp_path):
        raise OSError(number, os.strerror(number), str(tmp_path / "walk.mp4"))
    assert "\n" not in str(caught.value)


def test_no_message_shows_a_temporary_name(tmp_path):
    temporary = str(tmp_path / ".tmp-1-abcdef12-walk.mp4")
    error = explain_os_error(OSError(errno.EIO, "I/O error", temporary), tmp_path / "walk.mp4")
    assert str(error).startswith(f"{tmp_path}/walk.mp4: i/o error")


def test_a_disk_with_room_is_not_called_full_where_another_place_is(tmp_path, monkeypatch):
    with small_disk(tmp_path / "shm", "size=64k") as small:
        monkeypatch.setattr("wtours.storage.os_errors.SHARED_MEMORY", small)
        error = explain_os_error(OSError(errno.ENOSPC, "No space left on device"), tmp_path / "x")
        assert isinstance(error, DiskFullError)
        assert f"{small} is full, not the disk" in str(error)
        assert "data.num_workers=0" in str(error)
        with pytest.raises(DiskFullError, match=r"disk full while writing .*/x: 0 MiB free; "):
            write_bytes(small / "x", b"x" * 100_000)


@pytest.mark.parametrize(
    "bug", [OSError("no number"), FileNotFoundError(2, "x", "y"), OSError(9, "x")]
)
def test_a_bug_stays_what_it_is(bug, tmp_path):
    with pytest.raises(type(bug)) as caught, explain_os_errors(tmp_path):
        raise bug
    assert caught.value is bug


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_a_file_system_that_takes_no_files_is_named():
    with pytest.raises(StorageError, match=r"/proc/x.*no files can be made there; choose another"):
        write_bytes(Path("/proc/x/y"), b"x")
    with pytest.raises(FileNotFoundError), explain_os_errors(Path("/tmp")):
        Path("/tmp/wtours-is-not-there/x").read_bytes()  # a bug elsewhere stays a traceback
