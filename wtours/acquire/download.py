"""Download: each video of a manifest from the first source that gives it whole, then a receipt.

What is fetched lies in a hidden working folder until it is validated as the whole, right video;
only then does it get its final name, and last of all its receipt (`wtours.storage.receipts`).
"""

import contextlib
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from wtours.acquire.completeness import states_own_length
from wtours.acquire.download_queue import StoppedError, run_queue
from wtours.acquire.local_files import PARTIAL_PREFIX, Fetched
from wtours.acquire.options import FetchOptions
from wtours.acquire.rate_limit import HostBusyError
from wtours.acquire.sources import OnSelected, Sources
from wtours.acquire.validation import ValidatedFile, validate
from wtours.errors import (
    DiskFullError,
    DownloadError,
    MissingPackageError,
    PermanentDownloadError,
    StorageError,
    UsageError,
    VideoError,
    WtoursError,
)
from wtours.media.file_types import VIDEO_SUFFIXES, Codec
from wtours.media.probe import VideoFacts
from wtours.progress import Progress, no_progress
from wtours.storage.atomic import atomic_path, remove, sweep, write_json
from wtours.storage.locks import lock
from wtours.storage.os_errors import explain_os_errors
from wtours.storage.receipts import FileRecord, Receipt, record_file, versions_of, write_receipt
from wtours.text import plain
from wtours.workspace.attribution import write_attribution
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.source_url import SourceUrl
from wtours.workspace.videos import (
    INFO_NAME,
    checked_identity,
    download_receipt,
    downloaded_video,
    note_identity,
)

logger = logging.getLogger(__name__)

_SUFFIX_OF_CONTAINER = {"matroska": ".mkv", "mpegts": ".ts", "avi": ".avi"}


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
    given: Sequence[Path] = (),
    options: FetchOptions | None = None,
    on_selected: OnSelected = lambda video_id, choice: None,
    on_progress: Progress = no_progress,
) -> DownloadReport:
    """Bring the videos under the root that are not there yet; one bad video does not stop the rest.

    Args:
        from_dir: Take the files in this folder, and use no network.
        files_dir: Where `file:` sources are, if not in `from_dir`: the manifest's own folder.
        given: The one entry's file, or its chapters, wherever they lie.
        options: Formats, licenses, cookies, limits, and how many are fetched at once.
        on_selected: Told what is about to be fetched; called from several threads, as is
            `on_progress`.
        on_progress: Called with the video id and the bytes so far and in all.

    Raises:
        WtoursError: nothing more can be done: another process downloads into this root, the disk is
            full, or yt-dlp is not installed.
    """
    options = options or FetchOptions()
    sources = Sources(
        entries=entries,
        options=options,
        from_dir=from_dir,
        files_dir=files_dir,
        given=given,
        on_selected=on_selected,
    )
    stop = threading.Event()
    failed: dict[str, str] = {}

    def progress(item: str, done: float, total: float | None) -> None:
        if stop.is_set():
            raise StoppedError
        on_progress(item, done, total)

    def fetch(entry: VideoEntry) -> str | None:
        return _fetch_video(entry, layout, sources, progress)

    with lock(layout.lock("download"), what=f"the folder {layout.videos_dir}"):
        wanted = []
        for entry in entries:
            try:
                if not is_downloaded(entry, layout):
                    wanted.append(entry)
            except (StorageError, VideoError) as error:
                failed[entry.id] = str(error)
        for entry, problem in run_queue(fetch, wanted, jobs=options.jobs, stop=stop):
            if problem is not None:
                failed[entry.id] = problem
        asked, ids = {entry.id for entry in wanted}, [entry.id for entry in entries]
        if not set(ids) <= failed.keys():  # also of a run that was killed before it came to this
            write_attribution(layout)
    return DownloadReport(
        done=[id for id in ids if id in asked and id not in failed],
        skipped=[id for id in ids if id not in asked and id not in failed],
        failed={id: failed[id] for id in ids if id in failed},
    )


def is_downloaded(entry: VideoEntry, layout: Layout) -> bool:
    """Return whether the video is there, with the sha256 that the manifest may demand.

    Raises:
        VideoError: another file has taken the name of the one that was downloaded; or it is there
            with another stream of its file, of which its analysis and shards are too.
    """
    if download_receipt(layout, entry.id) is None:
        return False
    video = downloaded_video(layout, entry.id)
    asked = None if entry.chapters else entry.stream  # joined, they are one stream
    if asked is not None and video.stream not in (None, asked):
        raise VideoError(
            f"it is there with stream {video.stream} of its file, and the manifest asks for stream "
            f"{asked}: give that stream an id of its own in the manifest"
        )
    if video.path.is_file():  # else an object store has it, as its receipt says
        checked_identity(layout, video)
    return entry.sha256 in (None, video.sha256)


