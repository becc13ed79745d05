"""Label propagation: against loops, and on videos made by hand whose J and F are known."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.support.red_backbone import red_seer
from training.data.normalization import Normalization
from training.evaluation.dense.vos import (
    NORMALIZATION,
    PropagationConfig,
    evaluate_vos,
    frame_features,
    propagate_masks,
    resized,
    working_size,
)
from wtours.errors import ImageDataError, UsageError

SMALL = PropagationConfig(short_side=64)
RED, GREEN = (255, 0, 0), (0, 255, 0)


@pytest.mark.parametrize("pieces", [2**25, 3 * 35 * 4])
def test_carried_masks_are_those_of_loops(monkeypatch, pieces):
    monkeypatch.setattr("training.evaluation.dense.vos._AT_ONCE", pieces)
    grid, settings = (5, 7), PropagationConfig(radius=2, top=4, temperature=0.1)
    generator = torch.Generator().manual_seed(0)
    target = F.normalize(torch.randn(35, 6, generator=generator), dim=1)
    sources = F.normalize(torch.randn(3 * 35, 6, generator=generator), dim=1)
    masks = torch.rand(3 * 35, 2, generator=generator)

    expected = torch.zeros(35, 2)
    for patch in range(35):
        row, column = divmod(patch, 7)
        likeness = []
        for source in range(3 * 35):
            there = divmod(source % 35, 7)
            if abs(there[0] - row) <= 2 and abs(there[1] - column) <= 2:
                likeness.append(((target[patch] @ sources[source] / 0.1).exp().item(), source))
        best = sorted(likeness, reverse=True)[:4]
        total = sum(each for each, _ in best)
        for weight, source in best:
            expected[patch] += weight / total * masks[source]

    torch.testing.assert_close(
        propagate_masks(target, sources, masks, grid=grid, config=settings), expected
    )


@pytest.mark.parametrize(
    ("size", "patch", "expected"),
    [
        ((480, 854), 16, (480, 832)),
        ((480, 910), 16, (480, 896)),
        ((854, 480), 8, (832, 480)),
        ((1080, 1920), 16, (480, 832)),
        ((480, 854), 14, (476, 840)),
    ],
)
def test_frames_are_resized_as_dinos_script_does(size, patch, expected):
    assert working_size(size, 480, patch) == expected


def test_the_resize_is_opencvs_but_for_rounding():
    frame = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    theirs = cv2.resize(frame, (64, 32), interpolation=cv2.INTER_LINEAR)
    ours = 255 * resized(frame, (32, 64))[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - theirs).max() < 1


def test_a_backbone_of_another_normalization_sees_frames_as_it_was_trained_on_them(tmp_path):
    usual, other = red_seer(tmp_path), red_seer(tmp_path)
    # The same network for pixels from 0 to 1: DINO's constants are in its patch embedding.
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALIZATION)
    embed = other.network.patch_embed.proj
    with torch.no_grad():
        kernel = embed.weight / std
        embed.bias -= (kernel * mean).sum(dim=(1, 2, 3))
        embed.weight.copy_(kernel)
    plain = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    other = dataclasses.replace(other, normalization=plain)
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    ours, theirs = (frame_features(each, frame, (64, 64)) for each in (usual, other))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def write_video(root, name, squares, masks=None, height=64, width=128):
    """A red box on green for each frame; its mask is the box unless said otherwise."""
    frames, truth = root / "JPEGImages/480p" / name, root / "Annotations/480p" / name
    for folder in (frames, truth, root / "ImageSets/2017"):
        folder.mkdir(parents=True, exist_ok=True)
    with (root / "ImageSets/2017/val.txt").open("a") as file:
        file.write(f"{name}\n")
    for number, square in enumerate(squares):
        pixels = np.full((height, width, 3), GREEN, dtype=np.uint8)
        left, top, right, bottom = square
        pixels[top:bottom, left:right] = RED
        Image.fromarray(pixels).save(frames / f"{number:05}.jpg", quality=95, subsampling=0)
        mask = np.zeros((height, width), dtype=np.uint8)
        left, top, right, bottom = (masks or squares)[number]
        mask[top:bottom, left:right] = 1
        Image.fromarray(mask).save(truth / f"{number:05}.png")
    return root


# From top to bottom: a bilinear map cuts the corners off a bar, but leaves a straight edge.
MOVING = [(8 * n, 0, 8 * n + 24, 64) for n in range(2, 7)]


@pytest.fixture
def backbone(tmp_path):
    return red_seer(tmp_path / "run")


def evaluate(backbone, davis, **changed):
    arguments = {"config": SMALL, **changed}
    return evaluate_vos(backbone, davis, **arguments)


def test_a_bar_that_moves_patch_by_patch_is_followed_exactly(backbone, tmp_path):
    davis = write_video(tmp_path / "davis", "walk", MOVING)
    result = evaluate(backbone, davis, masks_dir=tmp_path / "masks")
    found = result.content["results"]
    assert (found["j_mean_percent"], found["f_mean_percent"]) == (100, 100)
    assert (found["jf_mean_percent"], found["j_recall_percent"]) == (100, 100)
    assert found["f_decay_percent"] == 0
    for number, (left, top, right, bottom) in enumerate(MOVING):
        image = Image.open(tmp_path / "masks" / "walk" / f"{number:05}.png")
        assert image.mode == "P"
        assert (image.getpalette() or [])[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
        expected = np.zeros((64, 128), dtype=np.uint8)
        expected[top:bottom, left:right] = 1
        assert (np.asarray(image) == expected).all()


def test_j_and_f_are_those_worked_out_by_hand(backbone, tmp_path):
    """Five still frames; of the middle three the truth is the same, half, and two pixels off."""
    bar = (40, 0, 64, 64)
    truth = [bar, bar, (40, 0, 52, 64), (42, 0, 66, 64), (0, 0, 9, 9)]
    davis = write_video(tmp_path / "davis", "still", [bar] * 5, truth)
    result = evaluate(backbone, davis)
    (found,) = result.content["results"]["objects"]
    assert (found["sequence"], found["object"]) == ("still", 1)
    j = [1, 1 / 2, 22 / 26]
    assert found["j"]["mean"] == pytest.approx(sum(j) / 3)
    assert found["j"]["recall"] == pytest.approx(2 / 3)  # one half is not above one half
    # Quarters of three frames: 1 to 2 (from 1 and 1.5, rounded to 2), and 3 alone (2.5 to 3).
    assert found["j"]["decay"] == pytest.approx((j[0] + j[1]) / 2 - j[2])
    # Two pixels are within the tolerance of two; of the half, one edge of two is found each way.
    assert found["f"]["mean"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    published = json.loads(result.path.read_text())
    assert published["val"]["num_objects"] == 1
    assert published["protocol"]["last_frames"] == 7
    masks = backbone.folder / "eval" / "vos-masks" / "red-seer-00000000" / "still"
    assert sorted(path.name for path in masks.iterdir()) == [f"{n:05}.png" for n in range(5)]


def test_objects_of_all_sequences_count_alike(backbone, tmp_path):
    davis = write_video(tmp_path / "davis", "walk", MOVING)
    bar = (40, 0, 64, 64)
    write_video(davis, "still", [bar] * 3, [bar, (40, 0, 52, 64), bar])
    found = evaluate(backbone, davis).content["results"]
    assert found["j_mean_percent"] == pytest.approx(100 * (1 + 1 / 2) / 2)
    assert len(found["objects"]) == 2


def test_masks_are_not_written_over_the_true_ones(backbone, tmp_path):
    davis = write_video(tmp_path / "davis", "walk", MOVING)
    with pytest.raises(UsageError, match=r"holds the true masks .* another --out"):
        evaluate(backbone, davis, masks_dir=davis / "JPEGImages/../Annotations/480p")
    assert len(list((davis / "Annotations/480p/walk").iterdir())) == len(MOVING)


def test_masks_of_an_earlier_evaluation_are_replaced_by_whole_ones_alone(backbone, tmp_path):
    davis, masks = write_video(tmp_path / "davis", "walk", MOVING), tmp_path / "masks"
    evaluate(backbone, davis, masks_dir=masks)
    (masks / "walk" / "old.png").touch()
    last_frame = davis / "JPEGImages/480p/walk/00004.jpg"
    whole = last_frame.read_bytes()
    last_frame.write_bytes(b"no picture")
    with pytest.raises(ImageDataError):
        evaluate(backbone, davis, masks_dir=masks)
    assert len(list((masks / "walk").iterdir())) == len(MOVING) + 1
    last_frame.write_bytes(whole)
    evaluate(backbone, davis, masks_dir=masks)
    assert len(list((masks / "walk").iterdir())) == len(MOVING)


def test_what_is_missing_or_broken_is_one_line(backbone, tmp_path):
    davis = write_video(tmp_path / "davis", "walk", MOVING)

    def refused(root=davis, split="val"):
        with pytest.raises(ImageDataError) as caught:
            evaluate(backbone, root, split=split)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "is not laid out as DAVIS 2017" in refused(tmp_path / "nothing")
    assert "has no split 'test'" in refused(split="test")
    masks = davis / "Annotations/480p/walk"
    whole = (masks / "00000.png").read_bytes()
    Image.new("L", (128, 64)).save(masks / "00000.png")
    assert "sequence walk has no object in" in refused()
    half = Image.new("L", (128, 64))
    half.paste(255, (0, 0, 64, 64))
    half.save(masks / "00000.png")
    assert "has one object, marked by 255 as in DAVIS 2016" in refused()
    Image.new("RGB", (128, 64)).save(masks / "00000.png")
    assert "an image of mode RGB, not one number for each pixel" in refused()
    (masks / "00000.png").write_bytes(whole)
    (davis / "JPEGImages/480p/walk/00001.jpg").write_bytes(b"no picture")
    assert "00001.jpg is not a JPEG" in refused()
    assert not (backbone.folder / "eval/vos-masks/red-seer-00000000/walk").exists()
    write_video(davis, "walk", MOVING)
    Image.new("L", (9, 9)).save(masks / "00003.png")
    assert "00003.png has another size than the first" in refused()
    (masks / "00002.png").unlink()
    assert "sequence walk has no mask" in refused()
    for number in (2, 3, 4):
        (davis / f"JPEGImages/480p/walk/0000{number}.jpg").unlink()
    assert "sequence walk has 2 frames" in refused()
    (davis / "ImageSets/2017/val.txt").write_text("")
    assert "is empty" in refused()
    for name in ("../../walk", "..", "/tmp/walk", "a/b", "a" * 300):
        (davis / "ImageSets/2017/val.txt").write_text(name)
        assert "is not the name of an image or video" in refused()
