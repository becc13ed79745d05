"""What is published has the same bytes in any process: no hash seed, locale or clock is in it."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load

from wtours.storage.atomic import write_bytes
from wtours.storage.tensor_files import pth_bytes, safetensors_bytes

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENTS = (
    ("0", "UTC", "C.UTF-8", "1", ()),
    ("1", "Asia/Kolkata", "C", "2", ("reversed",)),
    ("random", "Pacific/Apia", "tr_TR.UTF-8", "2", ()),
    ("2", "America/St_Johns", "POSIX", "3", ()),
    ("3", "Pacific/Kiritimati", "en_US.ISO-8859-1", "4", ("reversed",)),
    ("4", "Europe/Berlin", "de_DE.UTF-8", "1", ("reversed",)),
)
"""PYTHONHASHSEED, TZ, LC_ALL, OMP_NUM_THREADS, and how folders list their files."""
KINDS = {
    *("analysis/*/detections.parquet", "analysis/*/frames.parquet", "analysis/*/shots.parquet"),
    *("analysis/*/receipt.json", "analysis/*/summary.json"),
    *("rendered/*.mp4", "rendered/*.receipt.json", "rendered/detections/*.parquet"),
    *("rendered/truth/*/truth.json", "rendered/crops/*/*/*.jpg"),
    *("reports/figure2.pdf", "reports/figure2.png", "reports/figure2.svg", "reports/report.html"),
    *("reports/table6.csv", "reports/table6.json", "reports/table6.md"),
    *("shards/*/ATTRIBUTION.md", "shards/*/dataset.json", "shards/*/index.parquet"),
    *("shards/*/*.tar", "shards/*/receipts/*.json", "shards/*/receipts/*.parquet"),
    *("videos/*/info.json", "videos/*/receipt.json", "videos/ATTRIBUTION.md"),
    *("runs/default/config.yaml", "runs/default/metrics.jsonl"),
    *("runs/default/checkpoints/*/model.safetensors", "runs/default/checkpoints/*/state.json"),
    *("runs/default/checkpoints/*/optimizer.safetensors", "runs/*/checkpoints/*/receipt.json"),
    *("runs/default/eval/knn-*.json", "runs/default/eval/linear-*.json"),
    *("runs/default/eval/linear-*.safetensors", "runs/default/exports/timm/model.safetensors"),
    *("runs/default/exports/*/config.json", "runs/default/exports/hf/model.safetensors"),
    *("runs/default/exports/official.pth", "runs/default/exports/detectron2.pth"),
    *("runs/default/exports/seqtrack.pth", "runs/again/checkpoints/*/model.safetensors"),
    *("runs/default/figures/*.png", "runs/default/figures/*.mp4", "runs/default/figures/*.json"),
    *("analysis/*/measurements/quality/seconds.parquet", "shards/light/quality.parquet"),
    *("shards/default/layers/boxes/*.tar", "shards/default/layers/boxes/layer.json"),
    "runs/default/rewind-step-*.html",
    *("../grid.png", "../small.toml", "../mine.toml"),
}
KINDS_OF_DATA = {kind for kind in KINDS if not kind.startswith("runs/")}
WITH_A_CLOCK = {"tensorboard", "locks", "cache"}
"""Logs whose entries are times, locks, and what is known of files by their inode: unpublished."""


def written_in(folder, environment, trained):
    """Write all in a fresh process; return the sha256 of each file that it published."""
    seed, zone, locale, threads, arguments = environment
    arguments += ("trained",) * trained
    folder.mkdir()
    result = subprocess.run(
        [sys.executable, "-m", "tests.support.write_every_file", *arguments],
        env={
            **os.environ,
            **{"PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": locale, "OMP_NUM_THREADS": threads},
            **{"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(REPOSITORY)},
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, (environment, result.stderr[-3000:])
    for kind in KINDS if trained else KINDS_OF_DATA:
        assert list((folder / "data").glob(kind)), f"{kind} was not written"
    return {
        str(path.relative_to(folder)): hashlib.sha256(without_times(path)).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock") and not WITH_A_CLOCK & set(path.parts)
    }


def without_times(path):
    if path.name != "metrics.jsonl":
        return path.read_bytes()
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    return json.dumps([{**line, "time": None} for line in lines]).encode()


# Training and what is made of it take half of a process's time, torch's import among it.
@pytest.mark.medium
@pytest.mark.parametrize("num_trained", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_each_kind_of_file_has_the_same_bytes_in_six_processes(tmp_path, num_trained):
    folders = [tmp_path / str(number) for number in range(len(ENVIRONMENTS))]
    trained = [number < num_trained for number in range(len(ENVIRONMENTS))]
    with ThreadPoolExecutor(max_workers=2) as pool:
        first, *others = pool.map(written_in, folders, ENVIRONMENTS, trained)
    of_data = {name: sha256 for name, sha256 in first.items() if not is_of_a_run(name)}
    for environment, has_run, written in zip(ENVIRONMENTS[1:], trained[1:], others, strict=True):
        expected = first if has_run else of_data
        assert written.keys() == expected.keys()
        differing = sorted(name for name in expected if written[name] != expected[name])
        assert not differing, environment


def is_of_a_run(name):
    return name.startswith(("data/runs/", "images/"))


def test_a_pth_does_not_hold_the_name_of_the_temporary_file_that_it_was(tmp_path):
    write_bytes(tmp_path / "teacher.pth", pth_bytes({"a": torch.ones(2)}))
    names = zipfile.ZipFile(tmp_path / "teacher.pth").namelist()
    assert {name.partition("/")[0] for name in names} == {"archive"}


def test_metadata_is_in_the_order_of_its_keys_and_the_tensors_are_the_librarys(tmp_path):
    tensors = {"b": torch.ones(3), "a": torch.zeros(2, 2), "c": torch.ones(3, dtype=torch.int64)}
    metadata = {key: f'{key} "é"\n' for key in "zyxwvutsrqponm"}
    path = tmp_path / "file.safetensors"
    path.write_bytes(safetensors_bytes(tensors, metadata))
    header = path.read_bytes()[8:].partition(b"}")[0]
    assert [header.index(f'"{key}":'.encode()) for key in sorted(metadata)] == sorted(
        header.index(f'"{key}":'.encode()) for key in metadata
    )
    with safe_open(path, "pt") as file:
        assert file.metadata() == metadata
    torch.testing.assert_close(load(path.read_bytes()), tensors, rtol=0, atol=0)
