"""What frames cost as JPEG, without a loss, and as segments of H.264 or AV1: bytes, time, quality.

    python -m benchmarks.shards.codecs [VIDEO]    prints the table; without VIDEO of a rendered walk

CPU time of one core. A clip is 4 frames half a second apart, from a place drawn at random: of
images each is decoded by itself, of a segment everything from the keyframe before it.
"""

import io
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from numpy.typing import NDArray

from benchmarks.shards.sources import SOURCES, source_video
from wtours.media.frame import YuvPlanes, plane_pixels
from wtours.media.image import encode_planes, frame_of, rgb_of
from wtours.media.reader import open_video
from wtours.shards.images.codecs import Codec, decode_image

MAX_RATE, SHORT_SIDE, SECONDS = 30, 512, 8
T = TypeVar("T")
_US = 1_000_000
_CLIP_FRAMES, _CLIPS = 4, 12
_IMAGES: tuple[tuple[str, Codec, int], ...] = (
    ("JPEG 90", "jpeg", 90),
    ("JPEG 95", "jpeg", 95),
    ("JPEG 100", "jpeg", 100),
    ("WebP lossless", "webp-lossless", 90),
    ("PNG", "png", 90),
)
_SEGMENTS = (
    # name, codec, CRF, preset, keyframes a second (None: every frame)
    ("H.264, CRF 18", "libx264", 18, "medium", 1),
    ("H.264, CRF 23", "libx264", 23, "medium", 1),
    ("H.264, CRF 18, every frame a keyframe", "libx264", 18, "medium", None),
    ("AV1, CRF 20", "libsvtav1", 20, "8", 1),
    ("AV1, CRF 35", "libsvtav1", 35, "8", 1),
)
COLUMNS = ("", "kB a frame", "encode, ms a frame", "clip of 4, ms", "PSNR, dB")


@dataclass(frozen=True, slots=True)
class CodecCost:
    """One row of the table."""

    name: str
    kilobytes: float
    """Of a frame."""
    encode_ms: float
    """CPU time of a frame."""
    clip_ms: float
    psnr_db: float
    """Of RGB beside the reduced frame; infinite: without a loss."""


def measure(video: Path) -> list[CodecCost]:
    """Return a row for each way to keep the frames of a video's first seconds."""
    frames, rate = _frames(video)
    draws, interval = random.Random(0), rate // 2
    last = len(frames) - (_CLIP_FRAMES - 1) * interval
    clips = [
        [start + number * interval for number in range(_CLIP_FRAMES)]
        for start in (draws.randrange(last) for _ in range(_CLIPS))
    ]
    images = [_of_images(frames, clips, *way) for way in _IMAGES]
    for name, codec, crf, preset, keyframes in _SEGMENTS:
        options = {"crf": str(crf), "preset": preset, "g": str(rate if keyframes else 1)}
        images.append(_of_segment(frames, clips, name, codec, options, rate=rate))
    return images


def _frames(video: Path) -> tuple[list[YuvPlanes], int]:
    """Return the reduced frames of the first seconds, and how many are a second."""
    planes: list[YuvPlanes] = []
    with open_video(video) as reader:
        rate = min(MAX_RATE, round(reader.metadata.frame_rate))
        due_us = 0.0
        for frame in reader.frames(0, SECONDS * _US):
            if frame.pts_us >= due_us:
                y, cb, cr = frame.to_jpeg_planes(SHORT_SIDE)
                planes.append((y.copy(), cb.copy(), cr.copy()))
                due_us += _US / rate
    return planes, rate


def _of_images(
    frames: Sequence[YuvPlanes], clips: Sequence[Sequence[int]], name: str, codec: Codec, q: int
) -> CodecCost:
    encoded, spent = _timed(lambda: [encode_planes(f, quality=q, codec=codec) for f in frames])
    _, decoding = _timed(lambda: [[decode_image(encoded[n]) for n in clip] for clip in clips])
    pairs = ((decode_image(encoded[n]), rgb_of(frames[n])) for n in {n for c in clips for n in c})
    return CodecCost(
        name,
        sum(map(len, encoded)) / len(frames) / 1e3,
        spent / len(frames) * 1e3,
        decoding / len(clips) * 1e3,
        _psnr(pairs),
    )


def _of_segment(
    frames: Sequence[YuvPlanes],
    clips: Sequence[Sequence[int]],
    name: str,
    codec: str,
    options: dict[str, str],
    *,
    rate: int,
) -> CodecCost:
    data, spent = _timed(lambda: _encoded(frames, codec, options, rate))
    _, decoding = _timed(lambda: [_clip_of(data, clip, rate) for clip in clips])
    pairs = (
        (pixels, rgb_of(frames[n]))
        for clip in clips
        for n, pixels in zip(clip, _clip_of(data, clip, rate), strict=True)
    )
    return CodecCost(
        name,
        len(data) / len(frames) / 1e3,
        spent / len(frames) * 1e3,
        decoding / len(clips) * 1e3,
        _psnr(pairs),
    )


def _encoded(frames: Sequence[YuvPlanes], codec: str, options: dict[str, str], rate: int) -> bytes:
    buffer = io.BytesIO()
    height, width = (side - side % 2 for side in frames[0][0].shape)
    opened: Any = av.open(buffer, "w", format="mp4")
    with opened as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.color_range = 2  # of JPEG
        stream.codec_context.thread_count = 1
        for number, (luma, *chroma) in enumerate(frames):
            cb, cr = (plane[: height // 2, : width // 2] for plane in chroma)
            frame = frame_of((luma[:height, :width], cb, cr))
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _clip_of(data: bytes, clip: Sequence[int], rate: int) -> list[NDArray[np.uint8]]:
    """Return the frames of a clip as RGB: for each the nearest keyframe before it is sought."""
    found = []
    opened: Any = av.open(io.BytesIO(data))
    with opened as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number in clip:
            wanted = round(Fraction(number, rate) / stream.time_base)
            container.seek(wanted, stream=stream)
            for frame in container.decode(stream):
                if frame.pts is not None and frame.pts >= wanted:
                    luma, cb, cr = map(plane_pixels, frame.planes)
                    found.append(rgb_of((luma, cb, cr)))
                    break
    return found


def _psnr(pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> float:
    errors = []
    for ours, exact in pairs:
        height, width, _ = ours.shape
        errors.append(np.square(ours.astype(np.float32) - exact[:height, :width]).mean())
    mean = float(np.mean(errors))
    return float("inf") if mean == 0 else 10 * float(np.log10(255**2 / mean))


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    begun = time.process_time()
    result = work()
    return result, time.process_time() - begun


def main() -> None:
    """Print the table as Markdown."""
    video = Path(sys.argv[1]) if len(sys.argv) > 1 else source_video(SOURCES[1], SECONDS)
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for row in measure(video):
        print(
            f"| {row.name} | {row.kilobytes:.1f} | {row.encode_ms:.1f} | {row.clip_ms:.1f} | "
            f"{row.psnr_db:.1f} |"
        )


if __name__ == "__main__":
    main()
