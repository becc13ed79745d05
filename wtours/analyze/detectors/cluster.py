"""Networks on the nodes of a Ray cluster: an actor for each GPU; decoding tasks reach it locally.

Pixels never leave a node: an actor serves a Unix socket of its node, and the tasks that need
detections run where there is one. So a network uses all GPUs of the cluster, and a frame is decoded
once for everything. Without any GPU each node has one actor, with a network for each of its CPUs.
"""

import importlib
import random
import secrets
import socket
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wtours.analyze.detectors.server import DetectorService, Endpoint, NetworkClient
from wtours.analyze.detectors.spec import DetectorSpec
from wtours.analyze.detectors.worker import WorkerReady
from wtours.errors import AnalysisError
from wtours.execution.executor import Executor
from wtours.execution.ray import RayExecutor, on_node, result_of

_WATCH_SECONDS = 5.0
"""How often an actor looks whether the processes of its network live; those that died it starts."""


def detector_service(spec: DetectorSpec, executor: Executor) -> DetectorService:
    """Return what starts a network where the tasks of the executor run."""
    if isinstance(executor, RayExecutor) and spec.is_network:
        return ClusterDetectors(spec, executor)
    return DetectorService(spec, executor.num_workers)


@dataclass(frozen=True, slots=True)
class NodeEndpoint(Endpoint):
    """The networks of the node that it is connected on; their sockets match the address."""

    def connect(self) -> NetworkClient:
        """Return a client of one of them.

        Raises:
            AnalysisError: the node has none, or its process has died.
        """
        sockets = list(Path(tempfile.gettempdir()).glob(str(self.address)))
        if not sockets:
            raise AnalysisError(
                f"detector {self.spec}: node {socket.gethostname()} has none; run the same command "
                f"again"
            )
        # Only the load depends on which.
        return NetworkClient(replace(self, address=random.choice(sockets)))


class DetectorActor:
    """One GPU's network, on its node; made into an actor by Ray.

    Args:
        spec: The network.
        jobs: How many tasks connect at a time.
        token: Of the run: the names of its folders begin with it.
        number: Of the actor.
    """

    def __init__(self, spec: DetectorSpec, jobs: int, token: str, number: int) -> None:
        folder = Path(tempfile.gettempdir()) / f"{token}{number}"
        self._service = DetectorService(spec, jobs, folder=folder)
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def ready(self) -> WorkerReady:
        """Return what the network is, once it serves.

        Raises:
            AnalysisError: it cannot be loaded.
        """
        with self._lock:
            ready = self._service.ready()
        threading.Thread(target=self._watch, daemon=True).start()
        return ready

    def stop(self) -> None:
        """End its processes."""
        self._ended.set()
        with self._lock:
            self._service.__exit__()

    def _watch(self) -> None:
        while not self._ended.wait(_WATCH_SECONDS):
            with self._lock:
                if not self._ended.is_set():
                    self._service.ready()


class ClusterDetectors(DetectorService):
    """The actors of one network, started when first asked for; use it as a context manager."""

    def __init__(self, spec: DetectorSpec, executor: RayExecutor) -> None:
        super().__init__(spec, jobs=0)  # each actor has a service for the tasks of its node
        self._executor = executor
        self._token = f"wtours-{secrets.token_hex(4)}-"
        self._actors: list[Any] = []

    def _stop(self) -> None:
        self._executor.run_on(None)
        ray: Any = importlib.import_module("ray")
        stopping = [actor.stop.remote() for actor in self._actors]
        ray.wait(stopping, num_returns=len(stopping), timeout=10) if stopping else None
        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()

    def endpoint(self) -> NodeEndpoint:
        """Return where decoding tasks connect to; only after `ready`."""
        assert isinstance(self._ready, WorkerReady)
        sockets = Path(f"{self._token}*/detector")
        return NodeEndpoint(self._spec, sockets, self._ready.batch_size, self._ready.colors)

    def _start(self) -> WorkerReady:
        ray: Any = importlib.import_module("ray")
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        with_gpus = [node for node in nodes if node["Resources"].get("GPU")]
        remote = ray.remote(DetectorActor)
        for node in with_gpus or nodes:
            num_gpus = int(node["Resources"].get("GPU", 0))
            jobs = -(-int(node["Resources"]["CPU"]) // max(1, num_gpus))
            for _ in range(max(1, num_gpus)):
                options = remote.options(
                    num_cpus=0,
                    num_gpus=1 if num_gpus else 0,
                    max_restarts=-1,
                    max_task_retries=3,
                    **on_node(node["NodeID"]),
                )
                number = len(self._actors)
                self._actors.append(options.remote(self._spec, jobs, self._token, number))
        answers = [result_of(ray, actor.ready.remote()) for actor in self._actors]
        if any(answer != answers[0] for answer in answers):
            raise AnalysisError(
                f"detector {self._spec} is not the same on every node: give them the same weights "
                f"and packages"
            )
        self._executor.run_on([node["NodeID"] for node in with_gpus or nodes])
        ready: WorkerReady = answers[0]
        return ready
