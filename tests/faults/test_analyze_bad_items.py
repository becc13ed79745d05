"""One bad video, or one bad file beside it, costs `analyze` that item: one line, exit 3."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.analyze_cases import add_video, write_detections, write_scenes
from tests.support.video_clips import write_clip
from wtours.analyze.pipeline import analyze_videos
from wtours.analyze.schema import load_summary
from wtours.analyze.video_folder import folder_videos
from wtours.errors import AnalysisError
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium

# The workers import this file too: there a decoder fails in one segment of one video.
FAILING_DECODER = """
import os, signal, sys
from wtours.analyze import segment

real = segment._read_segment

def read_segment(task, *arguments):
    if "bad" in task.video_id and task.number == 1:
        with open(__file__ + ".attempts", "a") as file:
            file.write("x")
        {fault}
    real(task, *arguments)

segment._read_segment = read_segment

if __name__ == "__main__":
    from wtours.analyze import pipeline
    from wtours.cli import main

    pipeline.analyze_videos.__kwdefaults__["segment_seconds"] = 1
    main()
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("clip") / "a.mp4", seconds=(2, 2), size="96x64")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    repository = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=600,  # for what would never come; a busy machine is slow
        env={**os.environ, "PYTHONPATH": str(repository), "COLUMNS": "200"},
    )


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "the process died, also when nothing else ran"),
        ("raise OSError(5, 'Input/output error')", "Input/output error"),
        ("raise RuntimeError('no one has\\nthought of it')", "RuntimeError: no one has;"),
    ],
)
def test_a_decoder_that_fails_costs_its_video(tmp_path, clip, fault, reason):
    films, script = tmp_path / "films", tmp_path / "run.py"
    script.write_text(FAILING_DECODER.format(fault=fault))
    films.mkdir()
    for name in ("before", "bad", "later"):
        shutil.copyfile(clip, films / f"{name}.mp4")
    layout, ids = Layout(tmp_path / "root"), {i.split("_")[1]: i for i in folder_videos(films)}
    result = run(
        str(script), "analyze", "--from-dir", str(films), "--root", str(layout.root), "-j", "2"
    )
    assert result.returncode == 3, result.stderr
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if f"error: {ids['bad']}: " in line]
    assert reason in line
    for name in ("before", "later"):
        assert load_summary(layout, ids[name]).cuts["adaptive"] == 1
    with pytest.raises(AnalysisError, match="not analyzed"):
        load_summary(layout, ids["bad"])
    if "SIGSEGV" in fault:
        attempts = (tmp_path / "run.py.attempts").read_text()
        assert len(attempts) == 2  # beside another segment, then alone
        assert f"{ids['bad']} from 0:00:01.0 to 0:00:02.0" in line


def test_a_codec_that_nobody_knows_costs_its_video(tmp_path, clip):
    folder = tmp_path / "films"
    folder.mkdir()
    odd = write_clip(folder / "odd.avi", source="testsrc2=size=96x64:rate=10:duration=1")
    odd.write_bytes(odd.read_bytes().replace(b"H264", b"ZZZZ").replace(b"h264", b"zzzz"))
    (folder / "good.mp4").write_bytes(clip.read_bytes())
    root = str(tmp_path / "root")
    result = run("-m", "wtours", "analyze", "--from-dir", str(folder), "--root", root)
    assert result.returncode == 3, result.stderr
    assert "Traceback" not in result.stderr
    assert len([line for line in result.stderr.splitlines() if "error: films_odd" in line]) == 1
    assert "1 analyzed" in result.stdout


@pytest.mark.parametrize("damage", ["cut", "empty", "footer", "middle"])
def test_damaged_detections_cost_the_objects_only(tmp_path, clip, damage):
    layout = Layout(tmp_path / "root")
    add_video(layout, "walk", clip)
    rows = [(round(i * 1e6 / 30), f"thing {i % 7}", 0.5, 1.0, 2.0, 3.0, 4.0) for i in range(120)]
    path = write_detections(tmp_path / "walk.parquet", rows)
    data = bytearray(path.read_bytes())
    if damage == "middle":
        data[40:400] = b"\x00" * 360
    elif damage == "footer":
        data[-200:-100] = b"\xff" * 100
    else:
        data = data[: len(data) // 2 if damage == "cut" else 0]
    path.write_bytes(data)
    report = analyze_videos(layout, ["walk"], detector=f"file:{path}")
    assert (report.done, report.failed) == (["walk"], {})
    reason = report.objects_not_measured["walk"]
    assert str(path) in reason
    assert "\n" not in reason
    assert load_summary(layout, "walk").objects is None


def test_detections_that_declare_more_than_fits_in_memory_are_refused(tmp_path, clip):
    layout = Layout(tmp_path / "root")
    add_video(layout, "walk", clip)
    times = np.zeros(2**25 + 1, np.int64)
    columns = {"pts_us": times, "label": pa.nulls(len(times), pa.string())}
    columns |= dict.fromkeys(("score", "x0", "y0", "x1", "y1"), pa.nulls(len(times), pa.float64()))
    path = tmp_path / "walk.parquet"
    pq.write_table(
        pa.table(columns), path, row_group_size=len(times), use_dictionary=False,
        compression="zstd", write_statistics=False,
    )  # fmt: skip
    assert path.stat().st_size < 10_000_000
    report = analyze_videos(layout, ["walk"], detector=f"file:{path}")
    assert "in smaller row groups" in report.objects_not_measured["walk"]
