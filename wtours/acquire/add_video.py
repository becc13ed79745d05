"""Adding the user's own video: downloaded and validated like any other, then in their manifest."""

import itertools
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from wtours.acquire.download import download_videos
from wtours.acquire.options import FetchOptions
from wtours.acquire.own_walks import OwnWalk
from wtours.acquire.sources import OnSelected
from wtours.errors import DownloadError, ManifestError, UsageError
from wtours.progress import Progress, no_progress
from wtours.storage.atomic import read_json
from wtours.storage.hashing import sha256_file
from wtours.text import plain
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry, is_builtin, load_manifest, new_entry
from wtours.workspace.manifest_edit import add_video
from wtours.workspace.source_url import SourceUrl
from wtours.workspace.videos import (
    INFO_NAME,
    DownloadedVideo,
    download_receipt,
    downloaded_video,
    video_file,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Claims:
    """What the user says of their video."""

    title: str | None = None
    """None: the source's title, else the file's name."""
    license_claimed: str = "unknown"
    stream: int | None = None
    """Which video stream of the file to take, as ffprobe numbers it; None: choose."""


def add_walk(
    walk: OwnWalk,
    video_id: str | None,
    manifest: Path,
    layout: Layout,
    *,
    claims: Claims,
    options: FetchOptions | None = None,
    on_selected: OnSelected = lambda video_id, choice: None,
    on_progress: Progress = no_progress,
) -> tuple[VideoEntry, bool]:
    """Bring a walk under the root, and append it to the manifest with what was measured.

    A file is copied, chapters are joined. The manifest names files relative to its own folder if
    they lie in there; else by their names, and a later download of them needs --from-dir.

    Args:
        video_id: The name that every other command knows it by; None: made of the walk's name, with
            a number where another video has that name.
        manifest: The user's own; made if it is not there.
        options: For a URL.
        on_progress: Called with the video id and the bytes so far and in all.

    Returns:
        Its entry, and whether it is new: a walk that is there already is not added again.

    Raises:
        ManifestError: the manifest cannot take it.
        UsageError: the id is taken under the root.
        DownloadError: it cannot be fetched, or is no video that can be worked on; says what to do.
    """
    if is_builtin(manifest):
        raise ManifestError(f"{manifest} comes with wtours; give one of your own: --manifest FILE")
    entries = load_manifest(manifest).by_id if manifest.exists() else {}
    known = [entry for entry in entries.values() if video_id in (None, entry.id)]
    found = next((entry for entry in known if _is_of(entry, walk, layout, claims.stream)), None)
    hooks: dict[str, Any] = {"on_selected": on_selected, "on_progress": on_progress}
    if found is not None:
        if video_id is None:
            _require_same_url(walk, found.id, SourceUrl(found.sources[0]))
        fetched = _download(found, walk, layout, options=options, **hooks)
        return found, fetched
    is_id_given = video_id is not None
    if video_id is None:
        video_id = _unused_id(walk, layout, entries, claims.stream)
    elif video_id in entries:
        raise ManifestError(f"{manifest} has a video {video_id!r} already; choose another --id")
    elif _holds(layout, video_id, walk, claims.stream) is False:
        raise UsageError(
            f"{layout.video_dir(video_id)} holds another video {video_id!r}; choose another --id"
        )
    names = [f"file:{_name_beside(path, manifest)}" for path in walk.files] or [walk.source]
    stated: dict[str, Any] = {
        "sources": names[:1],
        "chapters": names[1:],
        "license_claimed": claims.license_claimed,
        "stream": claims.stream,
    }
    title = claims.title or (walk.files[0].stem if walk.files else video_id)
    try:
        entry = new_entry(id=video_id, title=title, **stated)
    except ManifestError as error:  # a name with a backslash, for example
        if is_id_given:  # then it may be the id; and the walk is the only one
            raise
        remedy = "; rename the file" if walk.files else ""
        raise DownloadError(f"no manifest can name {plain(walk.name)}: {error}{remedy}") from error
    _download(entry, walk, layout, options=options, **hooks)
    video = downloaded_video(layout, video_id)
    if claims.title is None:
        title = plain(video.receipt.facts["title"])[:1000] or title
    measured = new_entry(id=video_id, title=title, **stated, **_measured(video, walk))
    add_video(manifest, measured)
    return measured, True


def _download(entry: VideoEntry, walk: OwnWalk, layout: Layout, **how: Any) -> bool:
    """Bring a walk under the root; return whether it was not there."""
    report = download_videos([entry], layout, given=walk.files, **how)
    if report.failed:
        raise DownloadError(report.failed[entry.id])
    return bool(report.done)


def _is_of(entry: VideoEntry, walk: OwnWalk, layout: Layout, stream: int | None) -> bool:
    """Return whether an entry is of this walk, be it downloaded or not.

    With a stream: and of that one. Another stream of a file is another video.
    """
    held = _holds(layout, entry.id, walk, stream)
    # Of chapters, which are joined to one stream, only the entry knows which of theirs it is.
    if (held is None or entry.chapters) and stream not in (None, entry.stream):
        return False
    if held is not None:
        return held
    if not walk.files:
        return entry.sources[0] == SourceUrl(walk.source)
    names = [PurePosixPath(source).name for source in (entry.sources[0], *entry.chapters)]
    if names != [path.name for path in walk.files]:
        return False
    return len(names) > 1 or entry.sha256 == sha256_file(walk.files[0])


def _unused_id(
    walk: OwnWalk, layout: Layout, entries: dict[str, VideoEntry], stream: int | None
) -> str:
    """Return the walk's own id, with the first number that no other video has."""
    for number in itertools.count(1):
        end = "" if number == 1 else f"_{number}"
        video_id = f"{walk.id[: 64 - len(end)]}{end}"
        if video_id in entries:
            continue
        held = _holds(layout, video_id, walk, stream)
        if held:
            _require_same_url(walk, video_id)
        if held is not False:
            return video_id
    raise AssertionError("numbers do not end")


def _require_same_url(walk: OwnWalk, video_id: str, known: SourceUrl | None = None) -> None:
    """Refuse a URL of which only the part that is not hidden is known to be that of a video.

    Whether the rest names another file, or is a new password for the same one, nobody can say.

    Files are compared by their bytes. `known`: the video's source, where a manifest has all of it.

    Raises:
        DownloadError: says how to add it all the same.
    """
    source = SourceUrl(walk.source)
    if walk.files or source.working == source or (known and known.working == source.working):
        return
    raise DownloadError(
        f"{source}: cannot be told from {video_id}, which is there: their URLs differ in no more "
        f"than what is hidden as a secret; if it is another video, add it with an --id of its own"
    )


def _holds(layout: Layout, video_id: str, walk: OwnWalk, stream: int | None) -> bool | None:
    """Return whether what lies under an id is this walk; None: nothing lies there.

    With a stream: whether that one was taken of a file.
    """
    receipt = download_receipt(layout, video_id)
    if receipt is None:
        return None
    taken = receipt.facts.get("stream")  # an older receipt does not say
    if len(walk.files) < 2 and None not in (stream, taken) and taken != stream:
        return False
    if not walk.files:
        return bool(receipt.facts["source"] == SourceUrl(walk.source))
    if len(walk.files) == 1:
        stored, path = video_file(receipt), walk.files[0]
        return stored.bytes == path.stat().st_size and stored.sha256 == sha256_file(path)
    info = read_json(layout.video_dir(video_id) / INFO_NAME)
    chapters = info.get("chapters") if isinstance(info, dict) else None
    found = [{"file": path.name, "bytes": path.stat().st_size} for path in walk.files]
    return isinstance(chapters, list) and found == [
        {key: chapter.get(key) for key in ("file", "bytes")}
        for chapter in chapters
        if isinstance(chapter, dict)
    ]


def _name_beside(file: Path, manifest: Path) -> str:
    folder, file = manifest.absolute().parent.resolve(), file.resolve()
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name


def _measured(video: DownloadedVideo, walk: OwnWalk) -> dict[str, Any]:
    facts = video.receipt.facts
    measured = {
        "duration_seconds": facts["duration_us"] / 1_000_000,
        "frame_rate": facts["frame_rate"],
        "resolution": (facts["width"], facts["height"]),
    }
    # Chapters may be joined to other bytes by another FFmpeg: `pin` demands these all the same.
    return measured if len(walk.files) > 1 else {"sha256": video.sha256} | measured
