"""Write one file of every kind that wtours publishes into the current folder, in one process.

    python -m tests.support.write_every_file [reversed] [trained]

With `reversed`, folders list their files the other way round, as another file system may; with
`trained`, files of a run are among them.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.shard_set import TINY

MANIFEST = """
format = 1
name = "small"
[[video]]
id = "morning"
title = "Spaziergang über die Brücke"
sources = ["file:morning.mp4"]
license_claimed = "CC-BY-4.0"
rendered = { seconds = 4, width = 128, height = 72, frame_rate = 10, seed = 1, cut_seconds = [2] }
[[video]]
id = "evening"
title = "A walk"
sources = ["file:evening.mp4"]
rendered = { seconds = 8, width = 128, height = 72, frame_rate = 10, seed = 2 }
"""
MANIFEST_OPTIONS = ("--manifest", "small.toml", "--root", "data")
RUN = (
    *TINY,
    *("model.embed_dim=192", "model.head_hidden_dim=32"),  # 64 a head, as in released weights
    *("optim.steps=2", "checkpoint.every_steps=1", "data.frame_interval_seconds=0.2"),
)
CLASSES = ("car", "tree")


def reverse_listings() -> None:
    """Let folders list their files in the other order from now on."""
    listdir, scandir = os.listdir, os.scandir

    class Reversed:
        def __init__(self, path: Any) -> None:
            with scandir(path) as entries:
                self._entries = iter(list(entries)[::-1])

        def __iter__(self) -> Any:
            return self._entries

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

        def close(self) -> None:
            pass

    os.listdir = lambda *path: listdir(*path)[::-1]  # type: ignore[assignment]
    os.scandir = lambda path=".": Reversed(path)  # type: ignore[assignment]


def run(*words: str) -> None:
    """Run a command of wtours in this process."""
    from wtours.cli.app import main  # here, as of torch below

    sys.argv = ["wtours", *words]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"{words} ended with {end.code}") from end


def write_images(folder: Path) -> None:
    """Write class folders `train` and `val`, and CamVid's layout, of random pictures."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for number in range(3):
                pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")


def write_data() -> None:
    """Take rendered walks to their shards."""
    Path("small.toml").write_text(MANIFEST, encoding="utf-8")
    jobs = ("--jobs", str(1 + int(os.environ["OMP_NUM_THREADS"]) % 2))
    run("render", *MANIFEST_OPTIONS)
    run("download", *MANIFEST_OPTIONS, "--from-dir", "data/rendered")
    run("pin", "--manifest", "small.toml", "--root", "data")
    run("add", "data/rendered/evening.mp4", "--id", "mine", "--manifest", "mine.toml")
    detections = ("--detector", "file:data/rendered/detections")
    run("analyze", *MANIFEST_OPTIONS, *detections, "--frame-quality", *jobs)
    run("report", *MANIFEST_OPTIONS)
    run("shard", *MANIFEST_OPTIONS, "--fps", "5", "--shard-seconds", "3", *jobs)
    where = ("--name", "light", "--where", "luma > 60 and not frozen")
    run("shard", *MANIFEST_OPTIONS, *where, "--fps", "5", "--shard-seconds", "3", *jobs)
    run("layer", "make", "boxes", "--from", "detections", "--root", "data")
    run("shards", "sample", "--root", "data", "--out", "grid.png", "--clips", "2")


def write_run() -> None:
    """Train on the shards, and write all that is made of a run."""
    import torch  # here: the processes that analyze and shard import this module first

    write_images(Path("images"))
    torch.set_num_threads(1)  # the order of torch's sums is theirs: docs/reference/training.md
    settings = [word for pair in RUN for word in ("--set", pair)]
    run("pretrain", "--root", "data", *settings)
    images = ("--train", "images/train", "--val", "images/val", "--root", "data")
    run("eval", "knn", "default", *images)
    run("eval", "linear", "default", *images, "--epochs", "1", "--workers", "0", "--lr", "0.1")
    for target in ("timm", "hf", "official", "detectron2", "seqtrack"):
        run("export", "default", "--to", target, "--root", "data")
    run("import", "data/runs/default/exports/official.pth", "--run", "again", "--root", "data")
    run("rewind", "default", "--step", "1", "--clips", "1", "--root", "data")
    run("visualize", "default", "--root", "data", "--video", "evening", "--clips", "1")


if __name__ == "__main__":
    asked = {*sys.argv[1:]}  # now: each command sets it anew
    if "reversed" in asked:
        reverse_listings()
    write_data()
    if "trained" in asked:
        write_run()
