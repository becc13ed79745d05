"""Download: each video of a manifest from the first source that gives it whole, then a receipt.

What is fetched lies in a hidden working folder until it is proved to be the whole, right video;
only then does it get its final name, and last of all its receipt (`wtours.receipts`).
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from wtours.errors import DownloadError, PermanentDownloadError, VideoError
from wtours.fetchers import (
    PARTIAL_PREFIX,
    Fetched,
    Fetcher,
    FileFetcher,
    GivenFile,
    find_given_file,
)
from wtours.fsio import atomic_path, lock, remove, sha256_file, sweep, write_json
from wtours.layout import Layout
from wtours.manifest import VideoEntry
from wtours.progress import Progress, no_progress
from wtours.receipts import FileRecord, Receipt, record_file, versions_of, write_receipt
from wtours.videos import (
    INFO_NAME,
    VIDEO_SUFFIXES,
    VideoFacts,
    download_receipt,
    is_close_us,
    probe_video,
    video_file,
)

logger = logging.getLogger(__name__)

_US = 1_000_000
_SUFFIX_OF_CONTAINER = {"matroska": ".mkv", "mpegts": ".ts", "avi": ".avi"}


@dataclass(slots=True)
class DownloadReport:
    """How each video ended."""

    done: list[str] = field(default_factory=list)
    """Fetched by this run."""
    skipped: list[str] = field(default_factory=list)
    """There already."""
    failed: dict[str, str] = field(default_factory=dict)
    """The one-line reason by video id; these are tried again by the next run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Verified:
    """A fetched file that is proved to be the whole, right video."""

    fetched: Fetched
    source: str
    facts: VideoFacts
    sha256: str


def download_videos(
    entries: Sequence[VideoEntry],
    layout: Layout,
    *,
    from_dir: Path | None = None,
    files_dir: Path | None = None,
    on_progress: Progress = no_progress,
) -> DownloadReport:
    """Bring the videos under the root that are not there yet; one bad video does not stop the rest.

    Args:
        entries: What to download.
        layout: Where to.
        from_dir: Take the files in this folder, and use no network.
        files_dir: Where `file:` sources are, if not in `from_dir`: the manifest's own folder.
        on_progress: Called with the video id and the bytes so far and in all.

    Raises:
        WtoursError: nothing more can be done: another process downloads into this root, the disk is
            full, or yt-dlp is not installed.
    """
    report = DownloadReport()
    with lock(layout.lock("download"), what=f"the folder {layout.root / 'videos'}"):
        for entry in entries:
            if _is_done(entry, layout):
                report.skipped.append(entry.id)
                continue
            try:
                sources = _sources(entry, from_dir=from_dir, files_dir=files_dir)
                folder = _clean_folder(entry, layout)
                verified = _first_good(entry, sources, folder, on_progress)
            except (DownloadError, VideoError) as error:
                report.failed[entry.id] = _record_failure(entry, layout, error)
            else:
                _publish(entry, layout, verified)
                report.done.append(entry.id)
    return report


def _is_done(entry: VideoEntry, layout: Layout) -> bool:
    receipt = download_receipt(layout, entry.id)
    return receipt is not None and entry.sha256 in (None, video_file(receipt).sha256)


def _sources(
    entry: VideoEntry, *, from_dir: Path | None, files_dir: Path | None
) -> Iterator[tuple[str, Fetcher]]:
    """Yield each source with the fetcher for it, in the order to try them."""
    files = FileFetcher(from_dir or files_dir)
    if from_dir is not None:
        given = find_given_file(entry, from_dir)
        if given is not None:
            yield f"file:{given.name}", GivenFile(given)
            return
    sources = [s for s in entry.sources if from_dir is None or s.startswith("file:")]
    if not sources:
        raise DownloadError(
            f"no file for it in {from_dir}; name it {entry.id} with one of {VIDEO_SUFFIXES}"
        )
    for source in sources:
        if source.startswith("file:"):
            yield source, files
        else:
            # Late, so that local files need no yt-dlp.
            from wtours.ytdlp import YtDlpFetcher

            yield source, YtDlpFetcher()


def _clean_folder(entry: VideoEntry, layout: Layout) -> Path:
    folder = layout.video_dir(entry.id)
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    return folder


