"""Reading video: metadata and frames in time order, by PyAV (which bundles FFmpeg).

Time is `pts_us`: whole microseconds from the video's first frame; intervals are half-open. The
frames of [a, b) are the same whether one reads the whole video or seeks to a: `frames` starts at a
keyframe at or before a and drops what lies before. Which frames there are, and when, is known from
the packets (`wtours.media.frame_times`): what does not come out of the decoder is counted.
"""

import contextlib
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from wtours.errors import VideoError
from wtours.media.container import (
    FORMATS,
    choose_stream,
    open_container,
    pixel_aspect_ratio,
    prepare_decoder,
)
from wtours.media.frame import Frame, Orientation, PixelConverter
from wtours.media.frame_times import frame_times
from wtours.media.metadata import VideoMetadata, describe
from wtours.media.packets import decoded, demux, scan_packets, to_us

__all__ = ["FORMATS", "Frame", "VideoMetadata", "VideoReader", "open_video"]

_US = 1_000_000
_REORDERED = 32
"""Packets within which a frame comes out of the decoder, or not at all; H.264 holds 16 at most."""


class VideoReader:
    """An open video; use it as a context manager.

    Args:
        path: The file.
        stream: Which of its streams, as ffprobe numbers them; None: the main one (`choose_stream`).
        threads: How many decode; 0: as many as there are cores. Of a damaged video, what FFmpeg
            conceals then differs from run to run: stages that publish pixels decode on one.

    Attributes:
        metadata: What is known of it.

    Raises:
        VideoError: it is missing, not a video, a playlist, HDR, or over a limit.
    """

    def __init__(self, path: Path, *, stream: int | None = None, threads: int = 0) -> None:
        self._path = path
        self._threads = threads
        self._converter = PixelConverter()
        self._shown: set[int] = set()  # ticks of the frames that came out since the last seek
        # Before the file is opened here: FFmpeg's index of hours is not held twice.
        self._times = frame_times(path, stream)
        self._unit = self._times.unit
        self._ascending = np.sort(self._times.ticks)
        if self._times.is_repaired:
            self._threads = 1
        self._open()
        try:
            first = next(self._decoded(), None)
            if first is None:
                raise VideoError(f"{path} has no frame that can be decoded; download it again")
            self._origin = first[0]
            orientation = Orientation.of(first[1])
            if orientation is None:
                raise VideoError(
                    f"{path} is rotated by {round(first[1].rotation) % 360} degrees; only "
                    f"multiples of 90 are supported: ffmpeg -display_rotation 0 -i IN -c copy "
                    f"OUT.mp4"
                )
            self._orientation = orientation
            self._rotation = first[1].rotation
            self._coded_aspect = self._stream.codec_context.sample_aspect_ratio or 1
            self._pixel_aspect = pixel_aspect_ratio(path, self._stream)
            self.metadata = describe(path, self._container, self._times, self._shown_as(first))
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def frames(
        self, start_us: int = 0, end_us: int | None = None, *, lead_us: int = 0
    ) -> Iterator[Frame]:
        """Yield the frames of [start_us, end_us) in time order.

        Args:
            start_us: Where to begin.
            end_us: None: to the end.
            lead_us: Also yield the frames of so many microseconds before start_us, unless a whole
                keyframe is at start_us exactly: decoding begins there, which may save seconds.

        Raises:
            VideoError: the file ends in the middle, or its picture changes in size or in shape.
        """
        found = self._decoded_from(start_us)
        first = next(found, None)
        lead_start_us = max(0, start_us - lead_us)
        if first is not None and self._to_us(first[0]) == start_us and not first[1].is_corrupt:
            lead_start_us = start_us
        elif first is None or self._to_us(first[0]) > lead_start_us:
            found = self._decoded_from(lead_start_us)
            first = next(found, None)
        for ticks, picture in itertools.chain([] if first is None else [first], found):
            pts_us = self._to_us(ticks)
            if end_us is not None and pts_us >= end_us:
                return
            self._check_shape(picture, pts_us)  # a keyframe before says how the others are shown
            if pts_us >= lead_start_us:
                yield self._shown_as((ticks, picture))

    def undecoded_pts_us(self, start_us: int, end_us: int) -> list[int]:
        """Return when the frames of [start_us, end_us) are that the file has but cannot show.

        Their packets do not decode. Those before the first that does belong to 0, and are
        negative. Ask after reading these frames to the end, and before others:
        the answer does not depend on where decoding began, nor on its threads.
        """
        # A tick to spare on both sides, since microseconds are rounded.
        bounds = [self._origin + int(us / _US / self._unit) for us in (start_us, end_us)]
        first, end = np.searchsorted(self._ascending, [bounds[0] - 1, bounds[1] + 2])
        first = first if start_us > 0 else 0
        hidden = (
            ticks for ticks in self._ascending[first:end].tolist() if ticks not in self._shown
        )
        return [us for us in map(self._to_us, hidden) if start_us <= us < end_us or us < 0]

    def packet_pts_us(self) -> NDArray[np.int64]:
        """Return when each frame is, those that do not decode too, ascending, int64 microseconds.

        Those before the first frame that decodes are negative.
        """
        return np.array([self._to_us(ticks) for ticks in self._ascending.tolist()], np.int64)

    def last_pts_us(self) -> int:
        """Return when the last frame is, whether it decodes or not."""
        return self._to_us(int(self._ascending[-1]))

    def keyframe_us(self, number: int) -> int:
        """Return when the keyframe is shown that is the `number`-th frame of the file."""
        return self._to_us(int(self._times.ticks[number]))

    @property
    def lost_share(self) -> float:
        """Return the share of the video that is known to be lost before any decoding."""
        return self._times.lost_share

    def _decoded_from(self, start_us: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (ticks, picture) beginning with a keyframe at or before `start_us`."""
        if self._times.is_repaired:
            self._rewind()
            yield from self._in_rank_order(self._keyframe_before(start_us))
            return
        margin_us = 0
        while True:
            seek_us = max(0, start_us - margin_us)
            self._seek(seek_us)
            frames = self._decoded()
            # Frames shown before the keyframe that a seek lands on may lack their references.
            key = next((f for f in frames if f[1].key_frame or seek_us == 0), None)
            if key is not None and (seek_us == 0 or self._to_us(key[0]) <= start_us):
                yield key
                yield from frames
                return
            if seek_us == 0:
                return
            margin_us = max(2 * margin_us, 2 * _US)

    def _seek(self, start_us: int) -> None:
        """Go to a keyframe at or before `start_us`; to the beginning where seeking fails."""
        if start_us > 0:
            offset = self._origin + int(Fraction(start_us, _US) / self._unit)
            with contextlib.suppress(av.error.FFmpegError):
                self._container.seek(offset, stream=self._stream, backward=True)
                self._shown.clear()
                return
        self._rewind()  # some containers (AVI) cannot seek back to their first frame

    def _rewind(self, *, threads: int | None = None) -> None:
        self._container.close()
        self._open(threads=threads)

    def _open(self, *, threads: int | None = None) -> None:
        self._container = open_container(self._path)
        self._stream = choose_stream(self._path, self._container, self._times.stream)
        prepare_decoder(self._path, self._stream, threads=threads or self._threads)
        self._shown.clear()

    def _decoded(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (ticks, picture), ascending, from where the container stands."""
        if self._times.is_repaired:
            yield from self._in_rank_order(0)
            return
        last: int | None = None
        for frame in self._pictures():
            if frame.pts is not None and (last is None or frame.pts > last):
                last = frame.pts
                self._shown.add(last)
                yield last, frame
        if last is None or int(self._ascending[-1]) <= last:
            return
        # An undecodable packet near the end takes with it the frames that other threads held: a
        # decoder that is being drained gives nothing after an error. One thread holds none.
        shown = set(self._shown)
        self._rewind(threads=1)
        self._shown |= shown
        with contextlib.suppress(av.error.FFmpegError):
            self._container.seek(last, stream=self._stream, backward=True)
        for frame in self._pictures():
            if frame.pts is not None and frame.pts > last:
                last = frame.pts
                self._shown.add(last)
                yield last, frame

    def _pictures(self) -> Iterator[av.VideoFrame]:
        for packet in demux(self._path, self._container, self._stream):
            yield from decoded(packet)

    def _keyframe_before(self, start_us: int) -> int:
        """Return the number of the frame where decoding begins: a keyframe, and one to spare.

        Frames that belong before a keyframe but follow it in the file may not decode where decoding
        begins with it; they are counted as lost only some packets later.
        """
        if start_us <= 0:
            return 0
        start = self._origin + start_us  # the unit is 1 us
        before = np.nonzero(self._times.keyframes & (self._times.ticks <= start))[0]
        settled = before[before <= int(before[-1]) - _REORDERED] if len(before) else before
        return int(settled[-1]) if len(settled) else 0

    def _in_rank_order(self, start: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (ticks, picture) of a repaired video from the frame of number `start` in the file.

        The k-th frame that leaves the decoder has the k-th time; one that does not come out within
        `_REORDERED` packets is lost, and keeps the time that is its own turn.
        """
        ticks = self._times.ticks.tolist()
        number, turn = -1, start
        waiting: set[int] = set()
        for packet, is_frame in scan_packets(self._path, self._container, self._stream):
            number += is_frame
            if number < start and start > 0:  # the first needs what an edit list hides before it
                continue
            if is_frame:
                waiting.add(number)
                # The decoder hands a packet's pts on to its frame: so it says which one it is.
                packet.pts = packet.dts = number
            for frame in decoded(packet):
                if frame.pts not in waiting:
                    continue
                waiting.discard(frame.pts)
                lost = {known for known in waiting if known < frame.pts - _REORDERED}
                waiting -= lost
                turn = min(turn + len(lost), len(ticks) - 1)
                self._shown.add(ticks[turn])
                yield ticks[turn], frame
                turn += 1

    def _shown_as(self, decoded: tuple[int, av.VideoFrame]) -> Frame:
        ticks, picture = decoded
        return Frame(
            picture,
            pts_us=self._to_us(ticks),
            orientation=self._orientation,
            pixel_aspect=self._pixel_aspect,
            converter=self._converter,
        )

    def _check_shape(self, picture: av.VideoFrame, pts_us: int) -> None:
        """Refuse a picture that is to be shown in another size or way than the first."""
        width, height = self.metadata.coded_size
        what, scale = "", f"scale={width}:{height}"
        if (picture.width, picture.height) != (width, height):
            what = f"changes from {width}x{height} to {picture.width}x{picture.height}"
        # The matrix is not asked of every picture: PyAV's side data hold it until the garbage is
        # collected.
        elif (
            picture.rotation not in (0, self._rotation)
            and Orientation.of(picture) != self._orientation
        ):
            what = "is turned or mirrored otherwise than before"
        # Other containers than MPEG-TS state the shape themselves, for the whole video.
        elif (
            self.metadata.container == "mpegts"
            and (self._stream.codec_context.sample_aspect_ratio or 1) != self._coded_aspect
        ):
            what = "has pixels of another shape than before"
            shown = (side // 2 * 2 for side in (self.metadata.width, self.metadata.height))
            scale = "scale={}:{},setsar=1".format(*shown)  # an encoder wants even sides
        if what:
            raise VideoError(
                f"{self._path}: the picture {what} at {pts_us / _US:.2f} s; re-encode it to one "
                f"size: ffmpeg -i IN -vf {scale} -c:v libx264 -crf 14 OUT.mp4"
            )

    def _to_us(self, ticks: int) -> int:
        return to_us(ticks - self._origin, self._unit)


open_video = VideoReader
"""As it is called where it is used: `with open_video(path) as video`."""
