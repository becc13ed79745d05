import subprocess
from fractions import Fraction
from pathlib import Path

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest

from tests.support.video_clips import remux, write_clip
from wtours.errors import VideoError
from wtours.media.probe import probe_video
from wtours.media.reader import open_video


def pts_listed_by_the_demuxer(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        pts = sorted(p.pts for p in container.demux(stream) if p.pts is not None)
        return [round((p - pts[0]) * stream.time_base * 1_000_000) for p in pts]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", bf=2)


def test_frames_have_the_times_that_the_container_lists(clip):
    with open_video(clip) as video:
        frames = list(video.frames())
        assert [f.pts_us for f in frames] == pts_listed_by_the_demuxer(clip)
        assert video.packet_pts_us().tolist() == [f.pts_us for f in frames]
        assert video.last_pts_us() == frames[-1].pts_us
        assert not any(f.is_corrupt for f in frames)
        assert video.metadata.frame_rate == Fraction(30)
        assert (video.metadata.width, video.metadata.height) == (160, 120)
        assert video.metadata.codec == "h264"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi"])
@pytest.mark.parametrize("g", [1, 7, 250])
def test_an_interval_gives_the_same_frames_as_the_whole_video(tmp_path, suffix, g):
    original = write_clip(
        tmp_path / "a.mp4",
        source="testsrc2=size=64x48:rate=25:duration=3",
        g=g,
        bf=0 if suffix == ".avi" else 2,
        **{"x264-params": "open-gop=1"},
    )
    path = original if suffix == ".mp4" else remux(original, tmp_path / f"b{suffix}")
    with open_video(path) as video:
        whole = [(f.pts_us, f.to_rgb()) for f in video.frames()]
        assert len(whole) == 75
        for start_us, end_us in [(0, 400_000), (1_000_000, 2_000_000), (1_999_999, 2_000_001)]:
            part = [(f.pts_us, f.to_rgb()) for f in video.frames(start_us, end_us)]
            expected = [(p, rgb) for p, rgb in whole if start_us <= p < end_us]
            assert [p for p, _ in part] == [p for p, _ in expected]
            assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(part, expected, strict=True))


def test_b_frames_in_avi_get_times_in_the_decoders_order(tmp_path):
    source = "testsrc2=size=64x48:rate=25:duration=2"
    h264 = write_clip(tmp_path / "h264.mp4", source=source, bf=2)
    timeless = remux(h264, tmp_path / "h264.avi")  # AVI holds no times of frames out of order
    mpeg4 = write_clip(tmp_path / "mpeg4.avi", source=source, vcodec="mpeg4", bf=2)
    for path in (h264, timeless, mpeg4):
        assert read_whole(path) == [40_000 * number for number in range(50)]
    facts = probe_video(timeless)
    assert facts.repaired_times
    assert (facts.frame_rate, facts.duration_us) == (Fraction(25), 2_000_000)
    with open_video(h264) as stored, open_video(timeless) as repaired:
        for a, b in zip(stored.frames(), repaired.frames(), strict=True):
            assert np.array_equal(a.to_rgb(), b.to_rgb())
        assert [f.pts_us for f in repaired.frames(1_000_000, 1_100_000)] == [
            1_000_000,
            1_040_000,
            1_080_000,
        ]


def read_whole(path: Path) -> list[int]:
    with open_video(path) as video:
        return [frame.pts_us for frame in video.frames()]


def test_variable_frame_rate_keeps_the_real_times(tmp_path):
    path = write_clip(
        tmp_path / "vfr.mp4",
        source="testsrc2=size=64x48:rate=30:duration=2",
        filters="select='lt(n,20)+not(mod(n,5))'",
        fps_mode="vfr",
    )
    with open_video(path) as video:
        pts = [f.pts_us for f in video.frames()]
    steps = {round(step / 33_333) for step in np.diff(pts)}
    assert steps == {1, 5}
    assert pts == pts_listed_by_the_demuxer(path)


