"""A clock that jumps by days to and fro, and a time zone that changes, in mid-run."""

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from tests.support.http_server import Resource, serve
from tests.support.report_workspace import entry
from tests.support.shard_set import TINY, write_shard_set
from tests.support.sharded_videos import files_of, publish_video
from tests.support.tiny_run import ONE_PROCESS
from tests.support.video_clips import write_clip
from training.config.presets import resolve_config
from training.engine.metrics import read_metrics
from training.pretrain import pretrain
from wtours.acquire.download import download_videos
from wtours.acquire.options import FetchOptions
from wtours.sharding.build import build_shards
from wtours.shards.params import ShardParams
from wtours.storage.locks import lock
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium
ZONES = ("UTC", "Asia/Kathmandu", "America/St_Johns")
QUICK = (0.05,)
DAY = timedelta(days=1).total_seconds()


@pytest.fixture
def jumping_clock(monkeypatch) -> Iterator[None]:
    """Set the clock forward or back, and the time zone, at every fifth look at it."""
    real: Callable[[], float] = time.time
    looks = itertools.count()

    def jumped() -> float:
        jump, rest = divmod(next(looks), 5)
        if not rest:
            os.environ["TZ"] = ZONES[jump % len(ZONES)]
            time.tzset()
        return real() + DAY * (400 * (1 - 2 * (jump % 2)) - jump % 7)

    monkeypatch.setattr(time, "time", jumped)
    monkeypatch.setattr(time, "time_ns", lambda: int(jumped() * 1e9))
    yield
    monkeypatch.undo()
    os.environ["TZ"] = "UTC"
    time.tzset()


def rising(seen: list[tuple[str, float, float | None]]) -> bool:
    """Return whether the progress of every item goes up, and is finite."""
    items = {item for item, _, _ in seen}
    by_item = [[done for name, done, _ in seen if name == item] for item in items]
    return all(map(math.isfinite, itertools.chain.from_iterable(by_item))) and all(
        done == sorted(done) for done in by_item
    )


def test_download(tmp_path, jumping_clock):
    body = write_clip(tmp_path / "walk.mp4").read_bytes()
    seen: list[tuple[str, float, float | None]] = []
    with serve({"/walk.mp4": Resource(body, failing_statuses=[503])}) as server:
        walk = entry("walk", sources=(server.url("/walk.mp4"),))
        report = download_videos(
            [walk],
            Layout(tmp_path / "root"),
            options=FetchOptions(
                allow_unknown_license=True, limit_rate=2**20, retry_waits_seconds=QUICK
            ),
            on_progress=lambda *told: seen.append(told),
        )
    assert report.failed == {}
    assert (tmp_path / "root/videos/walk/walk.mp4").read_bytes() == body
    assert seen
    assert rising(seen)


def test_shard(tmp_path, jumping_clock):
    clip = write_clip(tmp_path / "walk.mp4", source="testsrc2=size=64x48:rate=10:duration=3")
    params = ShardParams(frames_per_second="5", shard_seconds=1, short_side=16)
    found = []
    for name in ("one", "two"):
        layout = Layout(tmp_path / name)
        publish_video(layout, "walk", clip)
        seen: list[tuple[str, float, float | None]] = []

        def tell(*told, seen=seen):
            seen.append(told)

        report = build_shards(layout, ["walk"], params=params, on_progress=tell)
        assert rising(seen)
        assert build_shards(layout, ["walk"], params=params).num_segments_written == 0
        found.append(files_of(report.directory))
    assert found[0] == found[1]


def test_pretrain(tmp_path, jumping_clock):
    shards = write_shard_set(tmp_path / "shards", num_frames=8)
    config = resolve_config("official", None, [*TINY, "optim.steps=4", "checkpoint.every_steps=2"])
    left: list[float] = []
    run_dir = tmp_path / "run"
    pretrain(
        config,
        shards_dir=shards,
        run_dir=run_dir,
        world=ONE_PROCESS,
        on_step=lambda status: left.append(status.seconds_left),
    )
    lines = read_metrics(run_dir / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(0 < line["time"]["seconds"] < DAY for line in lines)
    assert all(0 <= seconds < DAY for seconds in left)


def test_a_lock_is_of_a_process_and_has_no_age(tmp_path, jumping_clock):
    for _ in range(3):
        with lock(tmp_path / "lock", what="the folder"):
            os.utime(tmp_path / "lock", (0, 2**40))
