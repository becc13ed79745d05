"""Several ranks, each with workers, train from an object store with one scratch folder."""

import shutil

import pytest

from tests.support.forked_ranks import forked_ranks
from tests.support.object_stores import OF_S3_CLIENTS, copy_into
from tests.support.shard_set import TINY, write_shard_set
from training.engine.checkpoint_files import checkpoint_dir
from training.engine.metrics import read_metrics

pytestmark = [pytest.mark.medium, OF_S3_CLIENTS]


def metrics_of_two_ranks(shards, run_dir, scratch, *changes):
    """Train; return the metrics without what the clock gave."""
    changes = (*TINY, "optim.steps=4", *changes)
    settings = [part for one in changes for part in ("--set", one)]
    words = ("pretrain", shards, "--run", run_dir, "--scratch", scratch, *settings)
    with forked_ranks(*words, folder=run_dir.with_suffix(".ranks")) as ranks:
        said = [rank.end() for rank in ranks]
        assert [rank.exitcode for rank in ranks] == [0, 0], said
    lines = read_metrics(run_dir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def test_two_ranks_compute_from_a_bucket_what_they_compute_from_the_disk(s3_folder, tmp_path):
    shards = write_shard_set(tmp_path / "shards")
    copy_into(s3_folder, shards)
    on_disk = metrics_of_two_ranks(shards, tmp_path / "disk", tmp_path / "unused")
    assert [line["step"] for line in on_disk] == [*range(1, 5)]
    assert not (tmp_path / "unused").exists()
    scratch = tmp_path / "scratch"
    run, often = tmp_path / "bucket", ("data.num_workers=2", "checkpoint.every_steps=2")
    assert metrics_of_two_ranks(s3_folder, run, scratch, *often) == on_disk
    assert any(scratch.rglob("*"))
    # Resumed in the middle, on a machine that has read nothing yet.
    shutil.rmtree(checkpoint_dir(run, 4))
    assert metrics_of_two_ranks(s3_folder, run, tmp_path / "another", *often) == on_disk
    assert read_metrics(run / "metrics.jsonl")[2]["time"]["resumed_from"] == 2
