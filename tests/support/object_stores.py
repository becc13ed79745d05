"""Object stores for tests: moto's S3 (the fixture `s3_folder`), and one in memory that fails."""

import logging
import os
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from wtours.storage.object_store import open_store
from wtours.storage.store import Store

OF_S3_CLIENTS = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
"""Warnings of moto, boto and aiobotocore."""


def moto_at(listener: socket.socket) -> Any:
    """Return a server of moto's S3, which answers one request at a time, for a listening socket.

    It looks whether there is an object, and then makes it: two that create one at once would both
    be told that they have, as by no S3.
    """
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    # A command in this process shows what is logged: a line for each request, also for one that an
    # earlier test has left behind.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    answer, in_turn = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with in_turn:
            return list(answer(environ, start_response))

    host, port = listener.getsockname()
    return make_server(host, port, application, threaded=True, fd=listener.fileno())


def moto_s3() -> str:
    """Run moto's S3 until this process ends; return its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = moto_at(listener)  # has a socket of its own
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.port}"


def s3_environment(address: str) -> dict[str, str]:
    """Return the variables by which clients find moto's S3."""
    return {
        "AWS_ACCESS_KEY_ID": "made-up",
        "AWS_SECRET_ACCESS_KEY": "made-up",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
    }


@contextmanager
def moto_server(bucket: str) -> Iterator[str]:
    """Run moto's S3 with a bucket, for what this process starts; yield its address."""
    import s3fs

    address = moto_s3()
    os.environ |= s3_environment(address)
    s3fs.S3FileSystem(use_listings_cache=False).mkdir(bucket)
    yield address


def copy_into(url: str, folder: Path) -> Store:
    """Put every file of a folder on a store."""
    store = open_store(url)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        assert store.create(path.relative_to(folder).as_posix(), path)
    return store


def sha256s(store: Store, folder: str = "") -> dict[str, str]:
    """Return the digest of each object, read from its bytes."""
    import hashlib

    return {
        found.key: hashlib.sha256(store.get(found.key)).hexdigest() for found in store.list(folder)
    }


class FaultyFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Objects in memory; each operation first does what it is told to."""

    protocol = "faulty"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    told: ClassVar[dict[str, deque[Any]]] = defaultdict(deque)
    """By operation: what happens at the next calls of it; None: nothing."""
    names: ClassVar[list[str]] = []
    """Of the objects that were put, in order."""
    counts: ClassVar[dict[str, int]] = defaultdict(int)
    hidden: ClassVar[set[str]] = set()
    """Ends of names that a listing does not show yet."""
    ignores_create: ClassVar[bool] = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(str(path).removeprefix("faulty://")))

    @classmethod
    def reset(cls) -> None:
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.told.clear()
        cls.names.clear()
        cls.counts.clear()
        cls.hidden.clear()
        cls.ignores_create = False

    @classmethod
    def tell(cls, operation: str, *faults: Any) -> None:
        cls.told[operation].extend(faults)

    def _meet(self, operation: str, work: Callable[[], Any]) -> Any:
        self.counts[operation] += 1
        fault = self.told[operation].popleft() if self.told[operation] else None
        if fault == "lost":
            work()
            raise ConnectionResetError("the answer was lost")
        if fault == "torn":
            raise ConnectionResetError("the connection was closed in the middle of the body")
        if isinstance(fault, float):
            time.sleep(fault)
        if isinstance(fault, Exception):
            raise fault
        return work()

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> Any:
        mode = "overwrite" if self.ignores_create else mode
        self.names.append(path)
        return self._meet("put", lambda: super(FaultyFileSystem, self).pipe_file(path, value, mode))

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> Any:
        return self._meet("get", lambda: super(FaultyFileSystem, self).cat_file(path, start, end))

    def info(self, path: str, **kwargs: Any) -> Any:
        return self._meet("stat", lambda: super(FaultyFileSystem, self).info(path))

    def find(self, path: str, *args: Any, **kwargs: Any) -> Any:
        found = self._meet(
            "list", lambda: super(FaultyFileSystem, self).find(path, *args, **kwargs)
        )
        return {k: v for k, v in found.items() if not any(k.endswith(end) for end in self.hidden)}


fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
