"""What every test gets: no network, restored randomness and environment, no stray ERROR log."""

import contextlib
import gc
import logging
import os
import random
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from tests.support.shared_servers import S3, start_servers, use_fork_server

# A busy machine is no failure: hypothesis must not time its examples.
hypothesis.settings.register_profile("wtours", deadline=None)
hypothesis.settings.load_profile("wtours")

REPOSITORY = Path(__file__).resolve().parents[1]
WORKER_BYTES = 4 << 30
MEMORY_DISK, MEMORY_DISK_BYTES = "/dev/shm", 8 << 30

# Where no bytecode is written, as in many containers, each of the hundreds of processes that tests
# start would compile all of wtours again: a third of the time that a small command takes.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
gc.disable()  # until all is imported: see pytest_collection_finish
# A shell ignores Ctrl-C for what it starts in the background; all processes would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# One server for all that is forked, whoever starts it: a rank that is forked from one that has
# imported the loader alone, as the loader asks for, takes seconds of a CPU for the rest. pyarrow
# imports pandas, where it is there, with the first array.
PRELOADED = [
    *("tests.support.forked_ranks", "tests.support.prepared", "wtours.acquire.ytdlp.session"),
    *("training.pretrain", "torch.utils.tensorboard", "pandas"),
]
forkserver.set_forkserver_preload(PRELOADED)
forkserver.set_forkserver_preload = lambda modules_names: None
use_fork_server()


def _temporary_folders() -> str:
    """Return where tests write: in memory if there is room, as each file that is published waits
    for the disk several times, and no test can see whether it has."""
    with contextlib.suppress(OSError):
        disk = os.statvfs(MEMORY_DISK)
        can_execute = not disk.f_flag & os.ST_NOEXEC  # as tests do; not in a container's
        if can_execute and disk.f_bavail * disk.f_frsize > MEMORY_DISK_BYTES:
            return MEMORY_DISK
    return tempfile.gettempdir()


os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", _temporary_folders())


def pytest_addoption(parser: pytest.Parser) -> None:
    """Tests of tests/gpu run on the CPU, at their small size, if asked."""
    parser.addoption("--device", choices=("cuda", "cpu"), default="cuda", help="of tests/gpu")


def pytest_configure(config: pytest.Config) -> None:
    """Prepare for workers, which have this process's environment."""
    if config.getoption("dist", "no") == "no":
        return
    # Workers that share the cores must not each start a thread a core, or for each core a process
    # that compiles.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        start_servers()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """A worker a core and one more, as many tests wait for a process, if there is memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(len(os.sched_getaffinity(0)) + 1, memory // WORKER_BYTES))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the files of tests/faults evenly among the others.

    They wait for processes that start, die or are silent, and the others compute: workers that all
    wait at once would leave a core idle. The last tenth is of others, which are short.
    """
    files = dict[Path, list[pytest.Item]]()
    for item in items:
        files.setdefault(item.path, []).append(item)
    waiting = [path for path in files if path.parent.name == "faults"]
    computing = [path for path in files if path.parent.name != "faults"]
    place = {path: at / len(computing) for at, path in enumerate(computing)}
    place |= {path: 0.9 * at / len(waiting) for at, path in enumerate(waiting)}
    items[:] = [
        item for path in sorted(files, key=lambda path: place[path]) for item in files[path]
    ]


def pytest_collection_finish() -> None:
    """Millions of objects have been imported, and stay: no garbage is looked for among them."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Give the memory back, unless a folder may show why a test failed."""
    is_worker = "PYTEST_XDIST_WORKER" in os.environ  # its folder is in that of all workers
    if not (exitstatus or is_worker or session.config.getoption("basetemp")):
        factory = getattr(session.config, "_tmp_path_factory")  # noqa: B009
        shutil.rmtree(factory.getbasetemp(), ignore_errors=True)


def _outside_folder(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable, REPOSITORY.parent / "shared" / default))
    if not folder.is_dir():
        message = f"needs the folder {folder}; set {variable} to where it is"
        if os.environ.get("WTOURS_REQUIRE_DATA"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real videos, labels and a detector (WTOURS_TEST_DATA)."""
    return _outside_folder("WTOURS_TEST_DATA", "data")


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Recorded tensors of the released code (WTOURS_TEST_REFERENCE)."""
    return _outside_folder("WTOURS_TEST_REFERENCE", "reference")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small networks are slower on several threads, and much slower on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def s3_endpoint() -> str:
    """The URL of moto's S3 on this machine, one for all tests of a process, or of all of them."""
    pytest.importorskip("moto.server")
    from tests.support.object_stores import moto_s3

    return os.environ.get(S3) or moto_s3()


@pytest.fixture
def s3_folder(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A URL with nothing below it, in a bucket of its own."""
    s3fs = pytest.importorskip("s3fs")
    from tests.support.object_stores import s3_environment

    for name, value in s3_environment(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    # The process that a loader's workers are forked from keeps the environment it was started with.
    clean = getattr(forkserver, "_forkserver")  # noqa: B009
    place = Path(f"/proc/{clean._forkserver_pid}/environ")
    if clean._forkserver_pid and s3_endpoint.encode() not in place.read_bytes():
        clean._stop()
    bucket = f"walks-{secrets.token_hex(6)}"
    s3fs.S3FileSystem(use_listings_cache=False).mkdir(bucket)
    return f"s3://{bucket}/root"


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = str(address[0])
            if host not in ("localhost", "::1") and not host.startswith("127."):
                raise PermissionError(f"tests stay on this machine, not {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _restored_randomness() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])


@pytest.fixture(autouse=True)
def _restored_environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _no_unexpected_error_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    errors = [r for r in caplog.get_records("call") if r.levelno >= logging.ERROR]
    assert not errors, f"logged as errors: {[r.getMessage() for r in errors]}"
