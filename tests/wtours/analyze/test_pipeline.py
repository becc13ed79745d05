import shutil
from fractions import Fraction
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from tests.support.analyze_cases import add_video, published_bytes, write_detections, write_scenes
from tests.support.video_clips import write_clip
from wtours.analyze.pipeline import analyze_videos
from wtours.analyze.schema import DETECTIONS_SCHEMA, FRAMES_SCHEMA, SHOTS_SCHEMA, load_summary
from wtours.errors import AnalysisError, UsageError, WtoursError
from wtours.execution.executor import SERIAL
from wtours.execution.processes import ProcessExecutor
from wtours.media.reader import open_video
from wtours.storage.hashing import sha256_file
from wtours.storage.locks import lock
from wtours.storage.receipts import read_receipt
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Cuts at 1.5, 3.2 and 5.2 s; 7.2 s at 30 frames a second."""
    path = tmp_path_factory.mktemp("scenes") / "scenes.mp4"
    return write_scenes(path, seconds=(1.5, 1.7, 2, 2), size="320x240", g=45, bf=2)


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> Path:
    """Detections at every frame: one cat always, and a dog in each tenth frame."""
    rows = []
    for i in range(216):
        pts_us = round(i * 1e6 / 30)
        rows.append((pts_us, "cat", 0.9, 1.0, 2.0, 30.0, 40.0))
        if i % 10 == 0:
            rows.append((pts_us, "dog", 0.25, 5.0, 5.0, 50.0 + i, 60.0))
    return write_detections(tmp_path_factory.mktemp("truth") / "truth.parquet", rows)


@pytest.fixture
def layout(tmp_path, scenes) -> Layout:
    layout = Layout(tmp_path / "root")
    add_video(layout, "walk", scenes)
    return layout


def test_the_tables_say_what_the_video_shows(layout, truth):
    report = analyze_videos(layout, ["walk"], detector=f"file:{truth}")
    assert (report.done, report.failed, report.objects_not_measured) == (["walk"], {}, {})
    folder = layout.analysis_dir("walk")
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == [
        "detections.parquet",
        "frames.parquet",
        "receipt.json",
        "shots.parquet",
        "summary.json",
    ]
    frames = pq.read_table(folder / "frames.parquet")
    assert frames["frame"].to_pylist() == list(range(216))
    assert frames["pts_us"].to_pylist() == [round(i * 1e6 / 30) for i in range(216)]
    detected = np.flatnonzero(frames["objects_measured"].to_numpy(zero_copy_only=False))
    assert detected.tolist() == [0, 30, 60, 90, 120, 150, 180, 210]
    shots = pq.read_table(folder / "shots.parquet").to_pylist()
    assert [s for s in shots if s["detector"] == "adaptive"] == [
        {"detector": "adaptive", "shot": 0, "start_us": 0, "end_us": 1_500_000},
        {"detector": "adaptive", "shot": 1, "start_us": 1_500_000, "end_us": 3_200_000},
        {"detector": "adaptive", "shot": 2, "start_us": 3_200_000, "end_us": 5_200_000},
        {"detector": "adaptive", "shot": 3, "start_us": 5_200_000, "end_us": 7_200_000},
    ]
    detections = pq.read_table(folder / "detections.parquet")
    assert detections["frame"].to_pylist() == np.repeat(detected, 2).tolist()
    assert detections["label"].to_pylist() == ["cat", "dog"] * 8
    assert detections["label_id"].to_pylist() == [0, 1] * 8


def test_the_summary_has_the_row_of_table_6(layout, truth, scenes):
    analyze_videos(layout, ["walk"], detector=f"file:{truth}")
    summary = load_summary(layout, "walk")
    assert (summary.frames, summary.corrupt_frames, summary.seconds) == (216, 0, 7.2)
    assert (summary.width, summary.height, summary.frame_rate) == (320, 240, "30")
    assert summary.video_sha256 == sha256_file(scenes)
    assert summary.cuts == {"adaptive": 3, "content27": 3, "content30": 3}
    lightness = pq.read_table(layout.analysis_dir("walk") / "frames.parquet")["lightness"]
    assert summary.lightness.mean == pytest.approx(lightness.to_numpy().mean(dtype=float), abs=1e-6)
    assert summary.lightness.min == min(lightness.to_pylist())
    objects = summary.objects
    assert objects is not None
    assert summary.objects_not_measured is None
    assert (objects.frames_analysed, objects.detections, objects.detect_fps) == (8, 16, 1.0)
    by_threshold = {
        c.threshold: (c.objects_per_frame, c.classes, c.max_objects) for c in objects.counts
    }
    assert by_threshold == {
        0.05: (2, 2, 2), 0.1: (2, 2, 2), 0.2: (2, 2, 2), 0.3: (1, 1, 1), 0.5: (1, 1, 1)
    }  # fmt: skip
    assert objects.detector.weights_sha256 == sha256_file(truth)


def test_what_made_the_detections_stands_in_the_file(layout, truth):
    analyze_videos(layout, ["walk"], detector=f"file:{truth}", detect_fps="0.5")
    metadata = pq.read_schema(layout.analysis_dir("walk") / "detections.parquet").metadata
    assert {key: metadata[key] for key in metadata if not key.startswith(b"ARROW")} == {
        b"detector": b"file:truth.parquet",
        b"weights_sha256": sha256_file(truth).encode(),
        b"vocabulary": b"cat\ndog",
        b"threshold": b"0.05",
        b"max_per_frame": b"none",
        b"detect_fps": b"1/2",
    }


def test_native_looks_at_every_frame(layout, truth):
    analyze_videos(layout, ["walk"], detector=f"file:{truth}", detect_fps="native")
    objects = load_summary(layout, "walk").objects
    assert objects is not None
    assert (objects.frames_analysed, objects.detections) == (216, 216 + 22)
    assert objects.every_frame
    assert objects.detect_fps == 30


@pytest.mark.medium
def test_segments_and_processes_change_no_byte(tmp_path, scenes, data_dir):
    model = data_dir / "models" / "yolox_nano.onnx"
    layouts = {}
    for jobs, segment_seconds in [(1, 3600), (1, 1), (2, 4)]:
        layout = Layout(tmp_path / f"{jobs}-{segment_seconds}")
        add_video(layout, "walk", scenes)
        add_video(layout, "bikes", data_dir / "videos" / "bikes.mp4")
        with ProcessExecutor(jobs) as executor:
            report = analyze_videos(
                layout,
                ["walk", "bikes"],
                detector=f"onnx:{model}",
                detect_fps="3/2",
                executor=SERIAL if jobs == 1 else executor,
                segment_seconds=segment_seconds,
            )
        assert report.done == ["walk", "bikes"]
        layouts[jobs, segment_seconds] = layout
    whole = layouts.pop((1, 3600))
    for layout in layouts.values():
        for video_id in ("walk", "bikes"):
            assert published_bytes(layout, video_id) == published_bytes(whole, video_id)


def test_the_same_again_does_nothing_and_another_detector_does_it_anew(layout, truth):
    spec = f"file:{truth}"
    analyze_videos(layout, ["walk"], detector=spec)
    before = published_bytes(layout, "walk")
    stamp = (layout.analysis_dir("walk") / "frames.parquet").stat().st_mtime_ns
    assert analyze_videos(layout, ["walk"], detector=spec).skipped == ["walk"]
    # Lightness and cuts are there: asking for no objects takes none away.
    assert analyze_videos(layout, ["walk"], detector="none").skipped == ["walk"]
    assert published_bytes(layout, "walk") == before
    assert (layout.analysis_dir("walk") / "frames.parquet").stat().st_mtime_ns == stamp
    assert analyze_videos(layout, ["walk"], detector=spec, detect_fps="2").done == ["walk"]
    objects = load_summary(layout, "walk").objects
    assert objects is not None
    assert objects.frames_analysed == 15


def test_objects_come_later_to_a_video_without(layout, truth):
    analyze_videos(layout, ["walk"])
    summary = load_summary(layout, "walk")
    assert summary.objects is None
    assert summary.objects_not_measured == "no detector was asked for (--detector none)"
    assert not (layout.analysis_dir("walk") / "detections.parquet").exists()
    frames = (layout.analysis_dir("walk") / "frames.parquet").read_bytes()
    assert analyze_videos(layout, ["walk"], detector=f"file:{truth}").done == ["walk"]
    assert load_summary(layout, "walk").objects is not None
    assert (layout.analysis_dir("walk") / "frames.parquet").read_bytes() != frames


def test_a_detector_that_cannot_load_leaves_lightness_and_cuts(layout, truth, tmp_path):
    spec = f"onnx:{tmp_path / 'gone.onnx'}"
    report = analyze_videos(layout, ["walk"], detector=spec)
    assert report.done == ["walk"]
    assert list(report.objects_not_measured) == ["walk"]
    assert "no such file" in report.objects_not_measured["walk"]
    summary = load_summary(layout, "walk")
    assert summary.cuts["adaptive"] == 3
    assert summary.objects is None
    assert summary.objects_not_measured == report.objects_not_measured["walk"]
    # Again: nothing to do, but still said. And earlier objects are not lost to such a failure.
    again = analyze_videos(layout, ["walk"], detector=spec)
    assert (again.skipped, list(again.objects_not_measured)) == (["walk"], ["walk"])
    analyze_videos(layout, ["walk"], detector=f"file:{truth}")
    analyze_videos(layout, ["walk"], detector=spec)
    assert load_summary(layout, "walk").objects is not None


def test_one_bad_video_does_not_stop_the_others(layout, tmp_path):
    text = add_video(layout, "text", write_scenes(tmp_path / "text.mp4", seconds=(1, 1)))
    text.write_bytes(b"this is not a video\n".ljust(text.stat().st_size, b"."))
    report = analyze_videos(layout, ["text", "absent", "walk"])
    assert report.done == ["walk"]
    assert list(report.failed) == ["text", "absent"]
    assert "is not the file that" in report.failed["text"]
    assert "wtours download --video absent" in report.failed["absent"]
    assert all("\n" not in reason for reason in report.failed.values())
    assert not (layout.analysis_dir("text") / "receipt.json").exists()
    with pytest.raises(AnalysisError, match="text is not analyzed: run"):
        load_summary(layout, "text")


def test_another_file_under_the_same_id_is_analyzed_anew(layout, tmp_path):
    analyze_videos(layout, ["walk"])
    other = write_scenes(tmp_path / "b.mp4", seconds=(2, 2), size="96x64")
    add_video(layout, "walk", other)
    assert analyze_videos(layout, ["walk"]).done == ["walk"]
    assert load_summary(layout, "walk").cuts["adaptive"] == 1


def test_a_lost_file_or_a_torn_receipt_is_made_again(layout):
    analyze_videos(layout, ["walk"])
    whole = published_bytes(layout, "walk")
    for name in ("frames.parquet", "summary.json", "receipt.json"):
        path = layout.analysis_dir("walk") / name
        path.write_bytes(path.read_bytes()[:40])
        assert analyze_videos(layout, ["walk"]).done == ["walk"]
        assert published_bytes(layout, "walk") == whole


def test_finished_segments_are_not_measured_again(layout, monkeypatch):
    analyze_videos(layout, ["walk"], segment_seconds=2)
    whole = published_bytes(layout, "walk")
    shutil.rmtree(layout.analysis_dir("walk"))

    def stop_at_the_third(video_id: str, done: float, total: float | None) -> None:
        if total is not None and done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze_videos(layout, ["walk"], segment_seconds=2, on_progress=stop_at_the_third)
    folder = layout.analysis_dir("walk") / "segments"
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("*/receipt.json")}
    assert len(finished) == 3
    seen = []

    def note(video_id: str, done: float, total: float | None) -> None:
        seen.append({path: path.stat().st_mtime_ns for path in folder.glob("*/receipt.json")})

    analyze_videos(layout, ["walk"], segment_seconds=2, on_progress=note)
    assert len(seen) == 1  # the one segment that was missing
    assert finished.items() <= seen[0].items()
    assert published_bytes(layout, "walk") == whole


@pytest.mark.medium
def test_times_are_right_at_any_rate(tmp_path):
    layout = Layout(tmp_path / "root")
    slow = write_scenes(tmp_path / "1.mp4", seconds=(3, 5), rate=1, size="96x64")
    fast = write_scenes(tmp_path / "60.mp4", seconds=(1, 1.5), rate=60, size="96x64")
    varying = write_scenes(
        tmp_path / "v.mp4",
        seconds=(1, 2),
        size="96x64",
        filters="select='lt(n,30)+not(mod(n,5))'",
        fps_mode="vfr",
    )
    for video_id, path in {"slow": slow, "fast": fast, "varying": varying}.items():
        add_video(layout, video_id, path)
    analyze_videos(layout, ["slow", "fast", "varying"], segment_seconds=1)
    facts = {}
    for video_id in ("slow", "fast", "varying"):
        folder = layout.analysis_dir(video_id)
        shots = pq.read_table(folder / "shots.parquet", filters=[("detector", "=", "content27")])
        facts[video_id] = (
            load_summary(layout, video_id).frames,
            list(zip(shots["start_us"].to_pylist(), shots["end_us"].to_pylist(), strict=True)),
        )
    assert facts["slow"] == (8, [(0, 3_000_000), (3_000_000, 8_000_000)])
    assert facts["fast"] == (150, [(0, 1_000_000), (1_000_000, 2_500_000)])
    # Its last frame lasts 1/6 s, as the file says.
    assert facts["varying"] == (42, [(0, 1_000_000), (1_000_000, 3_000_000)])


@pytest.mark.medium
def test_a_gap_in_the_video_does_not_shift_what_follows(tmp_path):
    layout = Layout(tmp_path / "root")
    gap = write_clip(
        tmp_path / "gap.mp4",
        source="testsrc2=size=96x64:rate=10:duration=20",
        filters="select='lt(n,15)+gte(n,177)'",
        fps_mode="vfr",
    )
    for video_id, segment_seconds in (("a", 3600), ("b", 1), ("c", 7)):
        add_video(layout, video_id, gap)
        analyze_videos(layout, [video_id], segment_seconds=segment_seconds)
    frames = pq.read_table(layout.analysis_dir("a") / "frames.parquet")
    assert frames["pts_us"].to_pylist() == [i * 100_000 for i in [*range(15), *range(177, 200)]]
    for video_id in ("b", "c"):
        for name in ("frames.parquet", "shots.parquet"):
            expected = (layout.analysis_dir("a") / name).read_bytes()
            assert (layout.analysis_dir(video_id) / name).read_bytes() == expected


def test_polars_and_duckdb_read_the_tables(layout, truth):
    analyze_videos(layout, ["walk"], detector=f"file:{truth}")
    folder = layout.analysis_dir("walk")
    schemas = {"frames": FRAMES_SCHEMA, "shots": SHOTS_SCHEMA, "detections": DETECTIONS_SCHEMA}
    for name, schema in schemas.items():
        path = folder / f"{name}.parquet"
        assert pl.read_parquet(path).columns == schema.names
        with duckdb.connect() as database:
            columns = database.read_parquet(str(path)).columns
        assert columns == schema.names
    frames = pl.read_parquet(folder / "frames.parquet")
    assert frames.schema["content_score"] == pl.Float64
    assert frames.schema["lightness"] == pl.Float32
    with duckdb.connect() as database:
        per_label = database.sql(
            f"select label, count(*), max(x1) from '{folder / 'detections.parquet'}' group by 1"
        ).fetchall()
    assert sorted(per_label) == [("cat", 8, 30.0), ("dog", 8, 260.0)]


def test_the_receipt_names_inputs_parameters_and_versions(layout, truth):
    analyze_videos(layout, ["walk"], detector=f"file:{truth}")
    receipt = read_receipt(layout.analysis_receipt("walk"))
    assert receipt is not None
    assert receipt.inputs == {"video": sha256_file(layout.video_dir("walk") / "walk.mp4")}
    assert receipt.params["objects"]["detect_fps"] == "1"
    assert {"av", "scenedetect", "opencv", "wtours"} <= set(receipt.versions)
    assert {file.path: file.sha256 for file in receipt.files} == {
        path.name: sha256_file(path)
        for path in layout.analysis_dir("walk").iterdir()
        if path.is_file() and path.name != "receipt.json"
    }


def test_bad_options_are_refused_before_anything_is_done(layout):
    with pytest.raises(UsageError, match="no detector 'detik'"):
        analyze_videos(layout, ["walk"], detector="detik")
    with pytest.raises(UsageError, match="--detect-fps '0'"):
        analyze_videos(layout, ["walk"], detect_fps="0")
    assert not layout.analysis_dir("walk").exists()


def test_two_runs_do_not_work_on_one_workspace(layout):
    with (
        lock(layout.lock("analyze"), what="the analysis"),
        pytest.raises(WtoursError, match="in use by process"),
    ):
        analyze_videos(layout, ["walk"])


@pytest.mark.medium
def test_corrupt_frames_are_counted_and_not_given_to_the_detector(tmp_path, truth):
    clip = write_clip(tmp_path / "a.ts", source="testsrc2=size=320x240:rate=30:duration=7", g=30)
    data = bytearray(clip.read_bytes())
    for start in range(len(data) // 3, len(data) // 2, 9000):  # packets of 188 bytes
        data[start : start + 40] = b"\x55" * 40
    clip.write_bytes(data)
    with open_video(clip, threads=1) as video:
        corrupt = [frame.pts_us for frame in video.frames() if frame.is_corrupt]
    assert corrupt
    layouts = []
    for segment_seconds in (3600, 1):
        layout = Layout(tmp_path / str(segment_seconds))
        add_video(layout, "walk", clip)
        analyze_videos(layout, ["walk"], detector=f"file:{truth}", segment_seconds=segment_seconds)
        layouts.append(layout)
    frames = pl.read_parquet(layouts[0].analysis_dir("walk") / "frames.parquet")
    assert frames.filter(pl.col("is_corrupt"))["pts_us"].to_list() == corrupt
    assert frames.filter(pl.col("is_corrupt") & pl.col("objects_measured")).is_empty()
    assert load_summary(layouts[0], "walk").corrupt_frames == len(corrupt)
    assert published_bytes(layouts[0], "walk") == published_bytes(layouts[1], "walk")
    assert Fraction(load_summary(layouts[0], "walk").frame_rate) == 30
