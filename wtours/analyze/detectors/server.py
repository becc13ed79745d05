"""Networks in processes of their own, so that decoding does not wait for them.

`DetectorService` starts them (one on a GPU, else one for each decoding process) and stops them.
`RemoteNetwork` is a decoding process's connection: it sends pictures ahead, a bounded number, and
takes the answers in the same order, so the result is that of a network in the same process.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Self

from wtours.analyze.detectors.base import Colors, Detection, DetectorIdentity
from wtours.analyze.detectors.spec import DetectorSpec
from wtours.analyze.detectors.worker import Answer, Greeting
from wtours.errors import AnalysisError, WtoursError
from wtours.media.frame import Frame
from wtours.storage.atomic import remove

_MAIN = "from wtours.analyze.detectors.worker import main; main()"
"""Not -m: what is pickled must not be named after __main__."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a decoding process connects to, and what is expected there."""

    address: Path
    batch_size: int
    colors: Colors


class DetectorService:
    """The processes of one network, started when first asked for; use it as a context manager.

    Args:
        spec: The network.
        jobs: How many processes decode.
    """

    def __init__(self, spec: DetectorSpec, jobs: int) -> None:
        self._spec = spec
        self._jobs = jobs
        self._folder: Path | None = None
        self._processes: list[tuple[subprocess.Popen[bytes], Connection]] = []
        self._greeting: Greeting | WtoursError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def identity(self) -> DetectorIdentity:
        """Return what the network is; processes that have died are started again.

        Raises:
            AnalysisError: it cannot be loaded, or its process died.
            MissingPackageError: a package that it needs is not installed.
        """
        if any(process.poll() is not None for process, _ in self._processes):
            self._stop()
        if self._greeting is None:
            try:
                self._greeting = self._start()
            except WtoursError as error:  # it would fail again for the next video
                self._greeting = error
                self._stop()
        if isinstance(self._greeting, WtoursError):
            raise self._greeting
        return self._greeting.identity

    def endpoint(self) -> Endpoint:
        """Return where decoding processes connect to; only after `identity`."""
        assert isinstance(self._greeting, Greeting)
        return Endpoint(self._address, self._greeting.batch_size, self._greeting.colors)

    @property
    def _address(self) -> Path:
        assert self._folder is not None
        return self._folder / "detector"

    def _start(self) -> Greeting:
        self._folder = Path(tempfile.mkdtemp(prefix="wtours-"))  # the user's alone
        with socket.socket(socket.AF_UNIX) as listener:
            try:
                listener.bind(str(self._address))
            except OSError as error:  # a path of more than 107 bytes
                raise AnalysisError(
                    f"detector {self._spec}: no socket can be made in {tempfile.gettempdir()} "
                    f"({error}); set TMPDIR to a short path of a local disk"
                ) from error
            listener.listen(self._jobs)
            self._add_process(listener)
            greeting = self._greeting_of(self._processes[0][1])
            if not greeting.is_shared:
                for _ in range(1, self._jobs):
                    self._add_process(listener)
        # Nobody but the processes listens now: should they die, who waits for them is told.
        for _, control in self._processes[1:]:
            if self._greeting_of(control) != greeting:
                raise AnalysisError(f"{self._spec} changed; run the same command again")
        return greeting

    def _add_process(self, listener: socket.socket) -> None:
        ours, theirs = Pipe()
        command = [sys.executable, "-c", _MAIN, str(self._spec)]
        passed = (theirs.fileno(), listener.fileno())
        process = subprocess.Popen(
            [*command, *map(str, passed)], pass_fds=passed, stdin=subprocess.DEVNULL
        )
        theirs.close()
        self._processes.append((process, ours))

    def _greeting_of(self, control: Connection) -> Greeting:
        try:
            answer = control.recv()
        except (EOFError, OSError) as error:
            raise _died(self._spec) from error
        if isinstance(answer, WtoursError):
            raise answer
        assert isinstance(answer, Greeting)
        return answer

    def _stop(self) -> None:
        for process, control in self._processes:
            control.close()
            process.kill()
            process.wait()
        self._processes.clear()
        if not isinstance(self._greeting, WtoursError):
            self._greeting = None
        if self._folder is not None:
            remove(self._folder)
            self._folder = None


class RemoteNetwork:
    """A connection to one of the processes; use it as a context manager.

    Raises:
        AnalysisError: the process has died.
    """

    max_waiting = 2
    """Batches that may be under way: one that is looked at, and one that is ready for it."""

    def __init__(self, spec: DetectorSpec, endpoint: Endpoint) -> None:
        self.batch_size = endpoint.batch_size
        self._spec = spec
        self._to_pixels = Frame.to_bgr if endpoint.colors == "bgr" else Frame.to_rgb
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(endpoint.address))
        except OSError as error:
            self._socket.close()
            raise _died(spec) from error
        self._connection = Connection(os.dup(self._socket.fileno()))
        self._answers: Queue[Answer] = Queue()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends the reader
        self._reader.join()
        self._connection.close()
        self._socket.close()

    def send(self, frames: Sequence[Frame]) -> None:
        """Send at most `batch_size` frames; at most `max_waiting` answers may be outstanding."""
        try:
            self._connection.send([self._to_pixels(frame) for frame in frames])
        except OSError as error:
            raise _died(self._spec) from error

    def receive(self) -> list[list[Detection]]:
        """Return each frame's detections, of the batch that was sent first."""
        answer = self._answers.get()
        if isinstance(answer, WtoursError):
            raise answer
        return answer

    def _read(self) -> None:
        """Take answers as they come: the process must not wait for us while we send to it."""
        try:
            while True:
                self._answers.put(self._connection.recv())
        except (EOFError, OSError):
            self._answers.put(_died(self._spec))


def _died(spec: DetectorSpec) -> AnalysisError:
    return AnalysisError(
        f"the process of the detector {spec} died (out of memory?); run the same command again, "
        f"with fewer --jobs: finished parts are kept"
    )
