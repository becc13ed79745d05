"""Running tasks on a Ray cluster: Ray Core tasks, each a lease of a few of ours.

Only tasks and digests travel, nothing goes through Ray's object store: workers read videos from the
disk that all nodes share and publish there; with a root on an object store, each in a copy of its
own (`node_copy.py`). A task that fails with its node or its process is run again by Ray, three
times; then, when all others are done, once alone (`ProcessExecutor`).
"""

import contextlib
import importlib
import itertools
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

from wtours.errors import MissingPackageError, TransientError, WorkerDiedError, WtoursError
from wtours.execution.executor import Result, Task
from wtours.execution.leases import leases
from wtours.execution.node_copy import NodeCheck
from wtours.execution.processes import ProcessExecutor
from wtours.execution.relative_paths import dumps, loads
from wtours.storage.atomic import remove, write_bytes
from wtours.storage.scratch import Seen
from wtours.storage.working_copy import working_copy_of

logger = logging.getLogger(__name__)

TASK_BYTES = 400 * 2**20
"""What a decoding process needs (4K): Ray places no more of them on a node than fit."""
MAX_RETRIES = 3
_IN_FLIGHT = 2
"""Leases for each CPU: one that runs, one that waits for it."""
_OBJECT_STORE_BYTES = 80 * 2**20
_STOP_SECONDS = 30
_CONNECT_SECONDS = 10
_ANSWER_SECONDS = 120
"""Within which a node that is asked starts a worker and answers."""


def run_lease(check: NodeCheck, lease: bytes) -> tuple[list[Any], dict[str, Seen]]:
    """Run the tasks of a lease, one after the other, in a worker of a node that agrees.

    Args:
        check: What the node must agree on.
        lease: The function and its tasks, by `relative_paths`.

    Returns:
        The results, and what was published on a store that the driver has not seen.
    """
    check.require()
    copy = check.node_copy()
    function, tasks = loads(lease, check.root if copy is None else copy.root)
    results = [function(task) for task in tasks]
    return results, {} if copy is None else copy.take_published()


def run_alone(check: NodeCheck, lease: bytes) -> tuple[list[Any], dict[str, Seen]]:
    """Run a lease in a child process: its end tells why it ended."""
    check.require()
    with ProcessExecutor(1) as executor:
        ((_, result),) = executor.map(partial(run_lease, check), [lease])
    return result


class DiedError(WtoursError):
    """The process of a task died, at each of Ray's attempts; the message says of what."""


