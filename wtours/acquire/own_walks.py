"""What `wtours add` is given, as walks: files, folders and URLs, with ids made of their names."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from wtours.acquire.chapters import group_chapters
from wtours.acquire.local_files import require_utf8_name, youtube_ids
from wtours.errors import UsageError
from wtours.media.file_types import VIDEO_SUFFIXES, name_problem, videos_in
from wtours.workspace.layout import Layout
from wtours.workspace.source_url import SourceUrl, checked_source

_LONGEST_ID = 64


@dataclass(frozen=True, slots=True)
class OwnWalk:
    """What becomes one video: a URL, a file, or the chapters of one recording."""

    source: str
    """The URL, or the first file as it was given."""
    files: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """Return how the source is called, without folders: it shows no secret."""
        if self.files:
            return self.files[0].name
        return SourceUrl(self.source)

    @property
    def id(self) -> str:
        """Return an id made of the name; other walks may have it, too."""
        if self.files:
            stem = self.files[0].stem
        else:
            of_youtube = youtube_ids([self.source])
            path = unquote(urlsplit(self.source).path)
            stem = f"youtube_{of_youtube[0]}" if of_youtube else PurePosixPath(path).stem
        # casefold: ß is ss
        plain = unicodedata.normalize("NFKD", stem.casefold()).encode("ascii", "ignore").decode()
        return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:_LONGEST_ID].strip("_") or "walk"


def own_walks(sources: Sequence[str], layout: Layout, *, join: bool = False) -> list[OwnWalk]:
    """Return the walks that files, folders and URLs hold, each once, in the order given.

    A folder gives its videos, those of its folders too, without what lies under the root. Files
    that a GoPro has cut one recording into are one walk; with `join` all files are.

    Raises:
        UsageError: a source is neither, cannot be taken, or holds no video.
    """
    urls: list[OwnWalk] = []
    files: dict[Path, str] = {}
    for source in sources:
        if source.startswith(("http://", "https://")):
            try:
                checked_source(source)
            except ValueError as error:
                raise UsageError(str(error)) from error
            urls.append(OwnWalk(source))
            continue
        for path in _files_of(source, layout):
            files.setdefault(path.resolve(), str(path))
    if join:
        if urls or len(files) < 2:
            raise UsageError("--join takes two or more files of one recording, in order")
        return [OwnWalk(str(sources[0]), tuple(files))]
    groups = group_chapters(files)
    return [*(OwnWalk(files[paths[0]], paths) for paths in groups), *dict.fromkeys(urls)]


def _files_of(source: str, layout: Layout) -> list[Path]:
    path = Path(source).expanduser()
    if path.is_dir():
        found = videos_in(path, except_in=layout.root.resolve())
        if not found:
            names = ", *".join(VIDEO_SUFFIXES)
            raise UsageError(f"{source} has no video; files named *{names} are")
        return found
    if not path.is_file():
        raise UsageError(f"{source} is no file or folder, and no http or https URL; check the path")
    require_utf8_name(path)
    if (problem := name_problem(path)) is not None:
        raise UsageError(problem)
    return [path]
