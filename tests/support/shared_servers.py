"""One fork server and one S3 for all workers of a parallel run of the whole suite.

Each worker's own would import the same for seconds of a CPU, and the fork server of a worker that
comes to a test of S3 once more, as forks have the environment that it was started with.
"""

import os
import socket
import threading
from importlib.util import find_spec
from multiprocessing import forkserver
from typing import Any

import pytest

from tests.support.object_stores import moto_at, s3_environment

_ADDRESS, _KEY, S3 = "WTOURS_TEST_FORKS", "WTOURS_TEST_FORKS_KEY", "WTOURS_TEST_S3"
_SERVER: Any = getattr(forkserver, "_forkserver")  # noqa: B009


def start_servers() -> None:
    """Start both in this process, which starts the workers; they learn of them by `os.environ`."""
    own: dict[str, str] = {}
    if find_spec("moto") is not None:
        listener = socket.create_server(("127.0.0.1", 0))
        os.environ[S3] = f"http://127.0.0.1:{listener.getsockname()[1]}"
        own = s3_environment(os.environ[S3])
        # Who asks before moto is imported waits.
        threading.Thread(target=lambda: moto_at(listener).serve_forever(), daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        forkserver.ensure_running()
    os.environ[_ADDRESS] = _SERVER._forkserver_address
    os.environ[_KEY] = getattr(_SERVER, "_forkserver_authkey", b"").hex()  # from Python 3.14 on


def use_fork_server() -> None:
    """Have this worker's forks come from the one that is there, if there is one."""
    if _ADDRESS not in os.environ:
        return
    _SERVER._forkserver_address = os.environ[_ADDRESS]
    _SERVER._forkserver_authkey = bytes.fromhex(os.environ[_KEY])
    _SERVER._forkserver_alive_fd = os.pipe()[1]  # each fork is sent one
    for place in (_SERVER, forkserver):
        setattr(place, "ensure_running", lambda: None)  # noqa: B010
