"""The sources of a video in the order to try them, each with the fetcher for it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from wtours.acquire.chapters import LocalFetcher
from wtours.acquire.local_files import Fetcher, find_given_file, find_named_file, require_utf8_name
from wtours.acquire.options import FetchOptions
from wtours.acquire.rate_limit import HostLimits
from wtours.acquire.ytdlp.formats import SelectedFormat
from wtours.errors import DownloadError
from wtours.media.file_types import VIDEO_SUFFIXES
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.source_url import SourceUrl

OnSelected = Callable[[str, SelectedFormat], None]
"""Called as on_selected(video_id, choice) before the first byte of a video."""


@dataclass(kw_only=True, slots=True)
class Sources:
    """The fetchers of a run, which share one limit for each host."""

    entries: Sequence[VideoEntry]
    options: FetchOptions
    from_dir: Path | None = None
    """Files of the user's own: searched by name first, and then no network is used."""
    files_dir: Path | None = None
    """Where `file:` sources are, if not in `from_dir`: the manifest's own folder."""
    given: Sequence[Path] = ()
    """This one, whatever the sources; several: the chapters of one recording."""
    on_selected: OnSelected = lambda video_id, choice: None
    _hosts: HostLimits = field(init=False)
    _named_urls: tuple[str, ...] = field(init=False)
    """Of the whole manifest, whose hosts may be private (see `YtDlpFetcher`)."""

    def __post_init__(self) -> None:
        self._hosts = HostLimits(sleep_seconds=self.options.sleep_seconds)
        self._named_urls = tuple(SourceUrl(s).working for e in self.entries for s in e.sources)

    def of(self, entry: VideoEntry) -> Iterator[tuple[str, Fetcher]]:
        """Yield each source with its fetcher, in order.

        Raises:
            DownloadError: there is none.
        """
        given = self.given
        if not given and self.from_dir is not None:
            found = find_given_file(entry, self.from_dir)
            given = () if found is None else (found,)
        if given:
            for path in given:
                require_utf8_name(path)
            find = [path.resolve for path in given]
            yield f"file:{given[0].name}", LocalFetcher(find, entry.stream)
            return
        local_only = self.from_dir is not None
        sources = [s for s in entry.sources if not local_only or s.startswith("file:")]
        if not sources:
            raise DownloadError(
                f"no file for it in {self.from_dir}; name it {entry.id}.mp4 (or "
                f"{', '.join(suffix for suffix in VIDEO_SUFFIXES if suffix != '.mp4')})"
            )
        folder = self.from_dir or self.files_dir
        for source in sources:
            if source.startswith("file:"):
                names = (source, *entry.chapters)
                find = [partial(find_named_file, name, folder) for name in names]
                yield source, LocalFetcher(find, entry.stream)
            else:
                yield source, self._fetcher(entry)

    def _fetcher(self, entry: VideoEntry) -> Fetcher:
        # Late, so that local files need no yt-dlp.
        from wtours.acquire.ytdlp.fetcher import YtDlpFetcher

        on_selected = partial(self.on_selected, entry.id)
        return YtDlpFetcher(self.options, self._hosts, self._named_urls, on_selected)
