"""Recordings joined byte for byte, pictures that change their way in mid-stream, and cover art that
is not marked: nothing is lost, turned or squeezed without a word."""

from typing import Any

import av
import ffmpeg
import imageio_ffmpeg
import pytest

from tests.support.video_clips import mended, remux, write_clip
from wtours.errors import VideoError
from wtours.media.probe import probe_video
from wtours.media.reader import open_video

pytestmark = pytest.mark.medium  # runs the ffmpeg program
SOURCE = "testsrc2=size=64x48:rate=25:duration=2"
TURNED = "display_orientation=insert:rotate=180"
SQUEEZED = "sample_aspect_ratio=4/3"


@pytest.mark.parametrize(
    "movflags", ["+use_metadata_tags", "faststart", "frag_keyframe+empty_moov"]
)
def test_of_two_mp4_in_one_file_the_second_is_not_lost_in_silence(tmp_path, movflags):
    one = write_clip(tmp_path / "one.mp4", source=SOURCE, movflags=movflags)
    two = tmp_path / "two.mp4"
    two.write_bytes(one.read_bytes() * 2)
    assert probe_video(one).duration_us == 2_000_000
    with pytest.raises(VideoError, match="two recordings, one behind the other"):
        probe_video(two)


@pytest.mark.parametrize("suffix", [".ts", ".mkv", ".avi"])
def test_two_recordings_of_other_containers_are_read_whole(tmp_path, suffix):
    one = write_clip(tmp_path / f"one{suffix}", source=SOURCE, bf=0)
    two = tmp_path / f"two{suffix}"
    two.write_bytes(one.read_bytes() * 2)
    with open_video(two) as video:
        assert [frame.pts_us for frame in video.frames()] == list(range(0, 4_000_000, 40_000))


@pytest.mark.parametrize("b_frames", [0, 2])
def test_times_below_zero_in_matroska_are_a_period_apart(tmp_path, b_frames):
    clip = write_clip(tmp_path / "a.mp4", source=SOURCE, bf=b_frames)
    early = {"output_ts_offset": -1.5, "avoid_negative_ts": "disabled"}
    with open_video(remux(clip, tmp_path / "a.mkv", **early)) as video:
        times = [frame.pts_us for frame in video.frames()]
    assert times == [40_000 * number for number in range(50)]


def test_packets_that_state_no_time_get_the_place_that_is_left(tmp_path):
    mp4 = write_clip(tmp_path / "a.mp4", source=SOURCE, g=10, bf=2)
    # The program makes one packet for MPEG-TS of the keyframe and the one behind it.
    ts = remux(mp4, tmp_path / "a.ts", **{"bsf:v": f"h264_metadata={TURNED}"})
    with av.open(str(ts)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert 0 < sum(packet.pts is None for packet in packets) < 10
    with open_video(ts) as video:
        assert [frame.pts_us for frame in video.frames()] == list(range(0, 2_000_000, 40_000))


@pytest.mark.parametrize(
    ("change", "problem"), [(TURNED, "is turned or mirrored"), (SQUEEZED, "has pixels of another")]
)
def test_a_picture_that_is_to_be_shown_otherwise_from_a_place_on_is_refused(
    tmp_path, change, problem
):
    plain = write_clip(tmp_path / "plain.ts", source=SOURCE, g=25, bf=0)
    other = remux(plain, tmp_path / "other.ts", **{"bsf:v": f"h264_metadata={change}"})
    later = remux(other, tmp_path / "later.ts", output_ts_offset=2)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(plain.read_bytes() + later.read_bytes())
    assert probe_video(plain).duration_us == probe_video(other).duration_us
    with pytest.raises(VideoError, match=rf"{problem}.* at 2\.00 s.*ffmpeg -i IN") as caught:
        probe_video(joined)
    facts = probe_video(mended(str(caught.value), joined, "mended.mp4"))
    assert facts.duration_us == 4_000_000


@pytest.mark.parametrize(("suffix", "default"), [(".mp4", "0"), (".mkv", "default")])
def test_a_cover_that_is_marked_as_none_is_not_taken_for_the_film(tmp_path, suffix, default):
    film = write_clip(tmp_path / "film.mp4", source=SOURCE)
    large = "testsrc2=size=640x480:rate=25"
    one: dict[str, Any] = {"frames:v": 1, "vcodec": "mjpeg", "pix_fmt": "yuvj420p"}
    cover = write_clip(tmp_path / "cover.jpg", source=large, **one)
    path = tmp_path / f"both{suffix}"
    marks = {"disposition:v:0": default, "disposition:v:1": "0"}
    output = ffmpeg.output(
        ffmpeg.input(str(cover)), ffmpeg.input(str(film)), str(path), c="copy", **marks
    )
    ffmpeg.run(output, cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True)
    facts = probe_video(path)
    assert (facts.width, facts.height, facts.duration_us) == (64, 48, 2_000_000)
    assert facts.video_streams == 2
    motion_jpeg = write_clip(tmp_path / "a.avi", source=SOURCE, vcodec="mjpeg", pix_fmt="yuvj420p")
    assert probe_video(motion_jpeg).duration_us == 2_000_000
