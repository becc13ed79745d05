"""What `--gpu-memory` says, read before torch is imported."""

from collections.abc import Set
from dataclasses import dataclass

from wtours.errors import UsageError
from wtours.text import parse_bytes


@dataclass(frozen=True)
class GpuMemory:
    """The memory that a step of one process has to fit."""

    bytes: float
    fixed: Set[str] = frozenset()
    """Keys "section.field" that the user has chosen, which stay as they are."""


def parse_memory(text: str) -> float:
    """Return "24GB", "24" or "24GiB" as bytes.

    Raises:
        UsageError: it is no amount of memory, or less than 1 GB.
    """
    size = parse_bytes(text, bare="G")
    if size < 1e9:
        raise UsageError(f"--gpu-memory {text!r}: write for example 24GB")
    return size
