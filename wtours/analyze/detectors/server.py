"""Networks in processes of their own, so that decoding does not wait for them.

`DetectorService` starts them (one on each GPU, else one for each decoding process) and stops them.
`NetworkClient` is a decoding process's connection: it sends batches ahead, a bounded number, and
gets their detections in the same order, so the result is that of a network in the same process.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Self

from wtours.analyze.detectors.base import Colors, Detection
from wtours.analyze.detectors.spec import DetectorSpec
from wtours.analyze.detectors.worker import Answer, WorkerReady
from wtours.errors import AnalysisError, WtoursError
from wtours.execution.child_process import started_without_ctrl_c
from wtours.media.frame import Frame
from wtours.storage.atomic import remove

_MAIN = "from wtours.analyze.detectors.worker import main; main()"
"""Not -m: what is pickled must not be named after __main__."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a decoding process connects to a network, and what this takes."""

    spec: DetectorSpec
    address: Path
    batch_size: int
    colors: Colors

    def connect(self) -> "NetworkClient":
        """Return a client of one of the network's processes; see `DetectorSource`."""
        return NetworkClient(self)


class DetectorService:
    """The processes of one network, started when first asked for; use it as a context manager.

    Args:
        spec: The network.
        jobs: How many processes decode.
        folder: Where their socket is, the same after a restart; None: a new one.
    """

    def __init__(self, spec: DetectorSpec, jobs: int, *, folder: Path | None = None) -> None:
        self._spec = spec
        self._jobs = jobs
        self._wanted_folder = folder
        self._folder: Path | None = None
        self._processes: list[tuple[subprocess.Popen[bytes], Connection]] = []
        self._ready: WorkerReady | WtoursError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def ready(self) -> WorkerReady:
        """Return what the network is and takes; processes that have died are started again.

        Raises:
            AnalysisError: it cannot be loaded, its process died, or nodes have different ones.
            MissingPackageError: a package that it needs is not installed.
        """
        # A pipe that has ended, not the process's state: that may change after its clients noticed.
        if any(control.poll() for _, control in self._processes):
            self._stop()
        if self._ready is None:
            try:
                self._ready = self._start()
            except WtoursError as error:  # it would fail again for the next video
                self._ready = error
                self._stop()
        if isinstance(self._ready, WtoursError):
            raise self._ready
        return self._ready

    def endpoint(self) -> Endpoint:
        """Return where decoding processes connect to; only after `ready`."""
        assert isinstance(self._ready, WorkerReady)
        assert self._folder is not None
        address = self._folder / "detector"
        return Endpoint(self._spec, address, self._ready.batch_size, self._ready.colors)

    def _start(self) -> WorkerReady:
        if self._wanted_folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="wtours-"))  # the user's alone
        else:
            remove(self._wanted_folder)  # of a process that was killed
            self._wanted_folder.mkdir(mode=0o700)
            self._folder = self._wanted_folder
        with socket.socket(socket.AF_UNIX) as listener:
            try:
                listener.bind(str(self._folder / "detector"))
            except OSError as error:  # a path of more than 107 bytes
                raise AnalysisError(
                    f"detector {self._spec}: no socket can be made in {tempfile.gettempdir()} "
                    f"({error}); set TMPDIR to a short path of a local disk"
                ) from error
            listener.listen(self._jobs)
            self._add_process(listener)
            ready = self._ready_of(self._processes[0][1])
            others: list[str | None] = [None] * (self._jobs - 1)
            for gpu in visible_gpus(ready.num_gpus)[1:] if ready.is_shared else others:
                self._add_process(listener, gpu=gpu)
        # Nobody but the processes listens now: should they die, who waits for them is told.
        for _, control in self._processes[1:]:
            if self._ready_of(control) != ready:
                raise AnalysisError(f"{self._spec} changed; run the same command again")
        return ready

    def _add_process(self, listener: socket.socket, *, gpu: str | None = None) -> None:
        ours, theirs = Pipe()
        command = [sys.executable, "-c", _MAIN, str(self._spec)]
        passed = (theirs.fileno(), listener.fileno())
        with started_without_ctrl_c():
            process = subprocess.Popen(
                [*command, *map(str, passed)],
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                env=os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}),
            )
        theirs.close()
        self._processes.append((process, ours))

    def _ready_of(self, control: Connection) -> WorkerReady:
        try:
            answer = control.recv()
        except (EOFError, OSError) as error:
            raise _died(self._spec) from error
        if isinstance(answer, WtoursError):
            raise answer
        assert isinstance(answer, WorkerReady)
        return answer

    def _stop(self) -> None:
        for process, control in self._processes:
            control.close()
            process.kill()
            process.wait()
        self._processes.clear()
        if not isinstance(self._ready, WtoursError):
            self._ready = None
        if self._folder is not None:
            remove(self._folder)
            self._folder = None


def visible_gpus(count: int) -> list[str]:
    """Return the names of the GPUs that this process may use, of which torch sees so many."""
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] or [str(number) for number in range(count)]


class NetworkClient:
    """A connection to one of the processes; use it as a context manager.

    Raises:
        AnalysisError: the process has died.
    """

    MAX_IN_FLIGHT = 2
    """Batches: one that the network looks at, and one that is ready for it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._to_pixels = Frame.to_bgr if endpoint.colors == "bgr" else Frame.to_rgb
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(endpoint.address))
        except OSError as error:
            self._socket.close()
            raise _died(endpoint.spec) from error
        self._connection = Connection(os.dup(self._socket.fileno()))
        self._waiting: list[Frame] = []
        self._in_flight: deque[list[int]] = deque()
        """pts of the frames of the batches that were sent."""
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

    def submit(self, frames: Sequence[Frame]) -> list[tuple[int, list[Detection]]]:
        """Return (pts_us, detections) of the frames that are ready by now."""
        self._waiting += frames
        detected = []
        while len(self._waiting) >= self._endpoint.batch_size:
            detected += self._send()
        return detected

    def finish(self) -> list[tuple[int, list[Detection]]]:
        """Return those of the frames that are left."""
        detected = self._send() if self._waiting else []
        while self._in_flight:
            detected += self._receive()
        return detected

    def _send(self) -> list[tuple[int, list[Detection]]]:
        """Send a batch; return the detections of an earlier one, where it had to be waited for."""
        detected = self._receive() if len(self._in_flight) == self.MAX_IN_FLIGHT else []
        size = self._endpoint.batch_size
        batch, self._waiting = self._waiting[:size], self._waiting[size:]
        try:
            self._connection.send([self._to_pixels(frame) for frame in batch])
        except OSError as error:
            raise _died(self._endpoint.spec) from error
        self._in_flight.append([frame.pts_us for frame in batch])
        return detected

    def _receive(self) -> list[tuple[int, list[Detection]]]:
        answer = self._answers.get()
        if isinstance(answer, WtoursError):
            raise answer
        return list(zip(self._in_flight.popleft(), answer, strict=True))

    def _read(self) -> None:
        """Take answers as they come: the process must not wait for us while we send to it."""
        try:
            while True:
                self._answers.put(self._connection.recv())
        except (EOFError, OSError):
            self._answers.put(_died(self._endpoint.spec))


def _died(spec: DetectorSpec) -> AnalysisError:
    return AnalysisError(
        f"the process of the detector {spec} died (out of memory?); run the same command again, "
        f"with fewer --jobs: finished parts are kept"
    )
