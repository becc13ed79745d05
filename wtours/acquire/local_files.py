"""Fetchers bring one file from one source into a working folder; publishing is not their task.

What they share is here. `LocalFetcher` is in `wtours.acquire.chapters`; the one for YouTube and
other URLs, which needs yt-dlp, is in `wtours.acquire.ytdlp.fetcher`.
"""

import contextlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from wtours.errors import DownloadError, PermanentDownloadError
from wtours.media.file_types import is_video_name, name_problem
from wtours.storage.atomic import remove
from wtours.storage.hashing import digest
from wtours.storage.os_errors import explain_os_errors, other_place
from wtours.text import bytes_text, plain
from wtours.workspace.manifest import VideoEntry

PARTIAL_PREFIX = ".partial-"
"""Working folders start with it, and stay after a kill so that the next run resumes in them."""
_COPY_BYTES = 8 * 2**20
_YOUTUBE_ID = re.compile(r"(?:[?&]v=|youtu\.be/|/shorts/|/embed/)([\w-]{11})(?![\w-])")

FetchProgress = Callable[[float, float | None], None]
"""Called as progress(bytes_so_far, bytes_in_all or None)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A file that a fetcher has brought."""

    path: Path
    """In a working folder of its own, on the file system where it will be published."""
    info: dict[str, Any] = field(default_factory=dict)
    """What the source says of it, for info.json: no signed URLs, headers or cookies."""
    license_observed_at: str | None = None
    """When `info["license"]` was looked at (ISO 8601, UTC); None where nobody can tell."""
    length_stated: bool = True
    """Whether its source said how long it is, so that a cut would have been seen."""


class Fetcher(Protocol):
    """Brings a source's file; called again after a kill, it resumes where it stopped."""

    def __call__(self, source: str, folder: Path, on_progress: FetchProgress) -> Fetched:
        """Fetch `source` into a working folder inside `folder`, which exists.

        Raises:
            DownloadError: it cannot be had now.
            PermanentDownloadError: it cannot be had, now or later.
            WtoursError: nothing can be fetched at all (disk full, a package is missing).
        """


def find_named_file(source: str, folder: Path | None) -> Path:
    """Return the real path of the file that `source` names in a folder, or of its last part there.

    A manifest names `footage/walk.mp4` beside it, and the footage may have moved since.

    Raises:
        PermanentDownloadError: it lies outside the folder, by its name or through a link.
        DownloadError: there is no such file, or no folder.
    """
    if folder is None:
        raise DownloadError(f"{source} needs a folder to look in: give --from-dir DIR")
    inside, name = folder.resolve(), PurePosixPath(source.removeprefix("file:"))
    paths = [(inside / part).resolve() for part in dict.fromkeys((str(name), name.name))]
    if not all(path.is_relative_to(inside) for path in paths):
        raise PermanentDownloadError(
            f"{source} leads outside {folder}; use a name inside that folder"
        )
    for path in paths:
        if path.is_file():
            return path
    raise DownloadError(f"there is no file {paths[0]}; --from-dir DIR says where it is now")


def copy_file(path: Path, source: str, folder: Path, on_progress: FetchProgress) -> Fetched:
    """Copy a file of the user's into a working folder of `source`; see `Fetcher`."""
    work = working_folder(folder, source, {})
    copy = work / f"source{path.suffix.lower()}"
    with removed_on_error(work, f"copy {path}"):
        total, done = path.stat().st_size, 0
        require_room(f"file:{path.name}", work, total)
        with path.open("rb") as read, copy.open("wb") as write:
            while block := read.read(_COPY_BYTES):
                write.write(block)
                done += len(block)
                on_progress(done, total)
    return Fetched(path=copy)


def require_utf8_name(path: Path) -> None:
    """Raise PermanentDownloadError if a file's name is not text: no manifest could name it."""
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        raise PermanentDownloadError(
            f"the name of {plain(path)} is not UTF-8; rename the file"
        ) from error


def find_given_file(entry: VideoEntry, from_dir: Path) -> Path | None:
    """Return the video in `from_dir` named by the entry's id or YouTube id, or None.

    `venice.webm`, `fGX0Te6pFvk.mp4` and yt-dlp's own `Some title [fGX0Te6pFvk].mkv` are found.

    Raises:
        DownloadError: `from_dir` is no folder, several files fit, or the one that does cannot be
            taken.
    """
    if not from_dir.is_dir():
        raise DownloadError(f"--from-dir {from_dir} is not a folder")
    names = {entry.id, *youtube_ids(entry.sources)}
    named = [
        path
        for path in sorted(from_dir.iterdir())
        if path.stem in names or any(path.stem.endswith(f"[{name}]") for name in names)
    ]
    found = [path for path in named if is_video_name(path)]
    if not found:
        for problem in filter(None, map(name_problem, named)):
            raise DownloadError(problem)
    if len(found) > 1:
        listed = ", ".join(path.name for path in found)
        raise DownloadError(f"several files in {from_dir} fit ({listed}); keep one of them")
    return found[0] if found else None


def youtube_ids(sources: Iterable[str]) -> list[str]:
    """Return the YouTube ids in the URLs, in order."""
    return [match[1] for source in sources if (match := _YOUTUBE_ID.search(source))]


def working_folder(folder: Path, source: str, identity: dict[str, Any]) -> Path:
    """Return the folder to fetch `source` in, made if need be; it is kept between runs.

    `identity` says which version of the source it is (format, size, ETag, …). What an earlier run
    fetched of another version is removed: a file must never be half of one and half of another.
    """
    of_source = f"{PARTIAL_PREFIX}{digest(source)[:8]}-"
    work = folder / f"{of_source}{digest(identity)}"
    for stale in folder.glob(f"{of_source}*"):
        if stale != work:
            remove(stale)
    work.mkdir(exist_ok=True)
    return work


@contextlib.contextmanager
def removed_on_error(work: Path, what: str) -> Iterator[None]:
    """Remove a working folder if the block fails: of a copy no later run would go on with it.

    Raises:
        StorageError: the file system refuses it.
        DownloadError: it fails otherwise; says that one cannot do `what`.
    """
    try:
        with explain_os_errors(work):
            yield
    except OSError as error:
        remove(work)
        raise DownloadError(f"cannot {what} ({error.strerror})") from error
    except BaseException:
        remove(work)
        raise


def require_room(source: str, folder: Path, num_bytes: int) -> None:
    """Raise DownloadError if so many bytes have no room on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise DownloadError(
            f"{source}: it needs {bytes_text(num_bytes)}, and {folder} has {bytes_text(free)} "
            f"free; free some space or choose {other_place(folder)}, then run the same command "
            f"again"
        )
