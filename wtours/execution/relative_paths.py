"""Pickling with paths below a root as relative ones, for a process that has the root elsewhere."""

import importlib
import io
import os
import pickle
from pathlib import Path
from typing import Any


def dumps(value: Any, root: Path | None) -> bytes:
    """Return a pickle of functions and tasks, by Ray's pickler; `loads` reads it.

    Args:
        value: What is sent.
        root: Absolute; a path or text that begins with it is sent without it. None: none is.
    """
    cloudpickle: Any = importlib.import_module("ray.cloudpickle")
    file, prefix = io.BytesIO(), f"{root}{os.sep}"

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def persistent_id(self, found: Any) -> tuple[bool, str] | None:
            is_path = isinstance(found, Path)
            if root is None or not (is_path or type(found) is str):
                return None
            text = str(found)
            return (is_path, text[len(prefix) :]) if text.startswith(prefix) else None

    Pickler(file).dump(value)
    return file.getvalue()


def loads(data: bytes, root: Path | None) -> Any:
    """Return what was sent, with the paths below the root of this process."""
    return _Unpickler(io.BytesIO(data), root).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, root: Path | None) -> None:
        super().__init__(file)
        self._root = root

    def persistent_load(self, sent: tuple[bool, str]) -> Path | str:
        is_path, relative = sent
        assert self._root is not None
        return self._root / relative if is_path else str(self._root / relative)
