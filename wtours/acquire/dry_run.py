"""What a download would do: from where, how large, how long, and what is there already."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from wtours.acquire.chapters import LocalFetcher
from wtours.acquire.download import is_downloaded
from wtours.acquire.sources import Sources
from wtours.acquire.ytdlp.formats import estimate_bytes
from wtours.errors import DownloadError, MissingPackageError, UsageError, VideoError
from wtours.text import plain
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.videos import download_receipt, video_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """One row of `wtours download --dry-run`; what is not known is None."""

    id: str
    action: Literal["there", "fetch", "fail"]
    source: str | None = None
    what: str | None = None
    """The format chosen, or why it cannot be fetched."""
    bytes: int | None = None
    is_estimate: bool = False
    duration_seconds: float | None = None


def plan_downloads(layout: Layout, sources: Sources) -> Iterator[Planned]:
    """Yield a row for each entry; asks the sources, and fetches and writes nothing."""
    for entry in sources.entries:
        try:
            if is_downloaded(entry, layout):
                yield _there(entry, layout)
            else:
                yield _first_choice(entry, layout, sources)
        except (MissingPackageError, UsageError):
            raise
        except Exception as error:  # whatever is wrong with one video, the others are shown
            logger.info("%s: unexpected", entry.id, exc_info=error)
            yield Planned(id=entry.id, action="fail", what=plain(error)[:300])


def _there(entry: VideoEntry, layout: Layout) -> Planned:
    receipt = download_receipt(layout, entry.id)
    assert receipt is not None  # `is_downloaded` has seen it
    return Planned(
        id=entry.id,
        action="there",
        source=receipt.facts["source"],
        what="{width}x{height} {codec}".format(**receipt.facts),
        bytes=video_file(receipt).bytes,
        duration_seconds=receipt.facts["duration_us"] / 1_000_000,
    )


def _first_choice(entry: VideoEntry, layout: Layout, sources: Sources) -> Planned:
    problems = []
    try:
        for source, fetch in sources.of(entry):
            try:
                return _choice(entry, source, fetch, layout, sources.options.max_height)
            except (DownloadError, VideoError) as error:
                problems.append(str(error))
    except DownloadError as error:  # there is no source
        problems.append(str(error))
    return Planned(id=entry.id, action="fail", what="; ".join(problems))


def _choice(entry: VideoEntry, source: str, fetch: Any, layout: Layout, max_height: int) -> Planned:
    if isinstance(fetch, LocalFetcher):
        paths = fetch.paths()
        what = "a copy" if len(paths) == 1 else f"{len(paths)} chapters joined"
        num_bytes = sum(path.stat().st_size for path in paths)
        return Planned(id=entry.id, action="fetch", source=source, what=what, bytes=num_bytes)
    choice = fetch.choose(source, layout.videos_dir)
    seconds = choice.duration_seconds or entry.duration_seconds
    num_bytes, is_estimate = choice.bytes, choice.is_estimate
    if num_bytes is None and seconds is not None:
        num_bytes, is_estimate = estimate_bytes(seconds, max_height), True
    return Planned(
        id=entry.id,
        action="fetch",
        source=source,
        what=choice.describe(),
        bytes=num_bytes,
        is_estimate=is_estimate,
        duration_seconds=seconds,
    )
