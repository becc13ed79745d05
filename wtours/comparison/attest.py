"""`attest`: are two shard sets the same frames? By bytes, then by pixels, then by eye."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wtours.comparison.perceptual_hash import image_dhash
from wtours.errors import ShardError
from wtours.progress import Progress, no_progress
from wtours.shards.images.codecs import decode_image
from wtours.shards.index import ShardIndex
from wtours.shards.schema import ShardRecord, VideoRecord, sample_key, set_sha256
from wtours.storage.hashing import sha256_file

_CHUNK = 64
"""Frames read at once from each set."""


@dataclass(slots=True)
class VideoAttestation:
    """One video of two sets; frames are paired by their pts."""

    video_id: str
    same_source: bool | None
    """Whether both were made from the same file; None: only one set has the video."""
    frames_a: int
    frames_b: int
    same_bytes: int = 0
    """Pairs whose JPEGs are equal."""
    same_pixels: int = 0
    """Pairs of other bytes that decode to the same pixels."""
    different: int = 0
    """Pairs that decode to other pixels, or to another size."""
    undecodable: int = 0
    """Pairs of other bytes of which one does not decode."""
    psnr_min_db: float | None = None
    """Of the pairs that differ and have one size; null: there is none."""
    psnr_mean_db: float | None = None
    dhash_max: int | None = None
    """Largest distance of perceptual hashes of the pairs that differ, 0 to 64."""
    first_difference: str | None = None
    """The first frame of other bytes, and the first byte that differs."""
    _psnr: list[float] = field(default_factory=list, repr=False)

    @property
    def paired(self) -> int:
        """Return how many frames both sets have."""
        return self.same_bytes + self.same_pixels + self.different + self.undecodable

    @property
    def same(self) -> bool:
        """Whether both sets have the same frames of it, byte for byte."""
        return self.frames_a == self.frames_b == self.same_bytes


@dataclass(frozen=True, slots=True)
class Attestation:
    """What two shard sets have in common."""

    set_sha256_a: str
    set_sha256_b: str
    params: dict[str, tuple[str, str]]
    """Parameters that differ, with both values."""
    videos: tuple[VideoAttestation, ...]

    @property
    def same(self) -> bool:
        """Whether every frame is in both sets with the same bytes."""
        return all(video.same for video in self.videos)

    def to_json(self) -> dict[str, Any]:
        """Return what can be written as JSON."""
        content = asdict(self)
        for video, shown in zip(self.videos, content["videos"], strict=True):
            del shown["_psnr"]
            shown |= {"paired": video.paired, "same": video.same}
        return content


def attest(a: Path | str, b: Path | str, *, on_progress: Progress = no_progress) -> Attestation:
    """Compare two shard sets frame by frame.

    Every byte of both is read: tars of one sha256 are hashed and not looked into, the others, and
    those of a set at a URL, are compared frame by frame. Only frames of other bytes are decoded.

    `on_progress` is called with the video id and the frames compared and in all.

    Raises:
        ShardError: one is not finished, or a frame cannot be read.
    """
    one, other = ShardIndex.open(a), ShardIndex.open(b)
    ids = sorted({video.video_id for index in (one, other) for video in index.videos})
    videos = tuple(_attest_video(one, other, video_id, on_progress) for video_id in ids)
    recorded = [index.dataset.params.recorded() for index in (one, other)]
    return Attestation(
        set_sha256_a=set_sha256(one.dataset.shards),
        set_sha256_b=set_sha256(other.dataset.shards),
        params={
            name: (str(recorded[0].get(name)), str(recorded[1].get(name)))
            for name in sorted({**recorded[0], **recorded[1]})
            if recorded[0].get(name) != recorded[1].get(name)
        },
        videos=videos,
    )


def _attest_video(
    one: ShardIndex, other: ShardIndex, video_id: str, on_progress: Progress
) -> VideoAttestation:
    facts = [_record(index, video_id) for index in (one, other)]
    rows = [_rows(index, video_id) for index in (one, other)]
    found = VideoAttestation(
        video_id=video_id,
        same_source=None
        if facts[0] is None or facts[1] is None
        else facts[0].source_sha256 == facts[1].source_sha256,
        frames_a=len(rows[0]),
        frames_b=len(rows[1]),
    )
    _, at_a, at_b = np.intersect1d(
        one.pts_us[rows[0]], other.pts_us[rows[1]], assume_unique=True, return_indices=True
    )
    pairs_a, pairs_b = rows[0][at_a], rows[1][at_b]
    is_equal = _of_equal_shards(one, other, video_id, pairs_a)
    found.same_bytes = int(is_equal.sum())
    pairs_a, pairs_b = pairs_a[~is_equal], pairs_b[~is_equal]
    for first in range(0, len(pairs_a), _CHUNK):
        chunk = slice(first, first + _CHUNK)
        _compare_frames(found, one, other, pairs_a[chunk].tolist(), pairs_b[chunk].tolist())
        on_progress(video_id, found.same_bytes + first, len(at_a))
    on_progress(video_id, len(at_a), len(at_a))
    if found._psnr:
        found.psnr_min_db = round(min(found._psnr), 2)
        found.psnr_mean_db = round(float(np.mean(found._psnr)), 2)
    return found


def _of_equal_shards(
    one: ShardIndex, other: ShardIndex, video_id: str, rows: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which rows of `one` lie in tars that the other set has, to the byte."""
    theirs = {shard.shard: shard for shard in other.dataset.shards}
    is_equal = np.zeros(len(rows), bool)
    shards = [shard for shard in one.dataset.shards if shard.video_id == video_id]
    first = next((v.start for v in one.videos if v.video_id == video_id), 0)
    for shard in shards:
        twin = theirs.get(shard.shard)
        if (
            twin is not None
            and twin.sha256 == shard.sha256
            and _is_as_recorded(one.directory, shard)
            and _is_as_recorded(other.directory, twin)
        ):
            is_equal |= (rows >= first) & (rows < first + shard.frames)
        first += shard.frames
    return is_equal


