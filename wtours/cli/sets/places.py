"""Where a command works: on a disk, or on an object store and this machine's copy of it."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Annotated

from wtours.cli.options import ExecutorKind, named_or_folder, set_argument
from wtours.errors import ConflictError
from wtours.storage.atomic import remove
from wtours.storage.locks import lock, shared_lock
from wtours.storage.remote_calls import shown
from wtours.storage.scratch import own_folder, scratch_folder
from wtours.storage.store import as_location
from wtours.storage.working_copy import WorkingCopy, folder_of_copy, open_copy, place_of
from wtours.workspace.layout import Layout, checked_name, loose_files

_FEW_FOLDERS = 100
_ATTEMPTS = 4

SetOrFolder = Annotated[str, set_argument("NAME|DIR|URL", "A shard set's name, folder or URL.")]
SetHere = Annotated[str, set_argument("NAME|DIR", "A shard set's name or folder.")]
SetName = Annotated[str, set_argument("NAME", "Name of the shard set.")]


def shard_set(text: str, root: Path) -> Path | str:
    """Return the folder or the URL of a shard set that is named under the root, or given."""
    location, under = as_location(text), as_location(root)
    if isinstance(location, str):
        return location
    if isinstance(under, Path):
        return named_or_folder(text, Layout(under).shards_dir)
    if location.is_dir() or "/" in text:
        return location
    return f"{under}/shards/{checked_name(text, 'shard set')}"


def place_text(path: Path) -> str:
    """Return where a published file is, as it is printed."""
    return str(place_of(path))


def needs_receipts(key: str) -> bool:
    """Return whether a stage needs an object here that reads how things stand, and no table."""
    return key.endswith(".json") and not ("/receipts/" in key or "/measurements/" in key)


def needs_every_receipt(key: str) -> bool:
    """Return whether an object speaks of others, of all stages."""
    return key.endswith(".json")


def needs_tables(key: str) -> bool:
    """Return whether a stage that makes or shows tables needs an object here."""
    if key.startswith("videos/"):
        return key.endswith((".json", ".md"))
    return not key.endswith((".tar", "/index.parquet"))


def needs_index(key: str) -> bool:
    """Return whether `shard` needs an object here: of an analysis, the columns of the index."""
    is_other_table = "/measurements/" in key and "/quality/" not in key
    is_other_table |= key.endswith("/detections.parquet")
    return needs_tables(key) and not (key.startswith("analysis/") and is_other_table)


def analyses(video_ids: Collection[str]) -> tuple[str, ...]:
    """Return the folders of some analyses; of many, the folder of all, which is one listing."""
    few = len(video_ids) <= _FEW_FOLDERS
    return tuple(f"analysis/{video_id}" for video_id in video_ids) if few else ("analysis",)


@contextlib.contextmanager
def workspace(
    root: Path,
    *folders: str,
    needs: Callable[[str], bool],
    executor: ExecutorKind = "processes",
    keeps_videos: bool = False,
    is_part: bool = False,
    rebuild: Callable[[Layout], object] | None = None,
) -> Iterator[Layout]:
    """Yield the workspace of a stage: the root on a disk, or a working copy of it on a store.

    Args:
        root: A folder or a URL.
        folders: What the stage reads and writes: "videos", "analysis", "shards/NAME", "reports".
        needs: Which objects it reads, by key, apart from videos and shards.
        executor: Where its tasks run.
        keeps_videos: It needs the videos at the same time.
        is_part: Other machines do other parts of it.
        rebuild: Writes what is made of all receipts (an index, an attribution) again, after another
            process was quicker with its own.

    Raises:
        StorageError: the store cannot be used, or not enough fits on the scratch disk.
        ConflictError: another process has published something else at the same time.
        WtoursError: another command of this machine works in the same copy.
    """
    location = as_location(root)
    if isinstance(location, Path):
        # Workers of Ray have another current folder.
        yield Layout(location.absolute() if executor == "ray" else location)
        return
    # A command removes from the copy what it does not need itself; parts of one job need the same.
    hold = shared_lock if is_part else lock
    what = (
        f"the copy of {shown(location)} in {scratch_folder()} (a command beside another one needs "
        f"its own: --scratch DIR)"
    )
    held = hold(folder_of_copy(location) / "locks" / "copy.lock", what=what)
    with held if folders else contextlib.nullcontext():
        copy = WorkingCopy.checkout(location, folders, needs, shares_segments=is_part)
        copy.keeps_videos = keeps_videos
        layout = Layout(copy.root)
        yield layout
        # The tables of an analysis have a receipt; without it they are no one's.
        loose = [folder for folder in folders if not folder.startswith("analysis")]
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                copy.push(loose_files(copy.root, loose, last="dataset.json"))
            except ConflictError:
                if rebuild is None or attempt == _ATTEMPTS:
                    raise
                copy.pull(folders, needs)
                rebuild(layout)
            else:
                return


@contextlib.contextmanager
def reading_workspace(root: Path, *folders: str, needs: Callable[[str], bool]) -> Iterator[Layout]:
    """Yield the workspace of a command that only reads, beside any stage; see `workspace`.

    Raises:
        StorageError: the store cannot be read.
    """
    location = as_location(root)
    if isinstance(location, Path):
        yield Layout(location)
        return
    # A folder of its own, without a lock or the probe for writing: it may have no right to write.
    folder, alive = own_folder(scratch_folder() / "readers")
    with alive:
        try:
            copy = WorkingCopy(folder, location)
            open_copy(copy)
            copy.pull(folders, needs)
            yield Layout(folder)
        finally:
            remove(folder)


def shard_workspace(
    name: str,
    max_loss: float,
    root: Path,
    executor: ExecutorKind = "processes",
    *,
    needs: Callable[[str], bool] = needs_index,
    is_part: bool = False,
) -> contextlib.AbstractContextManager[Layout]:
    """Return the workspace of a stage that writes a shard set, as `workspace` yields it."""
    from wtours.sharding.build import finalize_shards
    from wtours.workspace.attribution import write_attribution

    def rebuild(layout: Layout) -> None:
        write_attribution(layout)
        finalize_shards(layout, name, max_loss=max_loss)

    return workspace(
        root,
        "videos",
        "analysis",  # of every video of the set, for the index
        f"shards/{checked_name(name, 'shard set')}",
        needs=needs,
        executor=executor,
        keeps_videos=True,
        is_part=is_part,
        rebuild=rebuild,
    )
