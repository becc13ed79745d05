"""Whether every node of a Ray cluster can work: versions, the workspace, scratch space."""

import importlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wtours.diagnostics.doctor import Check
from wtours.errors import StorageError
from wtours.execution.node_copy import NodeCheck
from wtours.execution.ray import RayExecutor
from wtours.storage.os_errors import explain_os_errors
from wtours.storage.receipts import versions_of
from wtours.storage.scratch import scratch_folder
from wtours.text import counted
from wtours.workspace.layout import Layout

SCRATCH_BYTES = 10 * 10**9
"""Free space of a node's own disk below which Ray's logs and temporary files may fill it."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a node says of itself."""

    versions: dict[str, str]
    problem: str | None
    """Why it must not work: other versions, or it does not see the workspace, or cannot write."""
    scratch: str
    scratch_free: int


def node_facts(check: NodeCheck, scratch: Path | None) -> NodeFacts:
    """Return what this machine has; runs on each node."""
    own = Path(tempfile.gettempdir()) if check.url is None else scratch_folder()
    folder = scratch or own
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return NodeFacts(
        versions=versions_of("av", "simplejpeg"),
        problem=check.problem() or _not_writable(check),
        scratch=str(folder),
        scratch_free=shutil.disk_usage(existing).free,
    )


def _not_writable(check: NodeCheck) -> str | None:
    if check.marker is None or check.url is not None:  # of a store the check has tried it
        return None
    probe = check.marker.with_name(f"{check.marker.name}-{socket.gethostname()}-{os.getpid()}")
    try:
        with explain_os_errors(probe):
            probe.write_bytes(b"\0")
            probe.unlink()
    except StorageError as error:
        return str(error)
    return None


def diagnose_cluster(
    layout: Layout, address: str | None = None, *, scratch: Path | None = None
) -> Iterator[Check]:
    """Yield the checks of each node, and what the cluster has in all.

    Args:
        layout: The workspace, by an absolute path.
        address: Of the cluster; None: this machine alone.
        scratch: A folder of each node's own disk; None: its temporary folder, or the one for copies
            of what lies on an object store.

    Raises:
        WtoursError: there is no cluster at the address, or the workspace cannot be written here.
    """
    with RayExecutor(address, shared=layout.root) as executor:
        found = executor.on_each_node(node_facts, scratch)
        resources = importlib.import_module("ray").cluster_resources()
    for node, facts in found.items():
        if isinstance(facts, str):
            yield Check(node, "problem", facts, "restart Ray on it")
            continue
        if facts.problem is not None:
            yield Check(node, "problem", facts.problem)
        else:
            versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
            yield Check(node, "ok", f"{versions}; sees the root, and writes")
        name = f"{node}: scratch"
        free = f"{facts.scratch_free / 1e9:.0f} GB free in {facts.scratch}"
        if facts.scratch_free < SCRATCH_BYTES:
            remedy = f"Ray's logs and copies of videos need room: free {SCRATCH_BYTES / 1e9:.0f} GB"
            yield Check(name, "warning", free, remedy)
        else:
            yield Check(name, "ok", free)
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    memory = resources.get("memory", 0) / 2**30
    amounts = (counted(len(found), "node"), counted(int(cpus), "CPU"), counted(int(gpus), "GPU"))
    total = f"{', '.join(amounts)}, {memory:.0f} GiB of memory"
    yield Check("cluster", "ok", total)
