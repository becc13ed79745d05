"""What a file may ask for is bounded, and what mends a refused file does mend it."""

import resource
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.video_clips import mended, remux, write_clip
from wtours.errors import UsageError, VideoError
from wtours.media.limits import limits
from wtours.media.probe import probe_video
from wtours.media.reader import open_video

pytestmark = pytest.mark.medium  # runs the ffmpeg program


def test_a_size_that_changes_is_mended_by_the_command_of_the_refusal(data_dir, tmp_path):
    path = tmp_path / "a.ts"
    path.write_bytes((data_dir / "cases/size_change.ts").read_bytes())
    with pytest.raises(VideoError, match="changes from 160x120") as caught:
        probe_video(path)
    facts = probe_video(mended(str(caught.value), path, "b.mp4"))
    assert (facts.width, facts.height, facts.duration_us) == (160, 120, 4_000_000)


def test_hdr_is_mended_by_the_command_of_the_refusal(tmp_path):
    path = write_clip(
        tmp_path / "hdr.mp4",
        source="testsrc2=size=64x48:rate=5:duration=1",
        filters="setparams=color_trc=smpte2084:color_primaries=bt2020:colorspace=bt2020nc",
        pix_fmt="yuv420p10le",
    )
    with pytest.raises(VideoError, match="HDR") as caught:
        probe_video(path)
    assert probe_video(mended(str(caught.value), path, "b.mp4")).duration_us == 1_000_000


def test_a_large_picture_is_mended_by_the_command_of_the_refusal(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4", source="testsrc2=size=2560x2400:rate=5:duration=0.4")
    monkeypatch.setenv("WTOURS_MAX_PIXELS", "6000000")
    with pytest.raises(VideoError, match=r"2560x2400.*set WTOURS_MAX_PIXELS=6144000") as caught:
        probe_video(path)
    command = str(caught.value)
    facts = probe_video(mended(command[: command.index("OUT.mp4") + 7], path, "b.mp4"))
    assert facts.height == 2160
    monkeypatch.setenv("WTOURS_MAX_PIXELS", "6144000")
    assert probe_video(path).height == 2400


@pytest.mark.parametrize(("codec", "b_frames"), [("mpeg2video", 0), ("mpeg4", 2)])
def test_an_avi_that_does_not_say_when_is_mended_by_the_command(tmp_path, codec, b_frames):
    path = write_clip(
        tmp_path / "a.avi",
        source="testsrc2=size=64x48:rate=25:duration=4",
        filters="select='lt(n,50)+not(mod(n,3))'",
        fps_mode="vfr",
        vcodec=codec,
        bf=b_frames,
    )
    with pytest.raises(VideoError, match="an AVI of varying rate") as caught:
        probe_video(path)
    with open_video(mended(str(caught.value), path, "b.mkv")) as video:
        assert len(list(video.frames())) == 50 + 17
        assert video.last_pts_us() == pytest.approx(99 / 25 * 1e6, abs=3 * 120_000)


def test_a_picture_that_grows_in_mid_stream_is_never_allocated(tmp_path, monkeypatch):
    path = tmp_path / "a.ts"
    for size in ("160x120", "1280x960"):
        part = write_clip(tmp_path / "part.ts", source=f"testsrc2=size={size}:rate=5:duration=2")
        path.write_bytes((path.read_bytes() if path.exists() else b"") + part.read_bytes())
    monkeypatch.setenv("WTOURS_MAX_PIXELS", "20000")
    with open_video(path, threads=1) as video:
        assert {frame.size for frame in video.frames()} == {(160, 120)}
        assert len(video.undecoded_pts_us(0, 10**9)) == 10


def test_pixels_that_cannot_be_are_refused_with_the_command_that_mends_them(tmp_path):
    path = write_clip(
        tmp_path / "a.mp4", source="testsrc2=size=64x48:rate=5:duration=1", filters="setsar=1/9"
    )
    with pytest.raises(VideoError, match="pixels of 1:9") as caught:
        probe_video(path)
    assert probe_video(mended(str(caught.value), path, "b.mp4")).width == 64


def samples_bomb(path: Path, declared: int) -> Path:
    """Write an MP4 of less than 2 kB whose sample table declares so many samples of one size."""
    clip = write_clip(path, source="testsrc2=size=64x48:rate=5:duration=1", movflags="faststart")
    data = bytearray(clip.read_bytes())
    for kind, value in ((b"stsz", (1, declared)), (b"stts", (1, declared, 1))):
        place = data.index(kind) + 8
        data[place : place + 4 * len(value)] = struct.pack(f">{len(value)}I", *value)
    path.write_bytes(data)
    return path


def test_a_table_that_declares_60_million_samples_is_refused_before_it_is_made(tmp_path):
    path = samples_bomb(tmp_path / "bomb.mp4", 60_000_000)
    code = (
        "import re, sys; from pathlib import Path\n"
        "from wtours.media.probe import probe_video\n"
        "try: probe_video(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        # ru_maxrss would be that of the process that started this one.
        "print(re.search('VmHWM:\\s*([0-9]+)', Path('/proc/self/status').read_text())[1])\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True
    )
    problem, peak = found.stdout.splitlines()
    assert problem.startswith("VideoError")
    assert "60,000,000 samples" in problem
    assert int(peak) * 1024 < 512 * 2**20


def test_a_clock_that_leaps_costs_no_time_and_little_memory(data_dir):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    facts = probe_video(data_dir / "cases/epoch.mkv")
    assert facts.duration_us == 6_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_a_gap_of_real_time_stays_and_its_limit_can_be_set(tmp_path, monkeypatch):
    path = write_clip(
        tmp_path / "a.mp4", source="testsrc2=size=64x48:rate=1:duration=4", **{"bsf:v": LEAP}
    )
    path = remux(path, tmp_path / "b.ts")  # an MP4's frame would be held so long
    with pytest.raises(VideoError, match=r"99\.0% of it is lost .* --max-loss 1\.00"):
        probe_video(path)
    assert probe_video(path, max_loss=1).last_pts_us == 303_000_000
    monkeypatch.setenv("WTOURS_MAX_GAP_SECONDS", "60")
    assert probe_video(path).last_pts_us == 3_000_000
    monkeypatch.delenv("WTOURS_MAX_GAP_SECONDS")
    monkeypatch.setenv("WTOURS_MAX_PACKETS", "3")
    with pytest.raises(VideoError, match="more than 3 packets; if that is right, set WTOURS_MAX_"):
        probe_video(path)


LEAP = "setts=ts=if(gte(N\\,2)\\,TS+300/TB\\,TS)"


@pytest.mark.parametrize("text", ["", "0", "-1", "many", "1.5", "9" * 20])
def test_a_limit_that_is_no_number_is_refused(text, monkeypatch):
    monkeypatch.setenv("WTOURS_MAX_HOURS", text)
    with pytest.raises(UsageError, match="WTOURS_MAX_HOURS"):
        limits()
