"""A disk that fills up while shards are written, on a small file system of its own."""

import errno
import functools
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sharded_videos import files_of, publish_video
from tests.support.small_disk import resize, small_disk
from tests.support.video_clips import write_clip
from wtours.errors import WtoursError
from wtours.execution.processes import ProcessExecutor
from wtours.sharding.build import build_shards
from wtours.shards import ShardIndex
from wtours.shards.params import ShardParams
from wtours.workspace.layout import Layout

PARAMS = ShardParams(shard_seconds=1, short_side=128)


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """An empty file system of 600 KiB."""
    with small_disk(tmp_path / "disk", "size=600k") as folder:
        yield folder


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, source="mandelbrot=size=192x128:rate=30", t=4, crf=40)


def workspace(source: Path, root: Path, shards: Path) -> Layout:
    """Return a workspace whose shards are kept on another disk."""
    layout = Layout(root)
    publish_video(layout, "walk", source)
    layout.shards_dir("default").parent.symlink_to(shards)
    return layout


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.medium)])
def test_a_full_disk_is_one_clear_line_and_the_run_goes_on_with_space(source, tmp_path, disk, jobs):
    plenty = tmp_path / "plenty"
    plenty.mkdir()
    undisturbed = workspace(source, tmp_path / "root", plenty)
    expected = files_of(build_shards(undisturbed, ["walk"], params=PARAMS).directory)
    assert sum(map(len, expected.values())) > 900_000

    layout = workspace(source, tmp_path / "full", disk)
    executor = ProcessExecutor(jobs)
    with (
        executor,
        pytest.raises(WtoursError, match=r"disk full while writing .*\.tar: 0 MiB free") as caught,
    ):
        build_shards(layout, ["walk"], params=PARAMS, executor=executor)
    assert "\n" not in str(caught.value)
    directory = layout.shards_dir("default")
    published = files_of(directory)
    # What has its final name is whole; there is something, and no index yet.
    assert published.items() < expected.items()
    assert any(name.endswith(".tar") for name in published)
    assert "dataset.json" not in published

    resize(disk, "64m")
    with executor:
        report = build_shards(layout, ["walk"], params=PARAMS, executor=executor)
    assert report.num_segments_kept > 0
    assert files_of(directory) == expected


def test_a_disk_that_fills_while_finalizing_leaves_the_earlier_set(source, tmp_path, disk):
    layout = workspace(source, tmp_path / "root", disk)
    resize(disk, "64m")
    directory = build_shards(layout, ["walk"], params=PARAMS).directory
    before = files_of(directory)
    used_kib = sum(path.stat().st_blocks for path in directory.rglob("*")) // 2
    resize(disk, f"{used_kib}k")
    with pytest.raises(WtoursError, match="disk full while writing"):
        build_shards(layout, ["walk"], params=PARAMS)
    assert files_of(directory) == before
    assert len(ShardIndex.open(directory)) == 120


@pytest.mark.medium
def test_wherever_the_disk_fills_nothing_wrong_has_a_final_name(source, tmp_path, disk):
    layout = workspace(source, tmp_path / "root", disk)
    resize(disk, "64m")
    directory = build_shards(layout, ["walk"], params=PARAMS).directory
    expected = files_of(directory)
    num_failed = 0
    for size_kib in range(4, 1400, 60):  # a page and more: at each the disk ends at another write
        shutil.rmtree(directory)
        resize(disk, f"{size_kib}k")
        try:
            build_shards(layout, ["walk"], params=PARAMS)
        except WtoursError:
            num_failed += 1
        assert files_of(directory).items() <= expected.items()
        resize(disk, "64m")
        build_shards(layout, ["walk"], params=PARAMS)
        assert files_of(directory) == expected
    assert num_failed > 10


@pytest.mark.medium
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_whichever_fsync_fails_nothing_wrong_has_a_final_name(
    source, tmp_path, monkeypatch, number
):
    layout = Layout(tmp_path)
    publish_video(layout, "walk", source)
    expected = files_of(build_shards(layout, ["walk"], params=PARAMS).directory)
    directory, fsync, calls = layout.shards_dir("default"), os.fsync, itertools.count()

    def failing(descriptor, *, fail_at):
        if next(calls) == fail_at:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    for fail_at in itertools.count():
        shutil.rmtree(directory)
        calls = itertools.count()
        monkeypatch.setattr(os, "fsync", functools.partial(failing, fail_at=fail_at))
        try:
            build_shards(layout, ["walk"], params=PARAMS)
        except WtoursError:
            pass
        else:
            break  # no fsync is left to fail
        monkeypatch.undo()
        assert files_of(directory).items() <= expected.items()
        build_shards(layout, ["walk"], params=PARAMS)
        assert files_of(directory) == expected
    assert fail_at > 20
