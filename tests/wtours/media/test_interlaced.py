"""Interlaced and field-coded video: two fields are one frame, and a frame shows one moment."""

from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest

from tests.support.video_clips import remux, write_clip
from wtours.media.h264_fields import FieldPairing
from wtours.media.probe import probe_video
from wtours.media.reader import open_video

WHITE_BAR = (
    "color=black:size=128x64:rate=50:duration=1[b];color=white:size=16x64:rate=50[w];"
    "[b][w]overlay=x=2*n:y=0:shortest=1"
)


@pytest.fixture(scope="module")
def interlaced(tmp_path_factory) -> Path:
    """A white bar that moves by 2 pixels a field, at 25 frames and 50 fields a second."""
    return write_clip(
        tmp_path_factory.mktemp("clip") / "a.ts",
        source=WHITE_BAR,
        filters="tinterlace=mode=interleave_top",
        vcodec="mpeg2video",
        flags="+ilme+ildct",
        qscale=1,
    )


def test_a_frame_shows_the_moment_of_its_top_field(interlaced):
    with open_video(interlaced) as video:
        assert video.metadata.is_interlaced
        frames = list(video.frames())
    assert len(frames) == 25
    rgb, luma = frames[10].to_rgb(), frames[10].to_jpeg_planes()[0]
    assert rgb.shape == (64, 128, 3)
    assert luma.shape == (64, 128)
    assert frames[10].to_bgr().shape == (64, 128, 3)
    # In a comb the rows of the two fields differ by a column of white.
    for pixels in (rgb[..., 0], luma):
        steps = np.abs(np.diff(pixels[8:-8].astype(int), axis=0))
        assert steps.max() < 60
    assert frames[10].to_jpeg_planes(32)[0].shape == (32, 64)


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".mp4"])
def test_a_packet_a_field_gives_a_frame_for_two(suffix, data_dir, tmp_path):
    path = remux(data_dir / "cases/paff.mkv", tmp_path / f"a{suffix}")
    with open_video(path) as video:
        assert [frame.pts_us for frame in video.frames()] == [40_000 * n for n in range(40)]
        assert video.packet_pts_us().tolist() == [40_000 * n for n in range(40)]
    facts = probe_video(path)
    assert (facts.duration_us, facts.interlaced) == (1_600_000, True)
    assert facts.frame_rate == 25


def test_progressive_h264_has_no_second_fields(tmp_path):
    clip = write_clip(tmp_path / "a.h264", source="testsrc2=size=64x48:rate=5:duration=1", bf=2)
    pairing = FieldPairing(None)
    assert not pairing.is_second_field(clip.read_bytes())
    assert not pairing.may_have_fields


def test_macroblock_adaptive_fields_are_frames(tmp_path):
    stream = ffmpeg.input("testsrc2=size=64x64:rate=25:duration=1", format="lavfi")
    options = {"vcodec": "libx264", "x264-params": "interlaced=1", "pix_fmt": "yuv420p"}
    stream = stream.output(str(tmp_path / "a.mkv"), **options)
    ffmpeg.run(stream, cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True)
    with open_video(tmp_path / "a.mkv") as video:
        assert len(list(video.frames())) == 25 == len(video.packet_pts_us())
        assert video.metadata.is_interlaced
