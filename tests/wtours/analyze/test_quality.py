"""Blur, motion and darkness of every second are those of the frames, however a video is split."""

import re

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support.analyze_cases import add_video, published_bytes
from tests.support.chromium import OpenPage, chromium
from tests.support.video_clips import write_clip
from wtours.analyze.pipeline import analyze_videos
from wtours.analyze.quality.seconds import load_quality
from wtours.errors import AnalysisError
from wtours.report.build import build_report
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.videos import downloaded_video

pytestmark = pytest.mark.medium
RATE = 10
PARTS = (
    f"testsrc2=size=160x120:rate={RATE}",
    f"testsrc2=size=160x120:rate={RATE},boxblur=6",
    f"color=black:size=160x120:rate={RATE}",
    f"smptehdbars=size=160x120:rate={RATE}",
)
"""Two seconds each: sharp, blurred, black and still, still."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    inputs = ";".join(
        f"{part},trim=duration=2,setsar=1,format=yuv420p[s{i}]" for i, part in enumerate(PARTS)
    )
    names = "".join(f"[s{i}]" for i in range(len(PARTS)))
    source = f"{inputs};{names}concat=n={len(PARTS)}:v=1:a=0"
    path = tmp_path_factory.mktemp("clip") / "walk.mp4"
    # One key frame, intra of which all stills are copies.
    return write_clip(path, source=source, g=20, crf=10)


@pytest.fixture
def layout(tmp_path, clip):
    layout = Layout(tmp_path / "root")
    add_video(layout, "walk", clip)
    return layout


def table_of(layout):
    return layout.analysis_dir("walk") / "measurements" / "quality" / "seconds.parquet"


def expected_rows(path):
    """Return the mean of each second over frames that PyAV decodes, by plain formulas."""
    with av.open(str(path)) as container:
        grays = [
            cv2.cvtColor(frame.to_ndarray(format="bgr24"), cv2.COLOR_BGR2GRAY).astype(float)
            for frame in container.decode(video=0)
        ]
    rows = []
    for second in range(len(grays) // RATE):
        numbers = range(second * RATE, (second + 1) * RATE)
        blur = [np.var(_laplacian(grays[n])) for n in numbers]
        motion = [np.abs(grays[n] - grays[n - 1]).mean() for n in numbers if n]
        rows.append((np.mean(blur), np.mean(motion), np.mean([grays[n].mean() for n in numbers])))
    return np.array(rows)


def _laplacian(gray):
    padded = np.pad(gray, 1, mode="reflect")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return around - 4 * gray


def test_seconds_are_measured_and_say_what_was_drawn(layout, clip):
    assert analyze_videos(layout, ["walk"], frame_quality=True).done == ["walk"]
    rows = pq.read_table(table_of(layout)).to_pylist()
    assert [row["second"] for row in rows] == list(range(8))
    assert [row["frames"] for row in rows] == [RATE] * 8
    found = np.array([[row[name] for name in ("blur", "motion", "luma")] for row in rows])
    np.testing.assert_allclose(found, expected_rows(clip), rtol=1e-5, atol=1e-4)
    assert min(found[:2, 0]) > 5 * max(found[2:4, 0])  # blurred
    assert [row["black"] for row in rows] == [False] * 4 + [True] * 2 + [False] * 2
    # The first frame of a still differs from the one before.
    assert [row["frozen"] for row in rows][5:] == [True, False, True]
    assert not any(row["frozen"] for row in rows[:4])


def test_the_same_bytes_however_it_is_split_and_beside_what_was_there(layout, clip, tmp_path):
    analyze_videos(layout, ["walk"])
    before = published_bytes(layout, "walk")
    report = analyze_videos(layout, ["walk"], frame_quality=True, segment_seconds=3)
    assert report.done == ["walk"]
    tables = published_bytes(layout, "walk")
    assert {n: d for n, d in tables.items() if n != "receipt.json"} == {
        n: d for n, d in before.items() if n != "receipt.json"
    }
    assert analyze_videos(layout, ["walk"], frame_quality=True).skipped == ["walk"]
    assert analyze_videos(layout, ["walk"]).skipped == ["walk"]
    other = Layout(tmp_path / "other")
    add_video(other, "walk", clip)
    analyze_videos(other, ["walk"], frame_quality=True)
    assert table_of(other).read_bytes() == table_of(layout).read_bytes()
    assert published_bytes(other, "walk") == tables


def test_a_damaged_table_is_said_and_measured_again(layout):
    analyze_videos(layout, ["walk"], frame_quality=True)
    good = table_of(layout).read_bytes()
    table_of(layout).write_bytes(good[:-9])
    with pytest.raises(AnalysisError, match="--frame-quality --video walk"):
        load_quality(layout, "walk", _sha256(layout))
    assert analyze_videos(layout, ["walk"]).skipped == ["walk"]  # the tables are whole
    assert analyze_videos(layout, ["walk"], frame_quality=True).done == ["walk"]
    assert table_of(layout).read_bytes() == good


def _sha256(layout):
    return downloaded_video(layout, "walk").sha256


def test_the_page_shows_curves_and_stretches(layout):
    entries = [VideoEntry(id="walk", title="Walk", sources=("file:walk.mp4",))]
    analyze_videos(layout, ["walk"])
    assert "Quality of the frames" not in build_report(layout, entries).page.read_text()
    analyze_videos(layout, ["walk"], frame_quality=True)
    file = build_report(layout, entries).page
    page = file.read_text()
    with chromium() as browser, OpenPage(browser, file, width=400) as opened:
        assert opened.overflow() == []
    assert "Quality of the frames" in page
    assert "Black: 0:00:04.0 to 0:00:06.0." in page
    assert "Frozen: 0:00:05.0 to 0:00:06.0; 0:00:07.0 to 0:00:08.0." in page
    figures = re.search(r'<th scope="row">luma</th>(.*?)<td><svg', page, re.DOTALL)
    assert figures is not None
    luma = [float(value) for value in re.findall(r">([\d.]+)</td>", figures[1])]
    assert len(luma) == 3
    assert luma == sorted(luma)
    assert "e+0" not in page[page.index("Quality of the frames") :].split("</table>")[0]
