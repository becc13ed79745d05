"""DORA* (Table 8): still images without labels, from a folder or a tar."""

import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.command_line import exit_code_of
from tests.support.shard_set import TINY, moving_pattern
from training.config.presets import resolve_config
from training.data.image_clips import ImageClip, ImageClips
from training.distributed.world import World
from training.engine.checkpoint_files import checkpoint_dir
from training.engine.metrics import read_metrics
from training.engine.setup import open_views
from training.pretrain import pretrain
from wtours.errors import CheckpointError, ImageDataError, UsageError

WORLD = World(0, 1, 0, torch.device("cpu"))
SMALL = [value for value in TINY if not value.startswith("data.clip_length")]
STEPS = ["optim.steps=2", "optim.epochs=1", "optim.freeze_last_layer_epochs=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight photographs of different sizes, some deeper than others, and what is none."""
    root = tmp_path_factory.mktemp("stills") / "photos"
    (root / "a/deep/er").mkdir(parents=True)
    for number, pixels in enumerate(moving_pattern(8, (48, 64), seed=3)):
        place = (
            root / ("a/deep/er" if number % 2 else "a") / f"{number}.{['png', 'jpg'][number % 2]}"
        )
        Image.fromarray(pixels[: 40 + number]).save(place)
    (root / "notes.txt").write_text("not an image")
    (root / ".hidden.png").write_bytes(b"not an image either")
    return root


@pytest.fixture(scope="module")
def tar(folder):
    path = folder.parent / "photos.tar"
    with tarfile.open(path, "w") as packed:
        for file in sorted(folder.rglob("*"), reverse=True):  # another order than by name
            packed.add(file, file.relative_to(folder), recursive=False)
    return path


def train(path, run_dir, *overrides):
    config = resolve_config("images", None, [*SMALL, *STEPS, *overrides])
    pretrain(config, shards_dir=path, run_dir=run_dir, world=WORLD)
    return [
        {name: value for name, value in line.items() if name != "time"}
        for line in read_metrics(run_dir / "metrics.jsonl")
    ]


def test_a_folder_and_its_tar_hold_the_same_images_in_the_same_order(folder, tar):
    ours, packed = ImageClips(folder), ImageClips(tar)
    assert [ours.describe(number)["image"] for number in range(len(ours))] == [
        *(f"a/{number}.png" for number in (0, 2, 4, 6)),
        *(f"a/deep/er/{number}.jpg" for number in (1, 3, 5, 7)),
    ]
    assert ours.identity == packed.identity
    for number in range(8):
        (one,), (other,) = ours[number].decode(), packed[number].decode()
        assert np.array_equal(one, other)
    assert ours[0].decode()[0].shape == (40, 64, 3)


def test_no_two_images_share_the_name_that_a_figure_of_them_has(tmp_path):
    deep = "/".join(["x" * 100] * 3)
    names = ["a/b.jpg", "a_b.jpg", "a%2Fb.jpg", f"{deep}/c.jpg", f"{deep}_c.jpg"]
    ids = {ImageClip(name, tmp_path, b"").video_id for name in names}
    assert len(ids) == len(names)
    assert not any("/" in one or len(one) > 200 for one in ids)


@pytest.mark.medium
def test_objects_are_found_in_each_image_and_a_tar_trains_as_its_folder(folder, tar, tmp_path):
    lines = train(folder, tmp_path / "folder")
    assert [line["step"] for line in lines] == [1, 2]
    assert all(0 < line["mask_coverage"] < 1 for line in lines)
    mean = [(line["loss_masked"] + line["loss_local"]) / 2 for line in lines]
    assert [line["loss"] for line in lines] == pytest.approx(mean)
    watched = ["watch.overlay_every_steps=2", "watch.overlay_clips=1"]
    assert train(tar, tmp_path / "tar", *watched) == lines
    (figure,) = (tmp_path / "tar/figures").iterdir()
    assert figure.name.startswith("step-00000002-a%2F")
    weights = (
        checkpoint_dir(tmp_path / name, 2) / "model.safetensors" for name in ("folder", "tar")
    )
    assert len({path.read_bytes() for path in weights}) == 1


@pytest.mark.medium
def test_another_set_of_images_is_refused_when_going_on(folder, tar, tmp_path):
    train(folder, tmp_path / "run")
    with tarfile.open(tar) as packed:
        packed.extractall(tmp_path / "fewer", filter="data")
    (tmp_path / "fewer/a/0.png").unlink()
    with pytest.raises(CheckpointError, match="8 clips, now 7"):
        train(tmp_path / "fewer", tmp_path / "run")


@pytest.mark.medium
def test_a_broken_image_is_named_in_one_line(tar, tmp_path, capsys, monkeypatch):
    with tarfile.open(tar) as packed:
        packed.extractall(tmp_path / "photos", filter="data")
    for file in (tmp_path / "photos").rglob("*.jpg"):
        file.write_bytes(file.read_bytes()[:300])
    words = [word for value in (*SMALL, *STEPS) for word in ("--set", value)]
    command = ["pretrain", tmp_path / "photos", "--run", tmp_path / "run", "--preset", "images"]
    assert exit_code_of(monkeypatch, *command, *words) == 1
    line = capsys.readouterr().err.splitlines()[-1]  # after the one that tells the precision
    assert line.startswith("error: image ")
    assert "jpg of" in line
    assert "cannot be decoded" in line


def test_what_is_no_set_of_images_is_refused(tmp_path):
    (tmp_path / "text").write_text("not a tar")
    (tmp_path / "empty").mkdir()
    with tarfile.open(tmp_path / "packed.tgz", "w:gz"):
        pass
    with pytest.raises(ImageDataError, match=r"packed\.tgz is neither a folder nor an unc"):
        ImageClips(tmp_path / "packed.tgz")
    with pytest.raises(ImageDataError, match="cannot be read as a tar"):
        ImageClips(tmp_path / "text")
    with pytest.raises(ImageDataError, match="no such file or folder"):
        ImageClips(tmp_path / "absent")
    with pytest.raises(ImageDataError, match="holds no JPEG, PNG or WebP image"):
        ImageClips(tmp_path / "empty")
    with pytest.raises(UsageError, match=r"data\.clip_length=1"):
        resolve_config("images", None, ["data.clip_length=8"])


def test_images_have_no_videos_to_mix(folder):
    config = resolve_config("images", None, [*SMALL, "data.mixture={a: 1}"])
    with pytest.raises(UsageError, match=r"data\.mixture weighs videos"):
        open_views(folder, config)