class RayExecutor:
    """Runs tasks on a Ray cluster; connected while its `with` block runs.

    Args:
        address: Of the cluster, as for `ray.init`; None: one of this machine alone.
        jobs: CPUs of that one.
        shared: The workspace, an absolute path that every node sees.
        say: Told in one line what is being waited for.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        jobs: int | None = None,
        shared: Path | None = None,
        say: Callable[[str], None] = logger.warning,
    ) -> None:
        self._address, self._jobs, self._shared, self._say = address, jobs, shared, say
        self._stack = contextlib.ExitStack()
        self._check = NodeCheck((), None)
        self._counted: tuple[float, int] | None = None
        self._nodes: list[str] | None = None

    def __enter__(self) -> Self:
        ray = _ray()
        if not ray.is_initialized():
            _connect(ray, self._address, self._jobs)
            self._stack.callback(ray.shutdown)
        marker = None
        if self._shared is not None:
            marker = self._shared.absolute() / "locks" / f"cluster-{secrets.token_hex(8)}"
            write_bytes(marker, b"")
            self._stack.callback(remove, marker)
        self._check = NodeCheck.here(marker)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def num_workers(self) -> int:
        """How many tasks run at a time: the CPUs that the cluster has now."""
        if self._counted is None or time.monotonic() - self._counted[0] > 5:
            cpus = _ray().cluster_resources().get("CPU", 1)
            self._counted = time.monotonic(), max(1, int(cpus))
        return self._counted[1]

    def on_each_node(
        self, function: Callable[..., Result], *arguments: object
    ) -> dict[str, Result | str]:
        """Return function(check, *arguments) of each node, by its name; a line where it failed."""
        ray = _ray()
        remote, asked = ray.remote(function), {}
        for node in ray.nodes():
            if node["Alive"]:
                of_node = remote.options(num_cpus=0, max_retries=0, **on_node(node["NodeID"]))
                name = f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})"
                asked[name] = of_node.remote(self._check, *arguments)
        found: dict[str, Result | str] = {}
        for name, reference in asked.items():
            try:
                found[name] = ray.get(reference, timeout=_ANSWER_SECONDS)
            except Exception as error:  # one node of many
                found[name] = " ".join(str(error).split())[-200:]
        return found

    def run_on(self, nodes: list[str] | None) -> None:
        """Run tasks on these nodes only, by Ray's ids of them; None: on all."""
        self._nodes = nodes

    def map(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Generator[tuple[Task, Result], None, None]:
        """Yield (task, function(task)) as tasks finish; see `Executor`."""
        ray = _ray()
        remote = ray.remote(run_lease)
        options = {
            "num_cpus": 1,
            "memory": TASK_BYTES,
            "max_retries": MAX_RETRIES,
            "retry_exceptions": [TransientError],
        }
        waiting, turn = leases(tasks, self.num_workers), itertools.count()
        running: dict[Any, list[Task]] = {}
        suspects: list[Task] = []
        try:
            while True:
                room = _IN_FLIGHT * self.num_workers - len(running)
                for lease in itertools.islice(waiting, max(0, room)):
                    placed = remote.options(**options, **self._placement(next(turn)))
                    sent = dumps((function, lease), self._check.root)
                    running[placed.remote(self._check, sent)] = lease
                if not running:
                    break
                ray.wait([*running], num_returns=1)
                finished, _ = ray.wait([*running], num_returns=len(running), timeout=0)
                for reference in finished:
                    lease = running.pop(reference)
                    try:
                        results, published = result_of(ray, reference)
                    except DiedError as error:
                        logger.info("%d tasks died: %s", len(lease), error)
                        suspects += lease
                    else:
                        self._receive(published)
                        yield from zip(lease, results, strict=True)
        except Exception:
            ray.wait([*running], num_returns=max(1, len(running)))  # none of them still writes
            raise
        except BaseException:
            self._stop(ray, running)
            raise
        yield from self._run_suspects(ray, function, suspects)

    def _receive(self, published: Mapping[str, Seen]) -> None:
        """Bring here what a node with a copy of its own has published."""
        if published and self._check.marker is not None:
            copy = working_copy_of(self._check.marker)
            assert copy is not None
            copy.receive(published)

    def _placement(self, turn: int) -> dict[str, Any]:
        """Return Ray's options that name the node whose turn it is, if nodes were named."""
        if self._nodes is None:
            return {}
        alive = {node["NodeID"] for node in _ray().nodes() if node["Alive"]}
        nodes = [node for node in self._nodes if node in alive]
        if not nodes:
            raise WtoursError("every node with a detector is lost; run the same command again")
        return on_node(nodes[turn % len(nodes)])

    def _run_suspects(
        self, ray: Any, function: Callable[[Task], Result], suspects: list[Task]
    ) -> Iterator[tuple[Task, Result]]:
        """Run alone, one after the other, what may have crashed its process.

        Raises:
            WorkerDiedError: at some the process died again.
        """
        remote = ray.remote(run_alone)
        died: list[tuple[Task, str]] = []
        for task in suspects:
            try:
                placed = remote.options(num_cpus=1, max_retries=0, **self._placement(0))
                sent = dumps((function, [task]), self._check.root)
                (result,), published = result_of(ray, placed.remote(self._check, sent))
            except WorkerDiedError as error:
                died.append((task, error.causes[0]))
            except DiedError as error:
                died.append((task, str(error)))
            else:
                self._receive(published)
                yield task, result
        if died:
            raise WorkerDiedError(*zip(*died, strict=True))

    def _stop(self, ray: Any, running: dict[Any, list[Task]]) -> None:
        """Interrupt the running tasks, whose temporary files are then removed; drop the others."""
        if not running:
            return
        self._say(f"stopping: waiting up to {_STOP_SECONDS} s for workers; finished parts are kept")
        for reference in running:
            ray.cancel(reference, force=False)
        ray.wait([*running], num_returns=len(running), timeout=_STOP_SECONDS)


def on_node(node: str) -> dict[str, Any]:
    """Return Ray's options that place a task or an actor on a node, by Ray's id of it."""
    affinity: Any = importlib.import_module("ray.util.scheduling_strategies")
    return {"scheduling_strategy": affinity.NodeAffinitySchedulingStrategy(node, soft=False)}


def result_of(ray: Any, reference: Any) -> Any:
    """Return what a task of Ray returned, or raise what it raised.

    Raises:
        DiedError: its process or its node died.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.OutOfMemoryError as error:
        raise DiedError("ended by Ray since the node's memory was full") from error
    except (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.TaskUnschedulableError,  # the node whose turn it was is lost
        ray.exceptions.ActorDiedError,
    ) as error:
        raise DiedError("") from error
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from None
        raise


def _ray() -> Any:
    """Import Ray; MissingPackageError: it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise MissingPackageError("ray", "ray", "--executor ray") from error
    return ray


def _connect(ray: Any, address: str | None, jobs: int | None) -> None:
    """Connect to a cluster, or start one of this machine; WtoursError: none at the address."""
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # it would build an environment
    # A task that eats the memory is ended again and again by default, for ever.
    os.environ.setdefault("RAY_task_oom_retries", str(MAX_RETRIES))
    common = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        ray.init(
            address="local",
            num_cpus=jobs,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            **common,
        )
        return
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself goes on trying for minutes
            socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
        ray.init(address=address, **common)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise WtoursError(
            f"no Ray cluster at {address} ({reason}); start one (ray start --head), leave out "
            f"--address or, if it was started with a token, export RAY_AUTH_MODE=token"
        ) from error
