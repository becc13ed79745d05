"""Downloaded videos: what the later stages read, and whether it is still the file of the receipt.

A video exists when `<root>/videos/<video_id>/receipt.json` says "done" and its files are there.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from wtours.errors import DiskFullError, StorageError, VideoError, WtoursError
from wtours.storage.atomic import read_json, write_json
from wtours.storage.hashing import sha256_file
from wtours.storage.os_errors import explain_os_errors
from wtours.storage.receipts import FileRecord, Receipt, files_present, read_receipt
from wtours.storage.working_copy import working_copy_of
from wtours.workspace.layout import Layout

INFO_NAME = "info.json"


class _Facts(BaseModel):
    """What the other stages rely on in a download receipt."""

    duration_us: int = Field(gt=0)
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    frame_rate: str = Field(pattern=r"^[1-9]\d{0,15}(/[1-9]\d{0,15})?$")
    codec: str
    title: str | None
    source: str | None
    stream: int | None = None
    video_streams: int | None = None
    channel: str | None = None
    license_claimed: str | None = None
    license_observed: str | None = None
    license_observed_at: str | None = None


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells one file on a disk from another that has taken its name."""

    bytes: int
    mtime_ns: int
    inode: int
    ctime_ns: int
    """Changed by every write and rename; unlike the other date nobody can set it back."""

    @classmethod
    def of(cls, path: Path) -> "FileIdentity":
        """Return the identity of the file that is at `path` now."""
        with explain_os_errors(path):
            found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns)


@dataclass(frozen=True, kw_only=True, slots=True)
class DownloadedVideo:
    """One published video."""

    video_id: str
    path: Path
    sha256: str
    receipt: Receipt
    """`facts` of it are listed in docs/reference/tables.md."""
    identity: FileIdentity | None = None
    """Of the file, where `checked_video` has held it against the receipt."""

    @property
    def stream(self) -> int | None:
        """Return which stream of the file is taken; None: the receipt is older than that."""
        stream: int | None = self.receipt.facts.get("stream")
        return stream

    @property
    def inputs(self) -> dict[str, str]:
        """Return what receipts of what is made from it name: the file, and of several its stream.

        So what was made from another stream is not taken for it, when the same file is downloaded
        again under the same id to take this one.
        """
        has_several = self.receipt.facts.get("video_streams") not in (None, 1)
        return {"video": self.sha256} | ({"stream": str(self.stream)} if has_several else {})

    def has_made(self, receipt: Receipt) -> bool:
        """Return whether what a receipt speaks of was made from this video.

        One from before streams were recorded names the file alone.
        """
        return receipt.inputs in (self.inputs, {"video": self.sha256})


def download_receipt(layout: Layout, video_id: str) -> Receipt | None:
    """Return the receipt of a video that is done and has its files, else None.

    A receipt that was tampered with is none, as if the video had never been downloaded.
    """
    path = layout.video_receipt(video_id)
    receipt = read_receipt(path)
    if receipt is None or receipt.status != "done" or not is_sound(receipt, video_id):
        return None
    return receipt if files_present(receipt, path.parent) else None


def is_sound(receipt: Receipt, video_id: str) -> bool:
    """Return whether a download receipt is of this video and states what the stages rely on."""
    names = [file.path for file in receipt.files if file.path != INFO_NAME]
    is_of_one_video = len(names) == 1 and "/" not in names[0]
    try:
        _Facts.model_validate(receipt.facts)
    except ValidationError:
        return False
    return receipt.key == video_id and is_of_one_video


def require_same_file(path: Path, identity: FileIdentity | None) -> None:
    """Call it before and after each piece of work on a video, with its identity at the beginning.

    None: nobody has looked at the beginning, so nothing can be said. Nor of a copy of what lies on
    an object store: it was compared as it came, and comes again after it made room for another.

    Raises:
        VideoError: another file has taken its name since.
    """
    if identity is None or working_copy_of(path) is not None:
        return
    try:
        is_same = FileIdentity.of(path) == identity
    except FileNotFoundError:
        is_same = False
    if not is_same:
        raise VideoError(f"{path} was replaced or changed while it was read; run the command again")


