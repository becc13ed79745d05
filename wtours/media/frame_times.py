"""When each frame of a video is shown, from a list of its packets: nothing is decoded.

What a container says of its length and rate is often wrong (sound that is longer, edit lists, a
guess from the time base), and frames may carry times that cannot be right. One pass over the file
settles both, and costs a hundredth of decoding it.

Which packets are frames, `wtours.media.packets` says. Their times are as stored, if each frame has
one and they make sense. Else they are repaired:

* a clock that starts again (recordings joined end to end), or leaps by more than 10 minutes
  without a frame (Unix time), goes on where the part before it ended;
* frames that come out of the decoder in another order than their times (a raw stream put into a
  container: each pts is its dts; AVI, which holds no pts) get the times in the decoder's order:
  the k-th frame the k-th time. FFmpeg's best-effort rule gives the same but for the first frames
  and the last, where it leaves holes and gives several frames one time;
* frames of one time get one each, a microsecond apart.
"""

import itertools
from array import array
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from wtours.errors import VideoError
from wtours.media.container import choose_stream, open_container, prepare_decoder
from wtours.media.limits import limits
from wtours.media.packets import decoded, is_zero, rounded, scan_packets

_US = 1_000_000
_NONE = np.iinfo(np.int64).min
"""Stands for a time that a packet lacks."""
_FAR = 2**60
"""Times are cut off here, so that the difference of two is an int64."""
_RESTART_SECONDS = Fraction(1, 10)
_LOST_SECONDS = 0.5
_FASTEST_CAMERA = 240
_ORDER_LOOKS, _PACKETS_PER_LOOK = 4, 48


@dataclass(frozen=True, eq=False, slots=True)
class FrameTimes:
    """The frames of a stream."""

    stream: int
    """Its index in the container."""
    unit: Fraction
    """Seconds; `ticks` count in it: the stream's time base, or 1 us where times are repaired."""
    ticks: NDArray[np.int64]
    """(n,) when each frame is shown, in the order of the file; ascending where repaired."""
    keyframes: NDArray[np.bool_]
    """(n,) in the order of the file."""
    is_repaired: bool
    """The file's times cannot be right: the k-th frame out of the decoder has the k-th time."""
    nominal_rate: Fraction
    """What FFmpeg guesses to be the usual one, unless that is a guess from the time base."""
    frame_rate: Fraction
    """The average that the container states or, where that is a guess, that of the frames."""
    last_duration_us: int
    """Of the last frame: its packet's, else the average period."""
    lost_share: float
    """Of the video: frames of zero bytes, and gaps over 0.5 s that no packet's duration covers."""


def frame_times(path: Path, stream: int | None = None) -> FrameTimes:
    """Return the frames of a video: listed once for each file and process.

    Args:
        path: The file.
        stream: Its stream, as `choose_stream` takes it.

    Raises:
        VideoError: it has no frame, or is over a limit.
    """
    facts = path.stat() if path.is_file() else None
    identity = None if facts is None else (facts.st_size, facts.st_mtime_ns, facts.st_ino)
    return _frame_times(path, stream, identity, limits())


@lru_cache(maxsize=4)
def _frame_times(path: Path, wanted: int | None, identity: object, in_force: object) -> FrameTimes:
    with open_container(path) as container:
        stream = choose_stream(path, container, wanted)
        prepare_decoder(path, stream, threads=1)
        listed = _Listed(path, container, stream)
    return listed.frame_times()


