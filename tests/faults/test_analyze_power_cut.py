"""A power cut while a video is analyzed: what was reported is whole, the rest is absent.

As in `test_shard_power_cut`, with the same proof that the check can fail: without fsync it does.
"""

from pathlib import Path

import pytest

from tests.support.analyze_cases import add_video, published_bytes, write_detections, write_scenes
from tests.support.power_cut import cut_power, make_image, mounted
from wtours.analyze.pipeline import analyze_videos
from wtours.analyze.schema import NotAnalyzedError, load_summary
from wtours.errors import AnalysisError
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.slow

# Tells the share of the video that is decoded, and "published", as a line on stdout.
ANALYZE = """
import sys
from pathlib import Path
from wtours.analyze.pipeline import analyze_videos
from wtours.storage import atomic
from wtours.workspace.layout import Layout

root, detector, synced = sys.argv[1:]
if synced == "no":
    atomic.fsync = lambda path: None

def tell(video_id, done, total):
    print(round(3 * done / total), flush=True)

analyze_videos(
    Layout(Path(root)), ["walk"], detector=detector, segment_seconds=1, on_progress=tell
)
print("published", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("clip") / "a.mp4", seconds=(1.5, 1.5), size="96x64")


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> str:
    rows = [(round(i * 1e6 / 30), f"thing {i % 7}", 0.5, 1.0, 2.0, 3.0, 4.0) for i in range(90)]
    return f"file:{write_detections(tmp_path_factory.mktemp('truth') / 'truth.parquet', rows)}"


@pytest.fixture
def image(tmp_path) -> Path:
    return make_image(tmp_path)


def workspace(clip: Path, root: Path, disk: Path) -> Layout:
    """Return a workspace whose analyses are on a disk of their own."""
    layout = Layout(root)
    add_video(layout, "walk", clip)
    (root / "analysis").symlink_to(disk)
    return layout


@pytest.mark.parametrize("after", ["1", "3", "published"])
def test_after_a_power_cut_what_was_reported_is_whole(clip, detector, tmp_path, image, after):
    undisturbed = Layout(tmp_path / "undisturbed")
    add_video(undisturbed, "walk", clip)
    analyze_videos(undisturbed, ["walk"], detector=detector)
    expected, copy = published_bytes(undisturbed, "walk"), tmp_path / "copy.img"
    with mounted(image, tmp_path / "disk") as disk:
        root = workspace(clip, tmp_path / "root", disk).root
        cut_power(ANALYZE, str(root), detector, "yes", after=after, image=image, copy=copy)
    with mounted(copy, tmp_path / "replayed") as disk:
        layout = workspace(clip, tmp_path / "after", disk)
        if after == "published":
            assert published_bytes(layout, "walk") == expected
        else:
            with pytest.raises(NotAnalyzedError):
                load_summary(layout, "walk")
            segments = layout.analysis_dir("walk") / "segments"
            assert len(list(segments.glob("0*/receipt.json"))) >= int(after)
        analyze_videos(layout, ["walk"], detector=detector)
        assert published_bytes(layout, "walk") == expected


def test_without_fsync_the_same_check_finds_damage(clip, detector, tmp_path, image):
    copy = tmp_path / "copy.img"
    with mounted(image, tmp_path / "disk") as disk:
        root = workspace(clip, tmp_path / "root", disk).root
        cut_power(ANALYZE, str(root), detector, "no", after="published", image=image, copy=copy)
    with mounted(copy, tmp_path / "replayed") as disk:
        layout = workspace(clip, tmp_path / "after", disk)
        with pytest.raises(AnalysisError):
            load_summary(layout, "walk")
