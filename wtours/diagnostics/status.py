"""What is done of each video, and which shard sets there are: for `wtours list`, `shards list`."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from wtours.errors import ShardError, StorageError
from wtours.shards.schema import DATASET_FILE, Dataset, read_dataset
from wtours.storage.receipts import Status, files_present, read_receipt
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.videos import DownloadedVideo, download_receipt, downloaded_video, video_file

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
            known = _download_state(entry, layout)
        except StorageError as error:  # the other rows are still worth showing
            known = {"download": "failed_transient", "error": str(error)}
        states.append(
            VideoState(
                id=entry.id,
                license_claimed=entry.license_claimed,
                shard_sets=tuple(name for name, ids in shard_sets.items() if entry.id in ids),
                **{"title": entry.title, **known},
            )
        )
    return states


def _download_state(entry: VideoEntry, layout: Layout) -> dict[str, Any]:
    """Return what is known of a video's download and analysis, as fields of `VideoState`."""
    done = download_receipt(layout, entry.id)
    if done is None:
        last = read_receipt(layout.video_receipt(entry.id))
        if last is None or last.status == "done":  # its files are gone
            return {"download": "missing"}
        return {"download": last.status, "error": last.error}
    facts = done.facts
    return {
        "title": facts.get("title") or entry.title,
        "download": "done",
        "bytes": video_file(done).bytes,
        "duration_seconds": facts["duration_us"] / 1_000_000,
        **{name: facts[name] for name in ("width", "height", "codec", "frame_rate")},
        "license_observed": facts.get("license_observed"),
        "analysed": _is_analyzed(downloaded_video(layout, entry.id), layout),
    }


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
