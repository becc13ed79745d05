"""A disk that fills up while a checkpoint is written, on a small file system of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.shard_set import TINY, write_shard_set
from tests.support.small_disk import resize, small_disk
from training.config.presets import resolve_config
from training.distributed.world import World
from training.engine.checkpoint_files import newest_checkpoint
from training.engine.metrics import read_metrics
from training.pretrain import pretrain
from wtours.errors import WtoursError

WORLD = World(0, 1, 0, torch.device("cpu"))


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """An empty file system with room for one checkpoint of `TINY`, not for two."""
    with small_disk(tmp_path / "disk", "size=2400k") as folder:
        yield folder


@pytest.mark.medium
def test_a_full_disk_is_one_line_leaves_the_last_checkpoint_and_the_run_goes_on(tmp_path, disk):
    shards = write_shard_set(tmp_path / "shards")
    config = resolve_config("official", None, [*TINY, "optim.steps=3", "checkpoint.every_steps=1"])
    run_dir = disk / "run"
    with pytest.raises(WtoursError, match=r"disk full while writing .*/step-00000002: ") as caught:
        pretrain(config, shards_dir=shards, run_dir=run_dir, world=WORLD)
    assert "\n" not in str(caught.value)
    newest = newest_checkpoint(run_dir)
    assert newest is not None
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == [newest.name]
    assert newest.name == "step-00000001"

    resize(disk, "64m")
    report = pretrain(config, shards_dir=shards, run_dir=run_dir, world=WORLD)
    assert (report.started_at_step, report.steps) == (1, 3)
    assert [line["step"] for line in read_metrics(run_dir / "metrics.jsonl")] == [1, 2, 3]
