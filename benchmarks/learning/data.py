"""What bench_learning trains and measures on: CamVid's drives, or rendered walks without them."""

import csv
import io
import os
import subprocess
import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
CAMVID, WALKS = "CamVid's drives", "rendered walks"
_LABELS, _CIFAR = "images/camvid_labels_11class.tar", "images/cifar10_10x200_10x50.tar"
_WALKS = {"walk_0": "train", "walk_1": "train", "walk_2": "test"}
_MASK_WALK = "walk_masks"
_DRIVE, _UNLABELED = "camvid_0016E5_15hz", 11
_SEQUENCE_FRAMES, _SEQUENCE_HEIGHT = 25, 192
_SMALLEST = 0.002
"""Share of a frame that an object must fill to be followed: about a patch."""
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
        sequences: By name, sequences with masks in DAVIS's layout, for label propagation.
    """

    what: str
    shards: Path
    segmentation: Path
    cifar: Path | None
    walk: tuple[Path, Path]
    sequences: dict[str, Path]


def prepare(folder: Path, *, rendered: bool = False) -> BenchData:
    """Make what is missing below `folder`; `rendered`: of walks even where CamVid is there."""
    videos = folder / "sources"
    videos.mkdir(parents=True, exist_ok=True)
    camvid = (REAL_DATA / _LABELS).is_file()
    real = camvid and not rendered
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
        what=CAMVID if real else WALKS,
        shards=_shards([name.lower() for name in (DRIVES if real else _WALKS)], videos, folder),
        segmentation=segmentation,
        cifar=cifar if cifar.is_file() else None,
        walk=_rendered(folder / f"{_MASK_WALK}.mp4", seconds=80, seed=100),
        sequences=_sequences(folder, camvid=camvid),
    )


def _sequences(folder: Path, *, camvid: bool) -> dict[str, Path]:
    """Return sequences of a rendered walk, and of CamVid's drive where it is there; made once."""
    walk = folder / "sequences" / "walk"
    if not walk.is_dir():
        video, truth = _rendered(folder / "walk_objects.mp4", seconds=10, seed=101, rate=10)
        with atomic_path(walk) as out:
            write_davis(out, frames_of(video), _instances(truth))
    found = {"walk": walk}
    if camvid:
        found["camvid"] = folder / "sequences" / "camvid"
        if not found["camvid"].is_dir():
            with atomic_path(found["camvid"]) as out:
                write_davis(out, frames_of(REAL_DATA / "videos" / f"{_DRIVE}.mp4"), _classes_15hz())
    return found


def frames_of(video: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield every frame of a video, (H, W, 3) RGB."""
    with av.open(str(video)) as container:
        for frame in container.decode(video=0):
            yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def _rendered(video: Path, *, seconds: int, seed: int, rate: int = 1) -> tuple[Path, Path]:
    """Return a walk and its truth; made once."""
    truth = video.with_suffix(".truth")
    if not video.exists():
        width, height = _WALK_SIZE
        spec = WalkSpec(
            seconds=seconds, width=width, height=height, frame_rate=rate, seed=seed, light_end=0.7
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


def write_davis(
    out: Path, frames: Iterable[NDArray[np.uint8]], masks: Iterable[NDArray[np.integer[Any]]]
) -> None:
    """Write sequences of 25 frames, 192 pixels high, whose first frame's objects are followed.

    Args:
        out: The folder to write.
        frames: Each (H, W, 3) RGB.
        masks: Each (H, W): 0 is background.
    """
    names: list[str] = []
    numbers = np.zeros(0, np.int64)
    for count, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
        name, number = f"part-{count // _SEQUENCE_FRAMES}", count % _SEQUENCE_FRAMES
        if number == 0:
            values, sizes = np.unique(mask[mask > 0], return_counts=True)
            numbers = values[sizes >= _SMALLEST * mask.size]
            names.append(name)
        objects = np.zeros(mask.shape, np.uint8)
        for index, value in enumerate(numbers, 1):
            objects[mask == value] = index
        size = frame.shape[1] * _SEQUENCE_HEIGHT // frame.shape[0], _SEQUENCE_HEIGHT
        for kind, pixels, how, suffix in (
            ("JPEGImages", frame, Image.Resampling.BICUBIC, "jpg"),
            ("Annotations", objects, Image.Resampling.NEAREST, "png"),
        ):
            path = out / kind / "480p" / name / f"{number:05d}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize(size, how).save(path, quality=95)
    whole = names if number == _SEQUENCE_FRAMES - 1 else names[:-1]
    listing = out / "ImageSets" / "2017" / "val.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("".join(f"{name}\n" for name in whole))


def _instances(truth_path: Path) -> Iterator[NDArray[np.int32]]:
    """Yield the track number of each pixel, a frame after another; 0: none."""
    truth = load_truth(truth_path)
    rows = defaultdict(list)
    for row in truth.detections.to_pylist():
        rows[row["frame_index"]].append(row["track_id"])
    for frame_index in range(truth.num_frames):
        tracks = np.zeros((truth.height, truth.width), np.int32)
        for track in rows[frame_index]:
            tracks[truth.mask(frame_index, track)] = track
        yield tracks


def _classes_15hz() -> Iterator[NDArray[np.uint8]]:
    """Yield the classes of each frame of CamVid's drive of 15 frames a second, from 1; 0: none."""
    with tarfile.open(REAL_DATA / _LABELS) as tar:
        for number in range(len(list(frames_of(REAL_DATA / "videos" / f"{_DRIVE}.mp4")))):
            file = tar.extractfile(f"labels/{_DRIVE}/{number:05d}.png")
            assert file is not None
            labels = np.asarray(Image.open(io.BytesIO(file.read())))
            yield np.where(labels == _UNLABELED, 0, labels + 1).astype(np.uint8)
