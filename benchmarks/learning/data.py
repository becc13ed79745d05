"""What bench_learning trains and measures on: CamVid's drives, or rendered walks without them."""

import csv
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.evaluation.datasets.segmentation import LAYOUTS
from wtours.storage.atomic import atomic_path
from wtours.synthetic import WalkSpec, WalkTruth, load_truth, render_walk

REAL_DATA = Path(os.environ.get("WTOURS_TEST_DATA", "../shared/data"))
DRIVES = {
    "camvid_0016E5_0_1hz": "train",
    "camvid_0016E5_1_1hz": "train",
    "camvid_0016E5_2_1hz": "train",
    "camvid_0006R0_1hz": "test",
}
"""All are trained on without labels; which split their labels are in."""
_LABELS, _CIFAR = "images/camvid_labels_11class.tar", "images/cifar10_10x200_10x50.tar"
_WALKS = {"walk_0": "train", "walk_1": "train", "walk_2": "test"}
_MASK_WALK = "walk_masks"
_WALK_SIZE = (480, 270)
_SHORT_SIDE = 180
_OBJECTS = (
    *("person", "car", "dog", "tree", "bench", "bicycle"),
    *("traffic light", "fire hydrant"),
)
"""Classes of a rendered walk's pixels, from 1; 0 is everything else."""


@dataclass(frozen=True)
class BenchData:
    """Where everything lies.

    Attributes:
        what: What was trained on, in words.
        shards: The clips.
        segmentation: Folders in CamVid's layout.
        cifar: Tar of class folders in train and val; None: there is none.
        walk: A rendered walk of one frame a second, and the folder of its truth.
    """

    what: str
    shards: Path
    segmentation: Path
    cifar: Path | None
    walk: tuple[Path, Path]


def prepare(folder: Path) -> BenchData:
    """Make what is missing below `folder`."""
    videos = folder / "sources"
    videos.mkdir(parents=True, exist_ok=True)
    real = (REAL_DATA / _LABELS).is_file()
    if real:
        for name in DRIVES:
            link = videos / f"{name.lower()}.mp4"
            if not link.exists():
                link.symlink_to((REAL_DATA / "videos" / f"{name}.mp4").resolve())
    else:
        for seed, name in enumerate(_WALKS):
            _rendered(videos / f"{name}.mp4", seconds=160, seed=seed)
    segmentation = folder / "segmentation"
    if not segmentation.is_dir():
        with atomic_path(segmentation) as temp:
            _write_camvid(temp, _labeled_drives() if real else _labeled_walks(videos))
    cifar = REAL_DATA / _CIFAR
    return BenchData(
        what="CamVid's drives" if real else "rendered walks",
        shards=_shards([name.lower() for name in (DRIVES if real else _WALKS)], videos, folder),
        segmentation=segmentation,
        cifar=cifar if cifar.is_file() else None,
        walk=_rendered(folder / f"{_MASK_WALK}.mp4", seconds=80, seed=100),
    )


def frames_of(video: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield every frame of a video, (H, W, 3) RGB."""
    with av.open(str(video)) as container:
        for frame in container.decode(video=0):
            yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def _rendered(video: Path, *, seconds: int, seed: int) -> tuple[Path, Path]:
    """Return a walk of one frame a second and its truth; made once."""
    truth = video.with_suffix(".truth")
    if not video.exists():
        width, height = _WALK_SIZE
        spec = WalkSpec(
            seconds=seconds, width=width, height=height, frame_rate=1, seed=seed, light_end=0.7
        )
        render_walk(spec, video, truth_path=truth)
    return video, truth


def _shards(names: list[str], videos: Path, root: Path) -> Path:
    """Return the shard set of the videos, every frame, reduced to a short side of 180 pixels."""
    shards = root / "shards" / "default"
    if (shards / "dataset.json").is_file():
        return shards
    manifest = root / "bench.toml"
    entries = [
        f'[[video]]\nid = "{name}"\ntitle = "{name}"\nsources = ["file:{name}.mp4"]\n'
        f'domain = "Urban"\nlicense_claimed = "CC-BY-NC-4.0"\n'
        for name in names
    ]
    manifest.write_text("\n".join(['format = 1\nname = "bench"\n', *entries]))
    common = ("--manifest", str(manifest), "--root", str(root))
    for words in (
        ("download", *common, "--from-dir", str(videos)),
        ("shard", *common, "--fps", "native", "--short-side", str(_SHORT_SIDE), "--jobs", "1"),
    ):
        subprocess.run(
            [sys.executable, "-m", "wtours", *words],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return shards


def _labeled_drives() -> Iterator[tuple[str, str, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield (split, name, frame, labels): the labels of a video are numbered by its frames."""
    with tarfile.open(REAL_DATA / _LABELS) as tar:
        index = tar.extractfile("index.csv")
        assert index is not None
        rows = csv.DictReader(io.TextIOWrapper(index))
        wanted = {(row["video"], int(row["frame"])) for row in rows}
        for drive, split in DRIVES.items():
            video = REAL_DATA / "videos" / f"{drive}.mp4"
            for number, frame in enumerate(frames_of(video)):
                if (video.name, number) in wanted:
                    file = tar.extractfile(f"labels/{drive}/{number:05d}.png")
                    assert file is not None
                    labels = np.asarray(Image.open(io.BytesIO(file.read())))
                    yield split, f"{drive}_{number:05d}", frame, labels


def _labeled_walks(
    videos: Path,
) -> Iterator[tuple[str, str, NDArray[np.uint8], NDArray[np.uint8]]]:
    for name, split in _WALKS.items():
        truth = load_truth(videos / f"{name}.truth")
        for number, frame in enumerate(frames_of(videos / f"{name}.mp4")):
            yield split, f"{name}_{number:05d}", frame, _classes(truth, number)


def _classes(truth: WalkTruth, frame_index: int) -> NDArray[np.uint8]:
    labels = np.zeros((truth.height, truth.width), np.uint8)
    for row in truth.detections.to_pylist():
        if row["frame_index"] == frame_index:
            mask = truth.mask(frame_index, row["track_id"])
            labels[mask] = 1 + _OBJECTS.index(row["label"])
    return labels


def _write_camvid(
    root: Path, items: Iterator[tuple[str, str, NDArray[np.uint8], NDArray[np.uint8]]]
) -> None:
    camvid = LAYOUTS[0]
    for split, name, frame, labels in items:
        images, annotations = camvid.train if split == "train" else camvid.test
        for folder, pixels in ((images, frame), (annotations, labels)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{name}.png", compress_level=1)