def checked_identity(layout: Layout, video: DownloadedVideo, *, deep: bool = False) -> FileIdentity:
    """Return the identity of a video's file, which is the one that its receipt speaks of.

    The sha256 is measured where size, date and inode are not those that it was last measured of.
    With `deep` it is measured in any case: before the file is deleted, for example. A video that is
    on an object store only is copied from there first.

    Raises:
        VideoError: another file has taken its name.
    """
    fetch_video(video)
    identity, note = FileIdentity.of(video.path), layout.identity(video.video_id)
    known = {**asdict(identity), "sha256": video.sha256}
    with contextlib.suppress(FileNotFoundError, WtoursError):
        if not deep and read_json(note) == known:
            return identity
    with explain_os_errors(video.path):
        sha256 = sha256_file(video.path)
    require_same_file(video.path, identity)
    if sha256 != video.sha256:
        raise VideoError(
            f"{video.path} is not the file that was downloaded: its sha256 is {sha256}, its "
            f"receipt says {video.sha256}; remove {video.path.parent} and download it again"
        )
    note_identity(layout, video)
    return identity


def note_identity(layout: Layout, video: DownloadedVideo) -> None:
    """Note which file the sha256 of a video was measured of, so that it is measured once."""
    identity = asdict(FileIdentity.of(video.path))
    with contextlib.suppress(StorageError):  # a workspace on a read-only disk
        write_json(layout.identity(video.video_id), {**identity, "sha256": video.sha256})


def downloaded_video(layout: Layout, video_id: str) -> DownloadedVideo:
    """Return a published video; `checked_video` also looks whether its file was replaced.

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


def checked_video(layout: Layout, video_id: str, *, deep: bool = False) -> DownloadedVideo:
    """Return a published video whose file is the one of its receipt; see `checked_identity`.

    Raises:
        VideoError: it is not downloaded, or its file was replaced.
    """
    video = downloaded_video(layout, video_id)
    return replace(video, identity=checked_identity(layout, video, deep=deep))


@contextlib.contextmanager
def refusals_of_one_video() -> Iterator[None]:
    """Make what the file system refuses inside the block a fault of the one video it is about.

    Raises:
        VideoError: with what it refuses.
        DiskFullError: there is no room to copy the video here; it is the same for the others.
    """
    try:
        yield
    except DiskFullError:
        raise
    except StorageError as error:
        raise VideoError(str(error)) from error


def listed_video(layout: Layout, video_id: str) -> DownloadedVideo:
    """Return a published video as `checked_video` does, or one that is on an object store only.

    That one is not copied from there before `fetch_video` is called: there may be nothing to do.

    Raises:
        VideoError: it is not downloaded, or its file was replaced.
    """
    video = downloaded_video(layout, video_id)
    if working_copy_of(video.path) is not None and not video.path.is_file():
        return video
    return checked_video(layout, video_id)


def fetch_video(video: DownloadedVideo) -> None:
    """Copy a video of an object store to this machine, if it is not here.

    Raises:
        StorageError: it cannot be had, or there is no room for it.
    """
    copy = working_copy_of(video.path)
    if copy is not None:
        copy.fetch_video(video.path, video.sha256)


@contextlib.contextmanager
def video_at_hand(path: Path, sha256: str) -> Iterator[None]:
    """Hold the file of a video while it is read; one of an object store is copied here first.

    Raises:
        StorageError: it cannot be had, or there is no room for it.
    """
    copy = working_copy_of(path)
    with contextlib.nullcontext() if copy is None else copy.at_hand(path, sha256):
        yield


def video_file(receipt: Receipt) -> FileRecord:
    """Return the record of the video itself in a "done" download receipt."""
    (record,) = (file for file in receipt.files if file.path != INFO_NAME)
    return record
