"""Odd videos against the ffmpeg program: the same frames, in the same order, at the same times.

A property test makes them: containers x codecs x orders of frames x clocks x edit lists x flips.
"""

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wtours.errors import VideoError
from wtours.media.probe import probe_video
from wtours.media.reader import VideoReader, open_video

pytestmark = pytest.mark.medium  # each example runs the ffmpeg program three times

SIZE = (64, 48)
NUM_FRAMES = 40
MATRICES: tuple[tuple[str, ...], ...] = (
    (),
    *(("-display_rotation", str(degrees)) for degrees in (90, 180, 270)),
    *((f"-display_{flip}", "") for flip in ("hflip", "vflip")),
    *(("-display_rotation", str(degrees), "-display_hflip", "") for degrees in (90, 270)),
)


@dataclass(frozen=True)
class Kind:
    """How an odd video is made."""

    suffix: str
    codec: str
    b_frames: int
    clock: str
    """constant, variable, or late: it begins at 7.5 s."""
    edit: str
    """none, or start: an edit list hides the beginning."""
    matrix: tuple[str, ...]
    """Options of the ffmpeg program."""
    raw: bool
    """The times are those of decoding, as of a raw stream put into a container."""


kinds = st.builds(
    Kind,
    suffix=st.sampled_from([".mp4", ".mov", ".mkv", ".ts", ".avi"]),
    codec=st.sampled_from(["libx264", "libx264", "mpeg4", "mpeg2video", "libvpx"]),
    b_frames=st.sampled_from([0, 2]),
    clock=st.sampled_from(["constant", "variable", "late"]),
    edit=st.sampled_from(["none", "start"]),
    matrix=st.sampled_from(MATRICES),
    raw=st.sampled_from([False, False, True]),
)


def run(*arguments: str) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-y", *arguments]
    return subprocess.run([a for a in command if a], check=True, capture_output=True).stdout


def make(kind: Kind, folder: Path) -> Path:
    first, path = folder / f"first{kind.suffix}", folder / f"odd{kind.suffix}"
    source = f"testsrc2=size={SIZE[0]}x{SIZE[1]}:rate=25"
    filters = "select='lt(n,20)+not(mod(n,3))'" if kind.clock == "variable" else "null"
    encode = ["-c:v", kind.codec, "-bf", str(kind.b_frames), "-g", "10", "-pix_fmt", "yuv420p"]
    encode += ["-vf", filters, "-fps_mode", "vfr", "-frames:v", str(NUM_FRAMES), "-q:v", "2"]
    run("-f", "lavfi", "-i", source, *encode, str(first))
    copy = ["-c", "copy"]
    if kind.raw:
        copy += ["-bsf:v", "setts=pts=DTS"]
    if kind.clock == "late":
        copy += ["-output_ts_offset", "7.5"]
    seek = ["-ss", "0.3"] if kind.edit == "start" else []
    run(*kind.matrix, *seek, "-i", str(first), *copy, str(path))
    return path


def shown_by_the_program(path: Path) -> tuple[list[int], NDArray[np.uint8]]:
    """Return when the frames are in us from the first, and their luma: (n, H, W), upright."""
    read = ("-i", str(path), "-map", "0:v:0", "-fps_mode", "passthrough")
    listed = run(*read, "-copyts", "-enc_time_base", "1/1000000", "-f", "framemd5", "-").decode()
    rows = [line.split(",") for line in listed.splitlines() if not line.startswith("#")]
    times = [int(row[2]) for row in rows]
    pixels = np.frombuffer(run(*read, "-pix_fmt", "yuv420p", "-f", "rawvideo", "-"), np.uint8)
    luma = pixels.reshape(len(times), -1)[:, : SIZE[0] * SIZE[1]]
    return [time - times[0] for time in times], luma


def shown_by_us(video: VideoReader) -> tuple[list[int], NDArray[np.uint8]]:
    times, pixels = [], []
    for frame in video.frames():
        times.append(frame.pts_us)
        luma = np.asarray(frame.picture.to_ndarray())[: SIZE[1]]
        pixels.append(frame.orientation.apply(luma).ravel())
    return times, np.stack(pixels)


@settings(max_examples=40, suppress_health_check=list(HealthCheck), derandomize=True)
@given(kinds)
def test_frames_and_times_are_those_that_the_ffmpeg_program_shows(kind):
    assume(kind.codec != "libvpx" or kind.suffix == ".mkv")  # the others do not take it
    may_reorder = kind.b_frames > 0 or kind.codec == "mpeg2video"
    # An AVI has no times, and late it holds its first frame.
    is_unsaid = kind.suffix == ".avi" and kind.clock != "constant" and may_reorder
    if kind.edit == "start" and kind.suffix not in (".mp4", ".mov"):
        # Without an edit list the copy begins in the middle: in .ts with B-frames of the group
        # before, which do not decode and are counted so; raw, at times that the program guesses.
        assume(kind.codec == "libx264" or kind.suffix != ".ts")
        assume(not kind.raw or kind.suffix != ".mkv")
    with tempfile.TemporaryDirectory() as folder:
        path = make(kind, Path(folder))
        if is_unsaid:
            with pytest.raises(VideoError, match="an AVI of varying rate"):
                open_video(path)
            return
        times, pixels = shown_by_the_program(path)
        with open_video(path) as video:
            found, ours = shown_by_us(video)
            assert len(found) == len(times)
            assert np.array_equal(ours, pixels)
            assert video.packet_pts_us()[video.packet_pts_us() >= 0].tolist() == found
            assert video.undecoded_pts_us(0, 10**12) == []
            middle_us = found[len(found) // 2]
            part = [frame.pts_us for frame in video.frames(middle_us, middle_us + 200_000)]
            assert part == [us for us in found if middle_us <= us < middle_us + 200_000]
            is_repaired = video.metadata.has_repaired_times
        assert (np.diff(found) > 0).all()
        assert probe_video(path).last_pts_us == found[-1]
    if is_repaired and kind.suffix == ".avi" and kind.b_frames == 0:
        assert np.abs(np.array(found) - times).max() <= 1
    elif is_repaired:
        assert kind.b_frames > 0
        if kind.clock != "variable":
            assert found == [40_000 * number for number in range(len(found))]
        # The program guesses from the decoder's delay: a hole near the start, repeats at the end.
        assert np.abs(np.array(found) - times).max() <= 3 * 120_000
    else:
        assert np.abs(np.array(found) - times).max() <= 1