def _first_good(
    entry: VideoEntry,
    sources: Iterator[tuple[str, Fetcher]],
    folder: Path,
    on_progress: Progress,
) -> _Verified:
    errors: list[DownloadError | VideoError] = []
    for source, fetch in sources:
        try:
            fetched = fetch(source, folder, partial(on_progress, entry.id))
            return _verify(entry, source, fetched)
        except (DownloadError, VideoError) as error:
            logger.info("%s: %s: %s", entry.id, source, error)
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    message = "; ".join(f"source {n}: {error}" for n, error in enumerate(errors, start=1))
    if all(isinstance(error, PermanentDownloadError | VideoError) for error in errors):
        raise PermanentDownloadError(message)
    raise DownloadError(message)


def _verify(entry: VideoEntry, source: str, fetched: Fetched) -> _Verified:
    """Return the file's facts and sha256; a file that is not the right one is removed.

    Raises:
        VideoError: it is no video, is cut, or is not what the manifest expects.
    """
    try:
        facts = probe_video(fetched.path)
        _check_duration(entry, facts)
        sha256 = sha256_file(fetched.path)
        if entry.sha256 not in (None, sha256):
            raise VideoError(
                f"its sha256 is {sha256}, the manifest demands {entry.sha256}: another file, "
                f"or another quality, of the video"
            )
    except VideoError as error:
        problem = str(error).replace(str(fetched.path), "the file")
        if _is_web_page(fetched.path):
            problem = "the server sent a web page, not a video; check the URL"
        remove(fetched.path.parent)
        raise VideoError(f"{source}: {problem}") from error
    return _Verified(fetched=fetched, source=source, facts=facts, sha256=sha256)


def _check_duration(entry: VideoEntry, facts: VideoFacts) -> None:
    expected = entry.duration_seconds
    if expected is not None and not is_close_us(facts.duration_us, expected * _US, 2 * _US, 0.01):
        raise VideoError(
            f"it lasts {facts.duration_us / _US:.1f} s, the manifest expects {expected:.1f} s: "
            f"not the right video, or not all of it"
        )


def _is_web_page(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html"))


def _publish(entry: VideoEntry, layout: Layout, verified: _Verified) -> None:
    """Write info.json, give the file its final name, and write the receipt last."""
    folder, work = layout.video_dir(entry.id), verified.fetched.path
    final = folder / f"{entry.id}{_suffix(work, verified.facts)}"
    # An older receipt must not vouch for the new file if we die between the two.
    layout.video_receipt(entry.id).unlink(missing_ok=True)
    for old in folder.glob(f"{entry.id}.*"):
        remove(old)
    write_json(folder / INFO_NAME, verified.fetched.info)
    with atomic_path(final) as temp:
        work.replace(temp)
    for partial_folder in folder.glob(f"{PARTIAL_PREFIX}*"):
        remove(partial_folder)
    record = FileRecord(path=final.name, bytes=final.stat().st_size, sha256=verified.sha256)
    by_ytdlp = not verified.source.startswith("file:")
    receipt = Receipt(
        stage="download",
        key=entry.id,
        versions=versions_of("av", "yt-dlp") if by_ytdlp else versions_of("av"),
        files=(record, record_file(folder / INFO_NAME, relative_to=folder)),
        facts=_receipt_facts(entry, verified),
    )
    write_receipt(layout.video_receipt(entry.id), receipt)


def _suffix(path: Path, facts: VideoFacts) -> str:
    """Return the file's own suffix if it is a video's, else the usual one of its container."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return path.suffix.lower()
    return _SUFFIX_OF_CONTAINER.get(facts.container.split(",")[0], ".mp4")


def _receipt_facts(entry: VideoEntry, verified: _Verified) -> dict[str, Any]:
    info = verified.fetched.info
    license_observed = info.get("license")
    if license_observed is not None and "creative commons" not in license_observed.lower():
        logger.warning(
            "%s: the licence observed is %r, which is not Creative Commons; the manifest claims %s",
            entry.id,
            license_observed,
            entry.license_claimed,
        )
    return {
        "source": verified.source,
        "license_claimed": entry.license_claimed,
        "license_observed": license_observed,
        "license_observed_at": verified.fetched.license_observed_at,
        "title": info.get("title") or entry.title,
        "channel": info.get("channel") or info.get("uploader"),
        "format_id": info.get("format_id"),
        **verified.facts.to_json(),
    }


def _record_failure(entry: VideoEntry, layout: Layout, error: DownloadError | VideoError) -> str:
    """Publish a receipt that says why the video is not there; return the one line."""
    permanent = isinstance(error, PermanentDownloadError | VideoError)
    receipt = Receipt(
        stage="download",
        key=entry.id,
        status="failed_permanent" if permanent else "failed_transient",
        error=str(error),
        versions=versions_of("av"),
    )
    write_receipt(layout.video_receipt(entry.id), receipt)
    return f"{error} (permanent)" if permanent else str(error)
