"""Networks in processes of their own: the same detections, and one line when they die."""

import os
import signal
import socket
import tempfile
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support.analyze_cases import add_video, write_scenes
from wtours.analyze.detectors.server import DetectorService, Endpoint, NetworkClient
from wtours.analyze.detectors.spec import parse_detector
from wtours.analyze.detectors.worker import in_one_line
from wtours.analyze.detectors.yolox import YoloxDetector
from wtours.analyze.pipeline import analyze_videos
from wtours.analyze.schema import load_summary
from wtours.errors import AnalysisError, MissingPackageError
from wtours.media.reader import open_video
from wtours.workspace.layout import Layout


@pytest.fixture
def model(data_dir):
    return data_dir / "models" / "yolox_nano.onnx"


def detector_processes() -> list[int]:
    """Return this process's detector processes."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            if b"detectors.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found


@pytest.mark.medium
def test_detections_are_those_of_the_network_in_this_process(tmp_path, data_dir, model):
    path = data_dir / "videos" / "vtest.avi"
    layout = Layout(tmp_path)
    add_video(layout, "walk", path)
    analyze_videos(layout, ["walk"], detector=f"onnx:{model}", detect_fps="1/8", segment_seconds=30)
    network = YoloxDetector(model)
    with open_video(path) as video:
        frames = list(video.frames())
    detected = [*frames[::80], frames[-1]]  # the tick at 80 s has the last frame, at 79.4 s
    assert [frame.pts_us for frame in detected] == [*range(0, 80_000_000, 8_000_000), 79_400_000]
    rows = pq.read_table(layout.analysis_dir("walk") / "detections.parquet").to_pylist()
    expected = [
        (frame.pts_us, d.label, np.float32(d.score), np.float32(d.x0), np.float32(d.y1))
        for frame, found in zip(
            detected, network.detect([f.to_bgr() for f in detected]), strict=True
        )
        for d in found
    ]
    assert len(expected) > 50
    assert [(r["pts_us"], r["label"], r["score"], r["x0"], r["y1"]) for r in rows] == expected
    assert detector_processes() == []


@pytest.mark.medium
def test_a_detector_process_that_dies_is_one_line_and_the_next_run_goes_on(tmp_path, model):
    clip = write_scenes(tmp_path / "a.mp4", seconds=(2, 2), size="96x64", rate=10)
    layout = Layout(tmp_path / "root")
    for video_id in ("walk", "stroll"):
        add_video(layout, video_id, clip)
    killed: list[int] = []

    def kill_once(video_id: str, done: float, total: float | None) -> None:
        if not killed:
            killed.extend(detector_processes())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    options: dict[str, Any] = {"detector": f"onnx:{model}", "segment_seconds": 1}
    report = analyze_videos(layout, ["walk", "stroll"], on_progress=kill_once, **options)
    assert len(killed) == 1
    assert list(report.failed) == ["walk"]
    assert "yolox_nano.onnx died" in report.failed["walk"]
    assert "\n" not in report.failed["walk"]
    assert report.done == ["stroll"]  # by a new process
    assert (layout.analysis_dir("walk") / "segments").is_dir()  # what was finished is kept
    assert analyze_videos(layout, ["walk", "stroll"], **options).done == ["walk"]
    assert load_summary(layout, "walk").objects == load_summary(layout, "stroll").objects


def test_the_service_starts_one_process_for_each_that_decodes_and_ends_them(model):
    with DetectorService(parse_detector(f"onnx:{model}"), jobs=2) as service:
        assert detector_processes() == []  # not before it is asked
        facts = service.ready().facts
        assert facts == YoloxDetector(model).facts
        endpoint = service.endpoint()
        assert (endpoint.batch_size, endpoint.colors) == (1, "bgr")
        assert len(detector_processes()) == 2
        assert oct(endpoint.address.parent.stat().st_mode)[-3:] == "700"
    assert detector_processes() == []
    assert not endpoint.address.parent.exists()
    with pytest.raises(AnalysisError, match="died"):
        NetworkClient(endpoint)


def test_what_cannot_be_loaded_is_said_and_no_process_stays(tmp_path):
    with DetectorService(parse_detector(f"onnx:{tmp_path}/gone.onnx"), jobs=2) as service:
        for _ in range(2):
            with pytest.raises(AnalysisError, match="no such file"):
                service.ready()
        assert detector_processes() == []


def test_a_temporary_folder_too_deep_for_a_socket_is_one_line(tmp_path, model, monkeypatch):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with DetectorService(parse_detector(f"onnx:{model}"), jobs=1) as service:
        with pytest.raises(AnalysisError, match="set TMPDIR to a short path"):
            service.ready()
        assert list(deep.iterdir()) == []


def test_any_exception_of_a_network_is_one_line_that_names_it():
    spec = parse_detector("torchvision:x")
    error = in_one_line(spec, RuntimeError("CUDA out of memory\nTried to allocate 2 GiB"))
    assert str(error) == "detector torchvision:x failed: RuntimeError: CUDA out of memory"
    assert isinstance(error, AnalysisError)
    ours = MissingPackageError("torch", "objects", "it")
    assert in_one_line(spec, ours) is ours


def test_answers_longer_than_any_buffer_block_neither_side(tmp_path):
    """The process answers while the next batch is being sent to it: both are larger than a pipe."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        answer = [["x" * 3_000_000]]

        def serve() -> None:
            connection = Connection(listener.accept()[0].detach())
            for _ in range(3):
                connection.recv()
                connection.send(answer)

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        clip = write_scenes(tmp_path / "a.mp4", seconds=(0.1,), size="1280x720")
        with open_video(clip) as video:
            frame = next(video.frames())
        endpoint = Endpoint(parse_detector("onnx:x"), tmp_path / "s", batch_size=1, colors="rgb")
        with endpoint.connect() as network:
            detected: list[object] = [*network.submit([frame] * 3), *network.finish()]
        assert detected == [(0, answer[0])] * 3
        server.join(10)
