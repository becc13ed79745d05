"""Downloaded videos: what the later stages read, and the facts that prove a file whole.

A video exists when `<root>/videos/<video_id>/receipt.json` says "done" and its files are there.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wtours.errors import VideoError
from wtours.storage.receipts import FileRecord, Receipt, files_present, read_receipt
from wtours.workspace.layout import Layout

"""File names taken as videos, lower case; what a file really is, `open_video` decides."""
INFO_NAME = "info.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class DownloadedVideo:
    """One published video."""

    video_id: str
    path: Path
    sha256: str
    receipt: Receipt
    """`facts` of it are listed in docs/tables.md."""

    @property
    def stream(self) -> int | None:
        """Return which stream of the file is the film; None: the receipt is older than that."""
        stream: int | None = self.receipt.facts.get("stream")
        return stream


def download_receipt(layout: Layout, video_id: str) -> Receipt | None:
    """Return the receipt of a video that is done and has its files, else None."""
    path = layout.video_receipt(video_id)
    receipt = read_receipt(path)
    if receipt is None or receipt.status != "done" or not files_present(receipt, path.parent):
        return None
    return receipt


def downloaded_video(layout: Layout, video_id: str) -> DownloadedVideo:
    """Return a published video.

    Raises:
        VideoError: it is not downloaded; the message has the command.
    """
    receipt = download_receipt(layout, video_id)
    if receipt is None:
        failed = read_receipt(layout.video_receipt(video_id))
        reason = f" ({failed.error})" if failed is not None and failed.error else ""
        raise VideoError(
            f"{video_id} is not downloaded{reason}: run `wtours download --video {video_id}`"
        )
    record = video_file(receipt)
    return DownloadedVideo(
        video_id=video_id,
        path=layout.video_dir(video_id) / record.path,
        sha256=record.sha256,
        receipt=receipt,
    )


def downloaded_videos(layout: Layout, video_ids: Iterable[str]) -> list[DownloadedVideo]:
    """Return published videos, in the order of `video_ids`.

    Raises:
        VideoError: one is not downloaded; the message names it.
    """
    return [downloaded_video(layout, video_id) for video_id in video_ids]


def video_file(receipt: Receipt) -> FileRecord:
    """Return the record of the video itself in a "done" download receipt."""
    (record,) = (file for file in receipt.files if file.path != INFO_NAME)
    return record
