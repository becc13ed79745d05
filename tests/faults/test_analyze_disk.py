"""A disk that is full, or fails, at any write of `analyze`: nothing wrong has a final name."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.analyze_cases import add_video, published_bytes, write_detections, write_scenes
from tests.support.small_disk import resize, small_disk
from wtours.analyze.pipeline import analyze_videos
from wtours.analyze.schema import NotAnalyzedError, load_summary
from wtours.errors import WtoursError
from wtours.storage import atomic
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("clip") / "a.mp4", seconds=(0.6, 0.6), size="96x64")


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> str:
    rows = [(round(i * 1e6 / 30), f"thing {i % 7}", 0.5, 1.0, 2.0, 3.0, 4.0) for i in range(36)]
    return f"file:{write_detections(tmp_path_factory.mktemp('truth') / 'truth.parquet', rows)}"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, clip, detector) -> dict[str, bytes]:
    layout = Layout(tmp_path_factory.mktemp("undisturbed"))
    add_video(layout, "walk", clip)
    analyze_videos(layout, ["walk"], detector=detector)
    return published_bytes(layout, "walk")


def assert_whole_or_absent(layout: Layout, undisturbed: dict[str, bytes]) -> None:
    with contextlib.suppress(NotAnalyzedError):  # and no other error
        load_summary(layout, "walk")
        assert published_bytes(layout, "walk") == undisturbed


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_disk_that_fails_at_the_nth_call(
    tmp_path, clip, detector, undisturbed, monkeypatch, call, number
):
    target, name = (atomic, "fsync") if call == "fsync" else (Path, "replace")
    real = getattr(target, name)
    num_harmless = 0
    for nth in range(1, 1000):
        layout = Layout(tmp_path / str(nth))
        add_video(layout, "walk", clip)
        calls = 0

        def failing(*arguments, nth=nth):
            nonlocal calls
            calls += 1
            if calls == nth:
                raise OSError(number, os.strerror(number))
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(target, name, failing)
            try:
                reason = analyze_videos(layout, ["walk"], detector=detector).failed.get("walk", "")
            except WtoursError as error:
                reason = str(error)
        if calls < nth:
            break
        expected = "disk full" if number == errno.ENOSPC else "input/output error"
        if not reason:  # at a note that nothing depends on
            assert published_bytes(layout, "walk") == undisturbed
            num_harmless += 1
            continue
        assert expected in reason.lower()
        assert "\n" not in reason
        assert_whole_or_absent(layout, undisturbed)
        assert analyze_videos(layout, ["walk"], detector=detector).failed == {}
        assert published_bytes(layout, "walk") == undisturbed
        shutil.rmtree(layout.root)
    assert nth > 10
    assert num_harmless <= 2


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "size=4k") as folder:
        yield folder


def test_a_disk_of_any_size_that_is_too_small(tmp_path, clip, detector, undisturbed, disk):
    layout = Layout(tmp_path / "root")
    add_video(layout, "walk", clip)
    (layout.root / "analysis").symlink_to(disk)
    num_full = 0
    for kib in range(8, 400, 8):
        resize(disk, f"{kib}k")
        reason = ""
        try:
            assert analyze_videos(layout, ["walk"], detector=detector).failed == {}
        except WtoursError as error:
            reason = str(error)
        if not reason:
            break
        assert "disk full while writing" in reason
        assert_whole_or_absent(layout, undisturbed)
        num_full += 1
        shutil.rmtree(layout.analysis_dir("walk"), ignore_errors=bool(kib % 16))
    assert num_full > 3
    assert published_bytes(layout, "walk") == undisturbed
