"""What `--gpu-memory` says, read before torch is imported."""

import re
from collections.abc import Set
from dataclasses import dataclass

from wtours.errors import UsageError

_UNITS = {"": 1e9, "M": 1e6, "G": 1e9, "T": 1e12, "MI": 2.0**20, "GI": 2.0**30, "TI": 2.0**40}


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
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*([MGT]?I?)B?", text.strip().upper())
    size = float(found[1]) * _UNITS.get(found[2], 0) if found else 0
    if size < 1e9:
        raise UsageError(f"--gpu-memory {text!r}: write for example 24GB")
    return size
