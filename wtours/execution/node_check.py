"""Whether a node of a cluster may work: it must make the same bytes, in the same place."""

import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

from wtours.errors import WtoursError
from wtours.storage.receipts import versions_of


@dataclass(frozen=True, slots=True)
class NodeCheck:
    """What a node must agree on before it works: else it would publish other bytes, or elsewhere.

    Attributes:
        versions: Of the packages that make the bytes.
        marker: A file in the workspace, written by the driver; None: nothing is shared.
    """

    versions: tuple[tuple[str, str], ...]
    marker: Path | None

    @classmethod
    def here(cls, marker: Path | None) -> Self:
        """Return what this process has."""
        return cls(tuple(versions_of("av", "simplejpeg").items()), marker)

    def require(self) -> None:
        """Refuse to work on a node that does not agree.

        Raises:
            WtoursError: it has another version, or does not see the workspace; names the node.
        """
        problem = _problem(self)
        if problem is not None:
            raise WtoursError(problem)

    def problem(self) -> str | None:
        """Return why this node must not work, in one line; None: it agrees."""
        own = dict(versions_of("av", "simplejpeg"))
        for package, version in self.versions:
            if own[package] != version:
                return (
                    f"node {socket.gethostname()} has {package} {own[package]}, and the driver "
                    f"{version}: the bytes would differ; install the same versions on every node"
                )
        if self.marker is not None and not self.marker.is_file():
            return (
                f"node {socket.gethostname()} does not see {self.marker.parent.parent}; give as "
                f"--root a folder of a disk that every node has at the same path"
            )
        return None


@lru_cache(maxsize=8)
def _problem(check: NodeCheck) -> str | None:
    return check.problem()
