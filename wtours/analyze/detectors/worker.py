"""A network in a process of its own.

`wtours.analyze.detectors.server` starts it, with two file descriptors. It loads the network, says
through the control pipe what it is, and then answers whoever connects to the listening socket:
images come in, detections go out, in order. On a GPU one process serves many connections; on a
CPU, where there is a process for each, one at a time. When its parent is gone, so is it.
"""

import contextlib
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wtours.analyze.detectors.base import Colors, Detection, DetectorIdentity, Network
from wtours.analyze.detectors.spec import DetectorSpec, parse_detector
from wtours.errors import AnalysisError, WtoursError
from wtours.execution.child_process import follow_parent
from wtours.text import first_line

_ACCEPT_SECONDS = 0.01
Answer: TypeAlias = list[list[Detection]] | WtoursError
"""The detections of each image of a batch, or why there are none."""


@dataclass(frozen=True, slots=True)
class WorkerReady(DetectorIdentity):
    """What the process says once it has loaded its network."""

    batch_size: int
    colors: Colors
    num_gpus: int = field(default=0, compare=False)
    """That the process sees; of those it uses the first."""

    @property
    def is_shared(self) -> bool:
        """Return whether one process serves every connection: a GPU's does."""
        return self.batch_size > 1


def main() -> None:
    """Serve until the parent goes away; arguments: the network, control pipe, listening socket."""
    spec = parse_detector(sys.argv[1])
    control, listener = Connection(int(sys.argv[2])), socket.socket(fileno=int(sys.argv[3]))
    follow_parent(control)
    try:
        network = spec.load_network()
        torch: Any = sys.modules.get("torch")  # a network without torch uses none
        num_gpus = 0 if torch is None else int(torch.cuda.device_count())
        made_by = network.facts, network.versions
        ready = WorkerReady(*made_by, network.batch_size, network.colors, num_gpus)
    except Exception as error:
        control.send(in_one_line(spec, error))
        return
    control.send(ready)
    _serve(spec, network, listener, most=None if ready.is_shared else 1)


def in_one_line(spec: DetectorSpec, error: Exception) -> WtoursError:
    """Return the error if it is ours, else one that names the detector and says what happened."""
    if isinstance(error, WtoursError):
        return error
    return AnalysisError(f"detector {spec} failed: {type(error).__name__}: {first_line(error)}")


def _serve(
    spec: DetectorSpec, network: Network, listener: socket.socket, *, most: int | None
) -> None:
    """Answer at most so many connections at a time; more wait for their turn."""
    listener.setblocking(False)
    connections: list[Connection] = []
    while True:
        takes_more = most is None or len(connections) < most
        for ready in wait([*connections, *([listener] if takes_more else [])]):
            if not isinstance(ready, Connection):
                # Of several GPUs' processes the one with the fewest connections is the quickest.
                time.sleep(_ACCEPT_SECONDS * len(connections))
                with contextlib.suppress(BlockingIOError):  # another process was quicker
                    connections.append(Connection(listener.accept()[0].detach()))
                continue
            try:
                ready.send(_detect(spec, network, ready.recv()))
            except (EOFError, OSError):  # done, or gone
                connections.remove(ready)
                ready.close()


def _detect(spec: DetectorSpec, network: Network, images: Sequence[NDArray[np.uint8]]) -> Answer:
    try:
        return network.detect(images)
    except Exception as error:
        return in_one_line(spec, error)
