"""Adding the user's own video: downloaded and validated like any other, then in their manifest."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wtours.acquire.download import OnSelected, download_videos, ignore_format
from wtours.acquire.local_files import require_utf8_name
from wtours.acquire.options import FetchOptions
from wtours.errors import DownloadError, ManifestError, UsageError
from wtours.media.file_types import name_problem
from wtours.progress import Progress, no_progress
from wtours.storage.hashing import sha256_file
from wtours.text import plain
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry, is_builtin, load_manifest, new_entry
from wtours.workspace.manifest_edit import add_video
from wtours.workspace.source_url import SourceUrl
from wtours.workspace.videos import DownloadedVideo, download_receipt, downloaded_video, video_file


@dataclass(frozen=True, kw_only=True, slots=True)
class Claims:
    """What the user says of their video."""

    title: str | None = None
    """None: the source's title, else the file's name."""
    license_claimed: str = "unknown"
    domain: str = "unknown"
    stream: int | None = None
    """Which video stream of the file to take, as ffprobe numbers it; None: choose."""


def add_walk(
    source: str,
    video_id: str,
    manifest: Path,
    layout: Layout,
    *,
    claims: Claims,
    options: FetchOptions | None = None,
    on_selected: OnSelected = ignore_format,
    on_progress: Progress = no_progress,
) -> VideoEntry:
    """Bring a file or a URL under the root, and append it to the manifest with what was measured.

    A file is copied. The manifest names it relative to its own folder if it lies in there; else
    by its file name, and a later download of it needs --from-dir.

    Args:
        source: An http(s) URL, or the path of a file.
        video_id: The name that every other command knows it by.
        manifest: The user's own; made if it is not there.
        layout: Where the video goes.
        claims: What the user says of it.
        options: For a URL.
        on_selected: Told what is about to be fetched.
        on_progress: Called with the video id and the bytes so far and in all.

    Raises:
        ManifestError: the manifest cannot take it.
        UsageError: there is no such file, or the id is taken under the root.
        DownloadError: it cannot be fetched, or is no video that can be worked on; says what to do.
    """
    given = None if source.startswith(("http://", "https://")) else Path(source).expanduser()
    if given is not None and not given.is_file():
        raise UsageError(f"{source} is no file, and no http or https URL; check the path")
    if given is not None:
        require_utf8_name(given)
    if given is not None and (problem := name_problem(given)) is not None:
        raise UsageError(problem)
    _refuse_taken(video_id, manifest)
    _refuse_other_video(video_id, layout, SourceUrl(source), given)
    name = source if given is None else f"file:{_name_beside(given, manifest)}"
    stated: dict[str, Any] = {"license_claimed": claims.license_claimed, "domain": claims.domain}
    title = claims.title or (given.stem if given else video_id)
    stated |= {"stream": claims.stream}
    entry = new_entry(id=video_id, title=title, sources=(name,), **stated)
    hooks: dict[str, Any] = {"on_selected": on_selected, "on_progress": on_progress}
    report = download_videos([entry], layout, given_file=given, options=options, **hooks)
    if report.failed:
        raise DownloadError(report.failed[video_id])
    video = downloaded_video(layout, video_id)
    if claims.title is None:
        title = plain(video.receipt.facts["title"])[:1000] or title
    measured = new_entry(id=video_id, title=title, sources=(name,), **stated, **_measured(video))
    add_video(manifest, measured)
    return measured


def _refuse_taken(video_id: str, manifest: Path) -> None:
    if is_builtin(manifest):
        raise ManifestError(f"{manifest} comes with wtours; give one of your own: --manifest FILE")
    if manifest.exists() and video_id in load_manifest(manifest).by_id:
        raise ManifestError(f"{manifest} has a video {video_id!r} already; choose another --id")


def _refuse_other_video(video_id: str, layout: Layout, source: str, given: Path | None) -> None:
    """Refuse an id under which another video lies; one that an earlier `add` brought may stay."""
    receipt = download_receipt(layout, video_id)
    if receipt is None:
        return
    if given is None:
        is_same = receipt.facts["source"] == source
    else:
        is_same = video_file(receipt).sha256 == sha256_file(given)
    if not is_same:
        raise UsageError(
            f"{layout.video_dir(video_id)} holds another video {video_id!r}; choose another --id"
        )


def _name_beside(file: Path, manifest: Path) -> str:
    folder, file = manifest.absolute().parent.resolve(), file.resolve()
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name


def _measured(video: DownloadedVideo) -> dict[str, Any]:
    facts = video.receipt.facts
    return {
        "sha256": video.sha256,
        "duration_seconds": facts["duration_us"] / 1_000_000,
        "frame_rate": facts["frame_rate"],
        "resolution": (facts["width"], facts["height"]),
    }
