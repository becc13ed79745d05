"""Download: each video of a manifest from the first source that gives it whole, then a receipt.

What is fetched lies in a hidden working folder until it is proved to be the whole, right video;
only then does it get its final name, and last of all its receipt (`wtours.storage.receipts`).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from wtours.acquire.download_queue import Stop, run_queue
from wtours.acquire.local_files import PARTIAL_PREFIX
from wtours.acquire.options import FetchOptions
from wtours.acquire.rate_limit import HostBusyError
from wtours.acquire.sources import LocalFiles, Sources
from wtours.acquire.validation import ValidatedFile, validate
from wtours.acquire.ytdlp.formats import SelectedFormat
from wtours.errors import DownloadError, PermanentDownloadError, VideoError
from wtours.media.file_types import VIDEO_SUFFIXES
from wtours.media.probe import VideoFacts
from wtours.progress import Progress, no_progress
from wtours.storage.atomic import atomic_path, remove, sweep, write_json
from wtours.storage.locks import lock
from wtours.storage.receipts import FileRecord, Receipt, record_file, versions_of, write_receipt
from wtours.workspace.attribution import write_attribution
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.videos import INFO_NAME, download_receipt, video_file

logger = logging.getLogger(__name__)

OnSelected = Callable[[str, SelectedFormat], None]
"""Called as on_selected(video_id, choice) before the first byte of a video."""
_SUFFIX_OF_CONTAINER = {"matroska": ".mkv", "mpegts": ".ts", "avi": ".avi"}


def ignore_format(video_id: str, choice: SelectedFormat) -> None:
    """Do nothing: the default `on_selected`."""


@dataclass(slots=True)
class DownloadReport:
    """How each video ended, in the order asked for."""

    done: list[str] = field(default_factory=list)
    """Fetched by this run."""
    skipped: list[str] = field(default_factory=list)
    """There already."""
    failed: dict[str, str] = field(default_factory=dict)
    """The one-line reason by video id; these are tried again by the next run."""


def download_videos(
    entries: Sequence[VideoEntry],
    layout: Layout,
    *,
    from_dir: Path | None = None,
    files_dir: Path | None = None,
    given_file: Path | None = None,
    options: FetchOptions | None = None,
    on_selected: OnSelected = ignore_format,
    on_progress: Progress = no_progress,
) -> DownloadReport:
    """Bring the videos under the root that are not there yet; one bad video does not stop the rest.

    Args:
        entries: What to download.
        layout: Where to.
        from_dir: Take the files in this folder, and use no network.
        files_dir: Where `file:` sources are, if not in `from_dir`: the manifest's own folder.
        given_file: The one entry's file, wherever it lies.
        options: Formats, licenses, cookies, limits, and how many are fetched at once.
        on_selected: Told what is about to be fetched; called from several threads, as is
            `on_progress`.
        on_progress: Called with the video id and the bytes so far and in all.

    Raises:
        WtoursError: nothing more can be done: another process downloads into this root, the disk is
            full, or yt-dlp is not installed.
    """
    options = options or FetchOptions()
    sources = Sources(LocalFiles(from_dir, files_dir, given_file), options, on_selected)
    stop = Stop()
    failed: dict[str, str] = {}

    def progress(item: str, done: float, total: float | None) -> None:
        stop.check()
        on_progress(item, done, total)

    def fetch(entry: VideoEntry) -> str | None:
        return _fetch_video(entry, layout, sources, progress)

    with lock(layout.lock("download"), what=f"the folder {layout.videos_dir}"):
        wanted = [entry for entry in entries if not is_downloaded(entry, layout)]
        for entry, problem in run_queue(fetch, wanted, jobs=options.jobs, stop=stop):
            if problem is not None:
                failed[entry.id] = problem
        if len(failed) < len(wanted):
            write_attribution(layout)
    asked = [entry.id for entry in wanted]
    return DownloadReport(
        done=[video_id for video_id in asked if video_id not in failed],
        skipped=[entry.id for entry in entries if entry.id not in asked],
        failed={video_id: failed[video_id] for video_id in asked if video_id in failed},
    )


def is_downloaded(entry: VideoEntry, layout: Layout) -> bool:
    """Return whether the video is there, with the sha256 that the manifest may demand."""
    receipt = download_receipt(layout, entry.id)
    return receipt is not None and entry.sha256 in (None, video_file(receipt).sha256)


def _fetch_video(
    entry: VideoEntry, layout: Layout, sources: Sources, on_progress: Progress
) -> str | None:
    """Fetch and publish one video; return None, or why it cannot be had."""
    try:
        folder = _clean_folder(entry, layout)
        validated = _first_good(entry, sources, folder, on_progress)
    except HostBusyError:
        raise  # put off, not failed
    except (DownloadError, VideoError) as error:
        return _record_failure(entry, layout, error)
    _publish(entry, layout, validated)
    return None


def _clean_folder(entry: VideoEntry, layout: Layout) -> Path:
    folder = layout.video_dir(entry.id)
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    return folder


def _first_good(
    entry: VideoEntry, sources: Sources, folder: Path, on_progress: Progress
) -> ValidatedFile:
    errors: list[DownloadError | VideoError] = []
    for source, fetch in sources.of(entry):
        try:
            fetched = fetch(source, folder, partial(on_progress, entry.id))
            return validate(entry, source, fetched)
        except HostBusyError:
            raise
        except (DownloadError, VideoError) as error:
            logger.info("%s: %s: %s", entry.id, source, error)
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    message = "; ".join(f"source {n}: {error}" for n, error in enumerate(errors, start=1))
    if all(isinstance(error, PermanentDownloadError | VideoError) for error in errors):
        raise PermanentDownloadError(message)
    raise DownloadError(message)


def _publish(entry: VideoEntry, layout: Layout, validated: ValidatedFile) -> None:
    """Write info.json, give the file its final name, and write the receipt last."""
    folder, work = layout.video_dir(entry.id), validated.fetched.path
    final = folder / f"{entry.id}{_suffix(work, validated.facts)}"
    # An older receipt must not vouch for the new file if we die between the two.
    layout.video_receipt(entry.id).unlink(missing_ok=True)
    for old in folder.glob(f"{entry.id}.*"):
        remove(old)
    write_json(folder / INFO_NAME, validated.fetched.info)
    with atomic_path(final) as temp:
        work.replace(temp)
    for partial_folder in folder.glob(f"{PARTIAL_PREFIX}*"):
        remove(partial_folder)
    record = FileRecord(path=final.name, bytes=final.stat().st_size, sha256=validated.sha256)
    by_ytdlp = not validated.source.startswith("file:")
    receipt = Receipt(
        stage="download",
        key=entry.id,
        versions=versions_of("av", "yt-dlp") if by_ytdlp else versions_of("av"),
        files=(record, record_file(folder / INFO_NAME, relative_to=folder)),
        facts=_receipt_facts(entry, validated),
    )
    write_receipt(layout.video_receipt(entry.id), receipt)


def _suffix(path: Path, facts: VideoFacts) -> str:
    """Return the file's own suffix if it is a video's, else the usual one of its container."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return path.suffix.lower()
    return _SUFFIX_OF_CONTAINER.get(facts.container.split(",")[0], ".mp4")


def _receipt_facts(entry: VideoEntry, validated: ValidatedFile) -> dict[str, Any]:
    info = validated.fetched.info
    return {
        "source": validated.source,
        "license_claimed": entry.license_claimed,
        "license_observed": info.get("license"),
        "license_observed_at": validated.fetched.license_observed_at,
        "title": info.get("title") or entry.title,
        "channel": info.get("channel") or info.get("uploader"),
        "format_id": info.get("format_id"),
        **validated.facts.to_json(),
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