def test_time_begins_at_the_first_frame_even_when_the_file_begins_late(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", source="testsrc2=size=64x48:rate=30:duration=1")
    late = remux(clip, tmp_path / "late.ts", output_ts_offset=7.5)
    with av.open(str(late)) as container:
        start = container.streams.video[0].start_time
        time_base = container.streams.video[0].time_base
        assert start is not None
        assert time_base is not None
        assert start * time_base > 7
    with open_video(late) as video:
        pts = [f.pts_us for f in video.frames()]
    assert pts[0] == 0
    assert len(pts) == 30


@pytest.mark.parametrize(
    ("suffix", "start_seconds"), [(".ts", 90_000), (".ts", 2**33 / 90_000 - 2), (".mp4", 5)]
)
def test_neither_a_late_clock_nor_one_that_wraps_nor_sound_before_it_moves_a_frame(
    clip, tmp_path, suffix, start_seconds
):
    path = tmp_path / f"late{suffix}"
    sound = ("-f", "lavfi", "-i", "sine=duration=6", "-itsoffset", "1.5", "-i", str(clip))
    copied = ("-map", "0", "-map", "1", "-c:v", "copy", "-output_ts_offset", str(start_seconds))
    program = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([program, "-v", "error", *sound, *copied, str(path)], check=True)
    with open_video(clip) as plain, open_video(path) as late:
        expected = [(frame.pts_us, frame.to_rgb(16).tobytes()) for frame in plain.frames()]
        found = [(frame.pts_us, frame.to_rgb(16).tobytes()) for frame in late.frames()]
        assert found == expected
        middle_us = expected[70][0]
        part = [frame.pts_us for frame in late.frames(middle_us, middle_us + 200_000)]
    assert part == [pts for pts, _ in expected if middle_us <= pts < middle_us + 200_000]


def test_rotation_is_applied_once(tmp_path):
    # The upper left quarter is white; a display matrix then asks to turn the picture by 90 degrees.
    source = "color=black:size=64x32:rate=5:duration=1,drawbox=0:0:32:16:white:fill"
    clip = write_clip(tmp_path / "a.mp4", source=source)
    turned = tmp_path / "turned.mp4"
    stream = ffmpeg.input(str(clip), display_rotation=90).output(str(turned), c="copy")
    ffmpeg.run(stream, cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True)
    upright = tmp_path / "upright.mp4"  # FFmpeg itself turns the picture when it re-encodes
    ffmpeg.run(
        ffmpeg.input(str(turned)).output(str(upright), vcodec="libx264", pix_fmt="yuv420p"),
        cmd=imageio_ffmpeg.get_ffmpeg_exe(),
        quiet=True,
    )
    with open_video(turned) as ours, open_video(upright) as theirs:
        assert ours.metadata.rotation == 90
        assert theirs.metadata.rotation == 0
        assert (ours.metadata.width, ours.metadata.height) == (32, 64)
        mine, reference = next(ours.frames()).to_rgb(), next(theirs.frames()).to_rgb()
    assert mine.shape == reference.shape == (64, 32, 3)
    assert np.abs(mine.astype(int) - reference).mean() < 3


def test_frames_are_reduced_by_the_short_side_and_never_enlarged(clip):
    with open_video(clip) as video:
        frame = next(video.frames())
        assert frame.to_rgb(short_side=60).shape == (60, 80, 3)
        assert frame.to_rgb(short_side=500).shape == (120, 160, 3)
        assert np.array_equal(frame.to_bgr()[..., ::-1], frame.to_rgb())


def test_a_file_cut_in_half_shows_in_its_last_pts(clip, tmp_path):
    faststart = remux(clip, tmp_path / "fast.mp4", movflags="+faststart")
    data = faststart.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) // 2])
    with open_video(faststart) as video:
        whole = {f.pts_us for f in video.frames()}
    with open_video(cut) as video:
        seen = {f.pts_us for f in video.frames()}
        assert video.metadata.duration_us_from_header == 4_000_000
        assert video.last_pts_us() < 3_000_000
    assert seen < whole


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.mp4", b"this is not a video\n" * 100),
        ("empty.mp4", b""),
        ("page.mp4", b"<!doctype html><title>503</title>" * 20),
        ("hls.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nclip.mp4\n#EXT-X-ENDLIST\n"),
        ("concat.mp4", b"ffconcat version 1.0\nfile clip.mp4\n"),
    ],
)
def test_what_is_no_video_is_refused_in_one_line_that_names_it(tmp_path, clip, name, content):
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(VideoError, match=name) as caught, open_video(path):
        pass
    assert "\n" not in str(caught.value)


def test_hdr_is_refused_with_the_command_that_converts_it(tmp_path):
    path = write_clip(
        tmp_path / "hdr.mp4",
        source="testsrc2=size=64x48:rate=5:duration=1",
        filters="setparams=color_trc=smpte2084:color_primaries=bt2020:colorspace=bt2020nc",
        pix_fmt="yuv420p10le",
    )
    with pytest.raises(VideoError, match=r"HDR \(PQ.*tonemap"), open_video(path):
        pass


@pytest.mark.parametrize(("compatible", "is_refused"), [(0, True), (1, False), (2, False)])
def test_dolby_vision_that_nothing_else_shows_is_refused(tmp_path, compatible, is_refused):
    path = write_clip(tmp_path / "phone.mp4", source="testsrc2=size=64x48:rate=25:duration=1")
    data = path.read_bytes()
    at = data.index(b"btrt")  # a box that says nothing needed, in the place of the configuration's
    profile_5_level_6 = (5 << 9 | 6 << 3 | 0b101).to_bytes(2, "big")
    record = b"dvcC\x01\x00" + profile_5_level_6 + bytes([compatible << 4]) + bytes(7)
    path.write_bytes(data[:at] + record + data[at + len(record) :])
    if is_refused:
        with pytest.raises(
            VideoError, match=r"phone.mp4 is Dolby Vision without .* -vf libplacebo"
        ):
            open_video(path)
    else:
        with open_video(path) as video:
            assert len(list(video.frames())) == 25


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(VideoError, match=r"absent\.mp4 is not a file"):
        open_video(tmp_path / "absent.mp4").__enter__()
