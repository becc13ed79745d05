"""Folders of other videos: analyzed where they lie, and joined for Figure 2."""

from pathlib import Path

import pytest

from tests.support.analyze_cases import add_video, write_detections, write_scenes
from tests.support.report_workspace import entry
from wtours.analyze.pipeline import analyze_videos
from wtours.analyze.video_folder import folder_videos
from wtours.errors import UsageError
from wtours.report.build import build_report
from wtours.report.comparison import load_compared
from wtours.report.footnotes import CommandHints, comparison_note
from wtours.workspace.layout import Layout


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
    """Two short films: cuts at 1 and 2 s of 3, and at 2 s of 4; and something that is none."""
    folder = tmp_path_factory.mktemp("films") / "Old Movies"
    (folder / "b").mkdir(parents=True)
    write_scenes(folder / "a 1.mp4", seconds=(1, 1, 1), size="96x64")
    write_scenes(folder / "b" / "a-1.MP4", seconds=(2, 2), size="96x64")
    (folder / "notes.txt").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def layout(tmp_path_factory, movies):
    root = tmp_path_factory.mktemp("root")
    layout = Layout(root)
    rows = [(i * 1_000_000, label, 0.9, 0.0, 0.0, 9.0, 9.0) for i in range(4) for label in "xy"]
    truth = write_detections(
        root / "truth.parquet", [*rows, (3_000_000, "z", 0.9, 0.0, 0.0, 9.0, 9.0)]
    )
    files = folder_videos(movies)
    report = analyze_videos(layout, files, detector=f"file:{truth}")
    assert len(report.done) == 2
    return layout


def test_ids_come_from_names_and_differ(movies):
    files = folder_videos(movies)
    assert [path.name for path in files.values()] == ["a 1.mp4", "a-1.MP4"]
    assert all(video_id.startswith("old_movies_a_1_") for video_id in files)
    assert len(files) == 2
    for video_id in files:
        assert entry(video_id).id == video_id  # valid in a manifest


def test_the_videos_stay_where_they_are(layout, movies):
    assert not (layout.root / "videos").exists()
    files = folder_videos(movies)
    assert analyze_videos(layout, files).skipped == list(files)


def test_a_folder_is_joined_and_where_videos_meet_is_no_cut(layout, movies):
    compared = load_compared(layout, movies, threshold=0.3, until_us=None)
    measured = compared.video.measured
    assert measured is not None
    assert (compared.num_joined, compared.num_not_analyzed) == (2, 0)
    assert (measured.cuts, measured.summary.seconds, len(measured.pts_us)) == (3, 7.0, 210)
    starts = [start for start, _ in measured.shots_us]
    assert starts == [0, 1_000_000, 2_000_000, 5_000_000]
    assert measured.shots_us[-1][1] == 7_000_000
    assert measured.objects is not None
    # Ticks 0 to 3 of the first film (its last frame is nearest to 3 s) and 0 to 4 of the second.
    assert dict(measured.objects.class_counts) == {"x": 8, "y": 8, "z": 2}
    assert measured.objects.per_frame is not None
    assert len(measured.objects.per_frame) == 9
    note = comparison_note(compared, CommandHints())
    assert "3 cuts" in note
    assert "2.0 objects/frame, 3 classes" in note


def test_a_folder_is_cropped_to_a_length(layout, movies):
    measured = load_compared(layout, movies, threshold=0.3, until_us=4_000_000).video.measured
    assert measured is not None
    assert (measured.cuts, measured.summary.seconds, len(measured.pts_us)) == (2, 4.0, 120)
    assert measured.objects is not None
    assert dict(measured.objects.class_counts) == {"x": 5, "y": 5, "z": 1}
    one = load_compared(layout, movies, threshold=0.3, until_us=1_500_000)
    assert one.num_joined == 1
    assert one.video.measured is not None
    assert one.video.measured.shots_us == ((0, 1_000_000), (1_000_000, 1_500_000))


def test_a_folder_not_analyzed_says_what_to_run(tmp_path, movies):
    compared = load_compared(Layout(tmp_path), movies, threshold=0.3, until_us=None)
    assert compared.video.measured is None
    note = comparison_note(compared, CommandHints(root=Path("r")))
    assert f"run `wtours analyze --from-dir '{movies}' --root r`" in note


def test_a_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(UsageError, match="has no video"):
        folder_videos(tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        folder_videos(tmp_path / "gone")


@pytest.mark.medium
def test_the_report_draws_it_beside_the_walk(layout, movies):
    walk = write_scenes(layout.root / "walk.mp4", seconds=(2.5, 2.5), size="96x64")
    add_video(layout, "walk", walk)
    analyze_videos(layout, ["walk"])
    alone = build_report(layout, [entry("walk")])
    before = alone.page.with_name("figure2.png").read_bytes()
    assert "Old Movies" not in alone.page.read_text()
    both = build_report(layout, [entry("walk")], compare=[movies])
    assert both.page.with_name("figure2.png").read_bytes() != before
    files = {path.name: path.read_bytes().decode() for path in both.paths[:4]}
    for name in ("report.html", "table6.md", "table6.json"):
        assert "Old Movies, beside the videos in Figure 2" in files[name]
    assert "0:00:05.0 in all" in files["table6.json"]  # cropped to the walk
    assert "old_movies" not in files["table6.csv"]  # Table 6 is of the walks
