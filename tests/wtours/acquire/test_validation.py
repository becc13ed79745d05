"""That a fetched file is the whole, right video: still ends, cuts, what the manifest expects."""

from pathlib import Path

import pytest

from tests.support.video_clips import remux, write_clip
from wtours.acquire.local_files import Fetched
from wtours.acquire.validation import check_frozen_tail, validate
from wtours.errors import ManifestError, VideoError
from wtours.media.probe import probe_video
from wtours.workspace.manifest import VideoEntry, load_manifest

MOVING = "testsrc2=size=64x48:rate=5"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


def still_after(path: Path, seconds: float, total: float, kind: str) -> Path:
    """Write a video of `total` s that moves for `seconds` s and then shows one picture."""
    mode = "clone" if kind == "frozen" else "add:color=black"
    pad = f"tpad=stop_mode={mode}:stop_duration={total - seconds}"
    return write_clip(path, source=f"{MOVING}:duration={seconds}", filters=pad, g=10)


@pytest.mark.parametrize("kind", ["frozen", "blank"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_still_end_is_found_where_it_begins(kind, suffix, tmp_path):
    path = still_after(tmp_path / f"x{suffix}", 40, 120, kind)
    with pytest.raises(VideoError, match=f"its picture is {kind} from (39|40|41) s on, of 120 s"):
        check_frozen_tail(path, probe_video(path).last_pts_us)


def test_a_still_end_is_refused_with_its_times(tmp_path):
    (tmp_path / "work").mkdir()
    path = still_after(tmp_path / "work" / "x.mp4", 40, 120, "frozen")
    entry = VideoEntry(id="walk", title="A walk", sources=("file:x.mp4",))
    with pytest.raises(VideoError, match=r"frozen from (39|40|41) s on, of 120 s"):
        validate(entry, "file:x.mp4", Fetched(path=path))
    assert not path.exists()


def test_an_end_card_is_no_still_end(tmp_path):
    path = still_after(tmp_path / "x.mp4", 60, 85, "blank")
    check_frozen_tail(path, probe_video(path).last_pts_us)


def test_real_videos_have_no_still_end(data_dir):
    for path in sorted((data_dir / "videos").iterdir()):
        if path.suffix in (".mp4", ".mkv", ".webm"):
            check_frozen_tail(path, probe_video(path).last_pts_us)


def test_an_mp4_that_lacks_its_very_last_bytes_is_found(clip, tmp_path):
    remux(clip, whole := tmp_path / "whole.mp4", movflags="faststart")
    probe_video(whole)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[:-10])
    with pytest.raises(VideoError, match="1 of the 120 frames in its index lie beyond its end"):
        probe_video(cut)


@pytest.mark.parametrize(
    ("expected", "problem"),
    [
        ({"frame_rate": "30"}, None),
        ({"frame_rate": "30000/1001"}, None),
        ({"frame_rate": "60"}, "it has 30.00 frames/s, the manifest expects 60.00"),
        ({"frame_rate": "25/1"}, "it has 30.00 frames/s, the manifest expects 25.00"),
        ({"resolution": (160, 120)}, None),
        ({"resolution": (640, 480)}, None),
        ({"resolution": (1280, 720)}, "its picture is 160x120, the manifest expects 1280x720"),
        ({"resolution": (80, 60)}, "its picture is 160x120, the manifest expects 80x60"),
        ({"duration_seconds": 5.5}, None),
        ({"duration_seconds": 6.5}, "it lasts 4.0 s, the manifest expects 6.5 s"),
    ],
)
def test_what_the_manifest_expects_is_demanded(expected, problem, clip, tmp_path):
    (work := tmp_path / "work").mkdir()
    (work / "x.mp4").write_bytes(clip.read_bytes())
    entry = VideoEntry(id="walk", title="A walk", sources=("file:x.mp4",), **expected)
    if problem is None:
        assert validate(entry, "file:x.mp4", Fetched(path=work / "x.mp4")).facts.width == 160
    else:
        with pytest.raises(VideoError, match=f"^x.mp4: {problem}"):
            validate(entry, "file:x.mp4", Fetched(path=work / "x.mp4"))


@pytest.mark.parametrize(
    "line",
    ["frame_rate = '0'", "frame_rate = '30/0'", "frame_rate = '29.97'", "resolution = [0, 720]"],
)
def test_a_manifest_that_expects_nonsense_is_refused(line, tmp_path):
    path = tmp_path / "m.toml"
    path.write_text(
        'format = 1\nname = "m"\n[[video]]\nid = "a"\ntitle = "A"\n'
        f'sources = ["https://walks.example/a"]\n{line}\n'
    )
    with pytest.raises(ManifestError, match=r"video 'a': (frame_rate|resolution)"):
        load_manifest(path)


def test_slides_are_no_frozen_tail_since_no_frame_is_compared_with_itself(tmp_path):
    slides = "testsrc2=size=64x48:rate=1/40:duration=120"  # at 0, 40 and 80 s
    path = write_clip(tmp_path / "slides.mp4", source=slides, bf=0)
    facts = probe_video(path)
    assert (facts.last_pts_us, facts.duration_us) == (80_000_000, 120_000_000)
    check_frozen_tail(path, facts.last_pts_us)
