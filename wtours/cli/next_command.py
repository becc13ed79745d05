"""What comes next: each stage of the pipeline ends with a command to copy."""

import contextlib
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from wtours.cli import console
from wtours.cli.options import ROOT, at_root
from wtours.cli.sets.places import shard_set

_UNSAID = "WTOURS_NEXT_UNSAID"
"""The environment variable that is set where one command runs others in turn."""


def note_next(
    *words: str,
    manifest: Path | None = None,
    videos: Sequence[str] | None = None,
    root: Path = ROOT,
) -> None:
    """Say the command that comes next, with the options of the one that ends: it can be pasted."""
    of_manifest = () if manifest is None else ("--manifest", str(manifest))
    of_videos = (word for video in videos or () for word in ("--video", video))
    if is_said():
        command = shlex.join(("wtours", *words, *of_manifest, *of_videos, *at_root(root)))
        console.note(f"next: {command}")


def note_pretrain(shards: str, root: Path) -> None:
    """Say how the shard set that was made is trained on: a run stays on a disk, also of a store."""
    place = shard_set(shards, root)
    if isinstance(place, str):
        note_next("pretrain", place)
    else:
        note_next("pretrain", shards, root=root)


def is_said() -> bool:
    """Return whether what comes next is said: not by a command that another one runs in turn."""
    return _UNSAID not in os.environ


@contextlib.contextmanager
def none_said() -> Iterator[None]:
    """Say nothing of it while one command runs others, here or in processes of their own."""
    os.environ[_UNSAID] = "1"
    try:
        yield
    finally:
        os.environ.pop(_UNSAID, None)
