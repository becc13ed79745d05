"""What is done of each video, and which shard sets there are: for `wtours list`, `shards list`."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from wtours.errors import ShardError, StorageError
from wtours.shards.schema import DATASET_FILE, Dataset, read_dataset
from wtours.storage.receipts import Status, files_present, read_receipt
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.videos import (
    DownloadedVideo,
    download_receipt,
    downloaded_video,
    video_file,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoState:
    """One row of `wtours list`; what is not known is None."""

    id: str
    title: str
    download: Status | Literal["missing"]
    """How the download ended; "missing": never tried, or its files are gone."""
    error: str | None = None
    """Why the download failed."""
    bytes: int | None = None
    duration_seconds: float | None = None
    width: int | None = None
    height: int | None = None
    codec: str | None = None
    frame_rate: str | None = None
    """An exact fraction, for example "60000/1001"."""
    license_claimed: str
    license_observed: str | None = None
    analysed: bool = False
    """The analysis is done, and of the file that is there now."""
    shard_sets: tuple[str, ...] = ()
    """The published shard sets that hold it."""


def video_states(entries: Iterable[VideoEntry], layout: Layout) -> list[VideoState]:
    """Return the state of each entry, in order; reads receipts only, no video."""
    shard_sets = {
        name: frozenset(video.video_id for video in dataset.videos)
        for name, dataset in published_shard_sets(layout).items()
    }
    states = []
    for entry in entries:
        try:
            states.append(_video_state(entry, layout, shard_sets))
        except StorageError as error:  # the other rows are still worth showing
            states.append(
                VideoState(
                    id=entry.id,
                    title=entry.title,
                    download="failed_transient",
                    error=str(error),
                    license_claimed=entry.license_claimed,
                )
            )
    return states


def _video_state(
    entry: VideoEntry, layout: Layout, shard_sets: dict[str, frozenset[str]]
) -> VideoState:
    holding = tuple(name for name, video_ids in shard_sets.items() if entry.id in video_ids)
    done = download_receipt(layout, entry.id)
    if done is None:
        last = read_receipt(layout.video_receipt(entry.id))
        failed = last is not None and last.status != "done"
        return VideoState(
            id=entry.id,
            title=entry.title,
            download=last.status if last is not None and failed else "missing",
            error=last.error if last is not None and failed else None,
            license_claimed=entry.license_claimed,
            shard_sets=holding,
        )
    video, facts = video_file(done), done.facts
    return VideoState(
        id=entry.id,
        title=facts.get("title") or entry.title,
        download="done",
        bytes=video.bytes,
        duration_seconds=facts["duration_us"] / 1_000_000,
        width=facts["width"],
        height=facts["height"],
        codec=facts["codec"],
        frame_rate=facts["frame_rate"],
        license_claimed=entry.license_claimed,
        license_observed=facts.get("license_observed"),
        analysed=_is_analyzed(downloaded_video(layout, entry.id), layout),
        shard_sets=holding,
    )


def _is_analyzed(video: DownloadedVideo, layout: Layout) -> bool:
    path = layout.analysis_receipt(video.video_id)
    receipt = read_receipt(path)
    return (
        receipt is not None
        and receipt.status == "done"
        and video.has_made(receipt)
        and files_present(receipt, path.parent)
    )


def published_shard_sets(layout: Layout) -> dict[str, Dataset]:
    """Return the published shard sets under the root, by name, sorted."""
    sets: dict[str, Dataset] = {}
    for path in sorted((layout.root / "shards").glob(f"[!.]*/{DATASET_FILE}")):
        try:
            sets[path.parent.name] = read_dataset(path.parent)
        except ShardError as error:
            logger.warning("%s", error)  # the other rows are still worth showing
    return sets