def _is_as_recorded(directory: Path | str, shard: ShardRecord) -> bool:
    if isinstance(directory, str):
        return False  # on an object store: frame by frame, by what is read
    path = directory / f"{shard.shard}.tar"
    try:
        return sha256_file(path) == shard.sha256
    except OSError as error:
        raise ShardError(f"{path} cannot be read ({error.strerror})") from error


def _compare_frames(
    found: VideoAttestation,
    one: ShardIndex,
    other: ShardIndex,
    rows_a: list[int],
    rows_b: list[int],
) -> None:
    """Count pairs of frames as equal, of equal pixels, or different, and by how much."""
    jpegs = zip(one.read_jpegs(rows_a), other.read_jpegs(rows_b), strict=True)
    for row, (jpeg_a, jpeg_b) in zip(rows_a, jpegs, strict=True):
        if jpeg_a == jpeg_b:
            found.same_bytes += 1
            continue
        frame = one.frame(row)
        key = sample_key(frame.video_id, frame.frame_index)
        if found.first_difference is None:
            found.first_difference = (
                f"{key}{one.dataset.params.suffix} from byte "
                f"{_first_other_byte(jpeg_a, jpeg_b)} on ({len(jpeg_a)} and {len(jpeg_b)} bytes)"
            )
        try:
            pixels = [decode_image(jpeg) for jpeg in (jpeg_a, jpeg_b)]
            hashes = [image_dhash(jpeg, key) for jpeg in (jpeg_a, jpeg_b)]
        except (ValueError, ShardError):
            found.undecodable += 1
            continue
        if np.array_equal(pixels[0], pixels[1]):
            found.same_pixels += 1
            continue
        found.different += 1
        if pixels[0].shape == pixels[1].shape:
            error = np.square(pixels[0].astype(np.float32) - pixels[1]).mean()
            found._psnr.append(float(10 * np.log10(255**2 / error)))
        if hashes[0] is not None and hashes[1] is not None:
            found.dhash_max = max((hashes[0] ^ hashes[1]).bit_count(), found.dhash_max or 0)


def _first_other_byte(a: bytes, b: bytes) -> int:
    size = min(len(a), len(b))
    other = np.flatnonzero(np.frombuffer(a, np.uint8)[:size] != np.frombuffer(b, np.uint8)[:size])
    return int(other[0]) if len(other) else size


def _record(index: ShardIndex, video_id: str) -> VideoRecord | None:
    return next((v for v in index.dataset.videos if v.video_id == video_id), None)


def _rows(index: ShardIndex, video_id: str) -> NDArray[np.int64]:
    video = next((v for v in index.videos if v.video_id == video_id), None)
    return np.arange(0 if video is None else video.start, 0 if video is None else video.stop)