def _fetch_video(
    entry: VideoEntry, layout: Layout, sources: Sources, on_progress: Progress
) -> str | None:
    """Fetch and publish one video; return None, or why it cannot be downloaded.

    Whatever is wrong with one video, the others go on.

    Raises:
        HostBusyError: it is to be tried again later.
        WtoursError: none of the videos can be downloaded: the disk is full, a package is missing.
    """
    folder = layout.video_dir(entry.id)
    try:
        with explain_os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)
        _publish(entry, layout, _first_good(entry, sources, folder, on_progress))
    except (HostBusyError, DiskFullError, MissingPackageError, UsageError):
        raise
    except (DownloadError, VideoError, StorageError) as error:
        return _record_failure(entry, layout, error)
    except Exception as error:
        logger.info("%s: unexpected", entry.id, exc_info=error)
        problem = plain(error)[:300]
        for source in entry.sources:
            problem = SourceUrl(source).hide(problem)
        return _record_failure(
            entry,
            layout,
            DownloadError(
                f"unexpected {type(error).__name__}: {problem}; `wtours --verbose download` shows "
                f"where"
            ),
        )
    return None


def _first_good(
    entry: VideoEntry, sources: Sources, folder: Path, on_progress: Progress
) -> ValidatedFile:
    errors: list[DownloadError | VideoError] = []
    for source, fetch in sources.of(entry):
        try:
            fetched = fetch(source, folder, partial(on_progress, entry.id))
            validated = validate(entry, source, fetched, max_loss=sources.options.max_loss)
            _require_known_length(entry, source, fetched)
            _require_codec(source, validated, sources.options.codec)
            return validated
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


def _require_known_length(entry: VideoEntry, source: str, fetched: Fetched) -> None:
    """Refuse a file of which nothing says how long it is: half of it would look as good."""
    expected = entry.sha256 or entry.duration_seconds or fetched.info.get("duration")
    if fetched.length_stated or expected or states_own_length(fetched.path):
        return
    remove(fetched.path.parent)
    raise VideoError(
        f"{source}: neither the server nor the file says how long it is, so that a part would "
        f"look like all of it; state duration_seconds or sha256 in the manifest, or give the file: "
        f"--from-dir DIR"
    )


def _require_codec(source: str, validated: ValidatedFile, codec: Codec | None) -> None:
    """Refuse a file of another codec than --codec: of a plain file no source says which it is."""
    found = validated.facts.codec
    if codec in (None, found):
        return
    remove(validated.fetched.path.parent)
    raise VideoError(
        f"{source.removeprefix('file:')}: it is {found}, and --codec {codec} was asked for; drop "
        f"--codec, or give a file of {codec}"
    )


def _publish(entry: VideoEntry, layout: Layout, validated: ValidatedFile) -> None:
    """Write info.json, give the file its final name, and write the receipt last."""
    folder, work = layout.video_dir(entry.id), validated.fetched.path
    final = folder / f"{entry.id}{_suffix(work, validated.facts)}"
    # An older receipt must not vouch for the new file if we die between the two.
    layout.video_receipt(entry.id).unlink(missing_ok=True)
    for old in folder.glob(f"{entry.id}.*"):
        if old.suffix in VIDEO_SUFFIXES:  # what else is there is the user's: a track, subtitles
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
    note_identity(layout, downloaded_video(layout, entry.id))


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


def _record_failure(entry: VideoEntry, layout: Layout, error: WtoursError) -> str:
    """Publish a receipt that says why the video is not there; return the one line.

    Where an earlier file of it is there, since the manifest demands another sha256 by now, that one
    keeps its receipt: the sha256 may be a mistake, and the file one that nobody serves any more.
    """
    is_permanent = isinstance(error, PermanentDownloadError | VideoError)
    receipt = Receipt(
        stage="download",
        key=entry.id,
        status="failed_permanent" if is_permanent else "failed_transient",
        error=str(error),
        versions=versions_of("av"),
    )
    with contextlib.suppress(StorageError):  # where nothing can be written, the line must do
        if download_receipt(layout, entry.id) is None:
            write_receipt(layout.video_receipt(entry.id), receipt)
    return str(error)