class _Listed:
    """What one pass over the packets of a stream gives."""

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream) -> None:
        pts, dts, durations, keyframes = array("q"), array("q"), array("q"), bytearray()
        self.num_zero = 0
        for packet, is_frame in scan_packets(path, container, stream):
            if is_frame:
                pts.append(_NONE if packet.pts is None else packet.pts)
                dts.append(_NONE if packet.dts is None else packet.dts)
                durations.append(packet.duration or 0)
                keyframes.append(packet.is_keyframe)
                self.num_zero += is_zero(packet)
            elif packet.size and not packet.is_discard and durations:
                durations[-1] += packet.duration or 0  # a second field
        if not pts:
            raise VideoError(f"{path} has no frame; download it again")
        assert stream.time_base is not None  # every demuxed stream has one
        self.path = path
        self.stream = stream.index
        self.unit = stream.time_base
        self.stated_rate = stream.average_rate
        self.guessed_rate = stream.guessed_rate
        self.may_reorder = bool(stream.codec_context.has_b_frames)
        self.stated_ticks = stream.duration if "mp4" in container.format.name else None
        self.is_avi = container.format.name == "avi"
        self.is_ts = container.format.name == "mpegts"
        # MP4 and AVI list every packet; here, what damage hides from the demuxer is a gap.
        self.may_have_gaps = container.format.name in ("mpegts", "matroska,webm")
        self.pts = np.frombuffer(pts, np.int64)
        self.dts = np.frombuffer(dts, np.int64)
        self.durations = np.clip(np.frombuffer(durations, np.int64), 0, _FAR)
        self.keyframes = np.frombuffer(bytes(keyframes), np.bool_)

    def frame_times(self) -> FrameTimes:
        known = np.clip(self._known(), -_FAR, _FAR)
        if not self._durations_are_stated(known):
            self.durations = np.zeros_like(self.durations)
        if self.is_avi and self.may_reorder and len(np.unique(np.diff(self.dts))) > 1:
            # Its frames lie in numbered places: of decoding, or of being shown? Programs differ.
            raise VideoError(
                f"{self.path}: an AVI of varying rate, whose codec may reorder frames, does not "
                f"say when each is shown; take the times that FFmpeg guesses: ffmpeg -i IN "
                f"-fps_mode passthrough -c:v libx264 -crf 14 OUT.mkv"
            )
        in_order = bool((np.diff(known) > 0).all())
        # AVI holds no pts: what FFmpeg makes up is frames off where the rate varies.
        is_made_up = self.is_avi and bool((self.pts != self.dts).any())
        is_repaired = (
            is_made_up
            or bool((self.pts == _NONE).any())
            or len(np.unique(known)) < len(known)
            or len(self._restarts(known)) > 0
            or bool(self._leaps(np.sort(known)).any())
            or (in_order and self.may_reorder and self._comes_in_other_order())
        )
        unit, ticks = self.unit, known
        if is_repaired:
            if self.is_avi and not (self.dts == _NONE).any():
                known = self.dts
            ticks = self._repaired(known)
            unit = Fraction(1, _US)
        first, last = int(ticks.min()), int(ticks.max())
        last_ticks = int(self.durations[known.argmax()])
        if self.stated_ticks is not None and not is_repaired:
            # With B-frames the last frame's duration may stand at another packet.
            rest = self.stated_ticks - (last - first)
            last_ticks = rest if rest > 0 and rest in self.durations else last_ticks
        rate = self._frame_rate(Fraction(last - first) * unit, last_ticks)
        period_us = round(_US / rate)
        last_us = round(last_ticks * self.unit * _US)
        if last_us == 0 or abs(last_us - period_us) <= self.unit * _US:
            last_us = period_us  # it is the period, rounded to the time base
        length_us = round((last - first) * unit * _US) + last_us
        hours = -(-length_us // (3600 * _US))
        limits().check("hours", hours, f"{self.path} lasts {hours:,} hours")
        return FrameTimes(
            stream=self.stream,
            unit=unit,
            ticks=ticks,
            keyframes=self.keyframes,
            is_repaired=is_repaired,
            nominal_rate=self._nominal_rate(rate),
            frame_rate=rate,
            last_duration_us=last_us,
            lost_share=self._lost_share(ticks, unit),
        )

    def _known(self) -> NDArray[np.int64]:
        """Return (n,) the stored times; a missing one is filled in."""
        has_pts, has_dts = self.pts != _NONE, self.dts != _NONE
        if not (has_pts | has_dts).any():
            raise VideoError(
                f"{self.path}: frames carry no timestamps; write them anew: ffmpeg -i IN "
                f"-c:v libx264 -crf 14 OUT.mp4"
            )
        both = np.nonzero(has_pts & has_dts)[0]
        if has_pts.all() or self.is_avi or len(both) == 0:
            return _filled(np.where(has_pts, self.pts, self.dts))
        # MPEG-TS may state times for some packets only, and of Matroska's FFmpeg drops those below
        # zero. Those of decoding are as many and as far apart as those of being shown: the missing
        # ones are the places that are not taken.
        places = _evenly_filled(self.dts)
        # A keyframe is shown as many frames after the first as it is decoded, or later.
        delays = self.pts[both].astype(float) - self.dts[both]
        of_keyframes = delays[self.keyframes[both]]
        places = np.sort(places) + (of_keyframes if len(of_keyframes) else delays[:1]).min()
        places = np.clip(np.rint(places), -_FAR, _FAR)
        taken = np.searchsorted((places[1:] + places[:-1]) / 2, self.pts[has_pts])
        if len(np.unique(taken)) < len(taken):
            return _filled(np.where(has_pts, self.pts, self.dts))
        times = self.pts.copy()
        times[~has_pts] = np.delete(places, taken)
        return times

    def _durations_are_stated(self, known: NDArray[np.int64]) -> bool:
        """Return whether durations are the file's, not what FFmpeg makes of a guessed rate."""
        steps = np.diff(np.unique(known))
        usual = np.median(steps) if len(steps) else 0
        return bool(self.stated_rate) and bool(2 * np.median(self.durations) > usual)

    def _restarts(self, known: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return where the clock goes back: in the order of the file a keyframe follows all before.

        Where a part begins without a keyframe, MPEG-TS shows it: its dts are stored.
        """
        least = int(_RESTART_SECONDS / self.unit)
        before = np.maximum.accumulate(known)[:-1]
        back = self.keyframes[1:] & (known[1:] < before - least)
        if self.is_ts:
            both = (self.dts[1:] != _NONE) & (self.dts[:-1] != _NONE)
            back |= both & (self.dts[1:] < self.dts[:-1] - least)
        return np.nonzero(back)[0] + 1

    def _leaps(self, ticks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (n - 1,) how many ticks to skip between ascending frames: empty time."""
        gaps = np.diff(ticks)
        # MP4 states durations in the order of decoding: a frame that is held may not have its own.
        most = int(limits().gap_seconds / self.unit) + int(self.durations.max())
        return np.where(gaps > most, gaps, 0)

    def _repaired(self, known: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (n,) microseconds, rising: part by part, each where the one before it ends."""
        bounds = [0, *self._restarts(known).tolist(), len(known)]
        parts, offset = [], 0
        for start, end in itertools.pairwise(bounds):
            order = np.argsort(known[start:end], kind="stable") + start
            ticks, durations = known[order], self.durations[order]
            steps = np.diff(ticks)
            usual = int(np.median(steps[steps > 0])) if (steps > 0).any() else 0
            leaps = self._leaps(ticks)
            shift = np.cumsum(np.where(leaps > 0, leaps - usual, 0))
            ticks = np.concatenate([ticks[:1], ticks[1:] - shift]) - ticks[0] + offset
            parts.append(ticks)
            offset = int(ticks[-1]) + (int(durations[-1]) or usual or 1)
        scale = self.unit * _US
        times = [
            rounded(tick * scale.numerator, scale.denominator)
            for tick in np.concatenate(parts).tolist()
        ]
        rising = np.array(times, np.int64) - np.arange(len(times))
        return np.maximum.accumulate(rising) + np.arange(len(times))

    def _comes_in_other_order(self) -> bool:
        """Return whether frames leave the decoder in another order than their packets' times.

        Looked at in a few places: where the times rise in the order of the file although the codec
        may reorder, either there are no B-frames, or the times are those of decoding.
        """
        (keys,) = np.nonzero(self.keyframes)
        looks = {0}
        if len(keys):
            looks |= set(keys[np.linspace(0, len(keys) - 1, _ORDER_LOOKS).astype(int)].tolist())
        with open_container(self.path) as container:
            stream = choose_stream(self.path, container, self.stream)
            prepare_decoder(self.path, stream, threads=1)
            number, left, last = -1, _PACKETS_PER_LOOK, _NONE  # what leads in to the first, too
            for packet, is_frame in scan_packets(self.path, container, stream):
                number += is_frame
                if is_frame and number in looks and number > 0:
                    stream.codec_context.flush_buffers()
                    left, last = _PACKETS_PER_LOOK, _NONE
                if left == 0:
                    if number > max(looks):
                        break
                    continue
                left -= 1
                for frame in decoded(packet):
                    if frame.pts is not None and frame.pts <= last:
                        return True
                    last = last if frame.pts is None else frame.pts
        return False

    def _frame_rate(self, span: Fraction, last_duration: int) -> Fraction:
        """Return the stated rate, unless it is a guess from the time base or counts fields."""
        stated = self.stated_rate
        length = span + last_duration * self.unit
        if len(self.pts) == 1 or not span:
            stated = stated or self.guessed_rate
            if not stated:
                raise VideoError(
                    f"{self.path} has one frame and states no frame rate; it is no video"
                )
            return Fraction(stated)
        average = len(self.pts) / length if last_duration else (len(self.pts) - 1) / span
        if stated and Fraction(2, 3) < stated / average < Fraction(3, 2):
            return Fraction(stated)
        return average

    def _nominal_rate(self, average: Fraction) -> Fraction:
        guessed = Fraction(self.guessed_rate or 0)
        is_usual = 0 < guessed <= _FASTEST_CAMERA or guessed <= 4 * average
        return guessed if guessed and is_usual else average

    def _lost_share(self, ticks: NDArray[np.int64], unit: Fraction) -> float:
        """Return the share of the video's time that is known to be lost before any decoding."""
        order = np.argsort(ticks, kind="stable")
        gaps = np.diff(ticks[order]) * float(unit)
        covered = self.durations[order][:-1] * float(self.unit)
        is_gap = self.may_have_gaps & (covered > 0) & (gaps - covered > _LOST_SECONDS)
        missing = np.where(is_gap, gaps - covered, 0).sum()
        seconds = float(gaps.sum())
        zero = self.num_zero / len(ticks)
        return zero + (1 - zero) * (float(missing) / seconds if seconds else 0.0)


def _evenly_filled(times: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the times with the missing ones evenly between those known, and beyond them."""
    (known,), numbers = np.nonzero(times != _NONE), np.arange(len(times))
    stated = times[known].astype(float)
    filled = np.interp(numbers, known, stated)
    usual = np.median(np.diff(stated) / np.diff(known)) if len(known) > 1 else 1.0
    beyond = np.minimum(numbers - known[0], 0) + np.maximum(numbers - known[-1], 0)
    places: NDArray[np.float64] = filled + usual * beyond
    return places


def _filled(times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the times with each missing one taken from the packet before it."""
    known = np.nonzero(times != _NONE)[0]
    before = np.searchsorted(known, np.arange(len(times)), side="right") - 1
    return times[known[np.maximum(before, 0)]]
