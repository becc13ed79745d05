"""Several ranks, each with workers, train from an object store with one scratch folder."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.command_line import SCRIPT, torchrun
from tests.support.object_stores import OF_S3_CLIENTS, copy_into
from tests.support.shard_set import TINY, write_shard_set
from training.engine.metrics import read_metrics

REPOSITORY = Path(__file__).resolve().parents[3]
pytestmark = [pytest.mark.medium, OF_S3_CLIENTS]


def metrics_of_two_ranks(shards, run_dir, scratch):
    """Train; return the metrics without what the clock gave."""
    settings = [part for one in (*TINY, "data.num_workers=2") for part in ("--set", one)]
    words = ("pretrain", shards, "--run", run_dir, "--scratch", scratch, *settings)
    environment = {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(REPOSITORY),
    }
    trained = subprocess.run(
        torchrun(2, SCRIPT, *words),
        env=os.environ | environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert trained.returncode == 0, trained.stderr
    lines = read_metrics(run_dir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def test_two_ranks_compute_from_a_bucket_what_they_compute_from_the_disk(s3_folder, tmp_path):
    shards = write_shard_set(tmp_path / "shards")
    copy_into(s3_folder, shards)
    on_disk = metrics_of_two_ranks(shards, tmp_path / "disk", tmp_path / "unused")
    assert [line["step"] for line in on_disk] == [*range(1, 13)]
    assert not (tmp_path / "unused").exists()
    on_bucket = metrics_of_two_ranks(s3_folder, tmp_path / "bucket", tmp_path / "scratch")
    assert on_bucket == on_disk
    assert any((tmp_path / "scratch").rglob("*"))
