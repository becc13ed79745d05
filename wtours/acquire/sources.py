"""The sources of a video in the order to try them, each with the fetcher for it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wtours.acquire.chapters import JoinedFiles
from wtours.acquire.local_files import (
    Fetcher,
    FileFetcher,
    GivenFile,
    find_given_file,
    require_utf8_name,
)
from wtours.acquire.options import FetchOptions
from wtours.acquire.rate_limit import HostLimits
from wtours.acquire.ytdlp.formats import SelectedFormat
from wtours.errors import DownloadError
from wtours.media.file_types import VIDEO_SUFFIXES
from wtours.workspace.manifest import VideoEntry


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Where files of the user's own are."""

    from_dir: Path | None = None
    """Searched by name first, and then no network is used."""
    files_dir: Path | None = None
    """Where `file:` sources are, if not in `from_dir`: the manifest's own folder."""
    given: tuple[Path, ...] = ()
    """This one, whatever the sources; several: the chapters of one recording."""


class Sources:
    """Makes the fetchers of a run, which share one limit for each host."""

    def __init__(
        self,
        files: LocalFiles,
        options: FetchOptions,
        on_selected: Callable[[str, SelectedFormat], None] = lambda video_id, choice: None,
        *,
        named_urls: tuple[str, ...] = (),
    ) -> None:
        """Take the files, the options, and all URLs of the manifest (see `YtDlpFetcher`)."""
        self._named_urls = named_urls
        self._files = files
        self._options = options
        self._on_selected = on_selected
        self._hosts = HostLimits(sleep_seconds=options.sleep_seconds)

    def of(self, entry: VideoEntry) -> Iterator[tuple[str, Fetcher]]:
        """Yield each source with its fetcher, in order.

        Raises:
            DownloadError: there is none.
        """
        files = self._files
        given = files.given
        if not given and files.from_dir is not None:
            found = find_given_file(entry, files.from_dir)
            given = () if found is None else (found,)
        if given:
            for path in given:
                require_utf8_name(path)
            joined = JoinedFiles([path.resolve for path in given], entry.stream)
            yield f"file:{given[0].name}", GivenFile(given[0]) if len(given) == 1 else joined
            return
        local_only = files.from_dir is not None
        sources = [s for s in entry.sources if not local_only or s.startswith("file:")]
        if not sources:
            raise DownloadError(
                f"no file for it in {files.from_dir}; name it {entry.id}.mp4 (or "
                f"{', '.join(suffix for suffix in VIDEO_SUFFIXES if suffix != '.mp4')})"
            )
        for source in sources:
            if source.startswith("file:"):
                copy = FileFetcher(files.from_dir or files.files_dir)
                names = (source, *entry.chapters)
                joined = JoinedFiles([partial(copy.resolve, name) for name in names], entry.stream)
                yield source, joined if entry.chapters else copy
            else:
                yield source, self._fetcher(entry)

    def _fetcher(self, entry: VideoEntry) -> Fetcher:
        # Late, so that local files need no yt-dlp.
        from wtours.acquire.ytdlp.fetcher import YtDlpFetcher

        on_selected = partial(self._on_selected, entry.id)
        return YtDlpFetcher(self._options, self._hosts, self._named_urls, on_selected)
