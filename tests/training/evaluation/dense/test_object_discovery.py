"""Object discovery on VOC folders made by hand, with a network that attends to what is red."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.red_backbone import PATCH, red_seer
from training.evaluation.datasets.voc import VocFolder
from training.evaluation.dense.object_discovery import evaluate_discover, find_objects
from training.models.vit import encode_with_attention
from wtours.errors import ImageDataError

CPU = torch.device("cpu")
RED, GREEN = (255, 0, 0), (0, 255, 0)


def picture(red_boxes, width=48, height=32):
    pixels = np.full((height, width, 3), GREEN, dtype=np.uint8)
    for left, top, right, bottom in red_boxes:
        pixels[top:bottom, left:right] = RED
    return Image.fromarray(pixels)


def annotation(boxes):
    """The boxes end-exclusive and counted from 0; the file counts from 1 to the last pixel."""
    tag = "<object><name>thing</name><difficult>1</difficult><bndbox>{}</bndbox></object>"
    sides = ("xmin", "ymin", "xmax", "ymax")
    inner = [
        "".join(
            f"<{side}>{value + side.endswith('min')}</{side}>"
            for side, value in zip(sides, box, strict=True)
        )
        for box in boxes
    ]
    return f"<annotation>{''.join(tag.format(text) for text in inner)}</annotation>"


def voc_folder(root, images, *, masks=None, split="Segmentation/val"):
    """Write images {name: (picture, boxes)}."""
    for name in ("JPEGImages", "Annotations", "SegmentationObject", f"ImageSets/{split}"):
        (root / name).mkdir(parents=True)
    (root / f"ImageSets/{split}").rmdir()
    (root / f"ImageSets/{split}.txt").write_text("".join(f"{name}\n" for name in images))
    for name, (image, boxes) in images.items():
        image.save(root / "JPEGImages" / f"{name}.jpg", quality=95, subsampling=0)
        (root / "Annotations" / f"{name}.xml").write_text(annotation(boxes))
        mask = (masks or {}).get(name)
        if mask is not None:
            Image.fromarray(mask).save(root / "SegmentationObject" / f"{name}.png")
    return root


def mask_of(boxes, void=(), width=48, height=32):
    mask = np.zeros((height, width), dtype=np.uint8)
    for value, (left, top, right, bottom) in enumerate(boxes, start=1):
        mask[top:bottom, left:right] = value
    for left, top, right, bottom in void:
        mask[top:bottom, left:right] = 255
    return mask


@pytest.fixture
def backbone(tmp_path):
    return red_seer(tmp_path / "run")


def test_the_network_made_by_hand_attends_to_red_alone(backbone):
    found = find_objects(backbone, picture([(8, 8, 24, 24)]), "attention")
    expected = np.zeros((4, 6), dtype=bool)
    expected[1:3, 1:3] = True
    assert (found.mask == expected).all()
    pixels = torch.tensor([[2.0, -2.0, 0.0]]).reshape(1, 3, 1, 1).expand(1, 3, 32, 48).clone()
    pixels[..., 24:] *= -1
    attention = encode_with_attention(backbone.network, pixels).cls_attention[0, 0].reshape(4, 6)
    assert attention[:, :3].sum() > 0.9  # the CLS token itself takes a 13th of it
    assert attention[:, 3:].sum() < 1e-6


@pytest.fixture
def three_images(tmp_path):
    """The same red square; its box is annotated exactly, twice as large, and a bit larger."""
    square = (8, 8, 24, 24)
    red = picture([square])
    return voc_folder(
        tmp_path / "VOC2012",
        {
            "exact": (red, [(0, 0, 4, 4), square]),
            "half": (red, [(8, 8, 40, 24)]),
            "less": (red, [(8, 8, 41, 24)]),
        },
        masks={
            "exact": mask_of([square, (24, 8, 28, 24)], void=[(24, 8, 28, 24)]),
            "half": mask_of([(8, 8, 40, 24)]),
            "less": mask_of([(8, 8, 16, 24), (24, 24, 32, 32)]),
        },
    )


def test_corloc_and_jaccard_are_those_worked_out_by_hand(backbone, three_images):
    result = evaluate_discover(backbone, three_images)
    found = result.content["results"]
    # IoU 1, 256/512 (exactly one half is a hit), 256/528.
    assert found["num_hits"] == 2
    assert found["corloc_percent"] == pytest.approx(200 / 3)
    assert found["mean_best_iou"] == pytest.approx((1 + 1 / 2 + 256 / 528) / 3)
    # Masks: void left out, all; half of the larger; 128 shared of 256 + 64 in all.
    assert found["jaccard_percent"] == pytest.approx(100 * (1 + 1 / 2 + 128 / 320) / 3)
    published = json.loads(result.path.read_text())
    assert published["val"]["num_images"] == 3
    assert published["protocol"]["kept_mass"] == 0.8
    assert result.path.parent == backbone.folder / "eval"


def test_lost_expands_from_the_patches_that_are_like_few_others(backbone, three_images):
    result = evaluate_discover(backbone, three_images, method="lost")
    assert result.content["results"]["num_hits"] == 2
    other = evaluate_discover(backbone, three_images)
    assert other.path != result.path
    assert other.content["val"] == result.content["val"]


def test_the_box_is_around_the_largest_part_and_ends_at_the_image(backbone, tmp_path):
    # 44 pixels wide: the last column of patches is half outside. Three patches there, two left.
    red = picture([(40, 8, 44, 32), (0, 0, 8, 16)], width=44)
    root = voc_folder(tmp_path / "voc", {"edge": (red, [(40, 8, 44, 32)])})
    result = evaluate_discover(backbone, root, pictures=tmp_path / "drawn")
    assert result.content["results"]["mean_best_iou"] == 1
    assert result.content["results"]["jaccard_percent"] is None
    assert "1 of 1 image without a mask" in result.notes[0]
    drawn = np.asarray(Image.open(tmp_path / "drawn" / "edge.png"))
    assert drawn.shape == (32, 44, 3)
    assert tuple(drawn[20, 40]) == (255, 40, 40)  # the found box lies over the annotated one
    assert drawn[4, 20, 1] > 240  # not found: as it was
    assert abs(drawn[4, 4].astype(int) - (255, 20, 20)).max() < 6  # red, half red again


def test_a_split_of_main_and_a_folder_around_it_will_do(backbone, tmp_path):
    red = picture([(8, 8, 24, 24)])
    voc_folder(
        tmp_path / "VOCdevkit" / "VOC2012", {"a": (red, [(8, 8, 24, 24)])}, split="Main/trainval"
    )
    result = evaluate_discover(backbone, tmp_path, split="Main/trainval")
    assert result.content["results"]["corloc_percent"] == 100


def test_what_is_missing_or_broken_is_one_line(backbone, three_images, tmp_path):
    def refused(root=three_images, split="Segmentation/val"):
        with pytest.raises(ImageDataError) as caught:
            evaluate_discover(backbone, root, split=split)
        assert not (backbone.folder / "eval").exists()
        return str(caught.value)

    assert "is not laid out as VOC: it has no folder JPEGImages" in refused(tmp_path / "nothing")
    assert "no split 'Main/val'; it has Segmentation/val" in refused(split="Main/val")
    (three_images / "SegmentationObject" / "half.png").write_bytes(b"no picture")
    assert "half.png is not a JPEG, PNG or WebP" in refused()
    Image.new("L", (9, 9)).save(three_images / "SegmentationObject" / "half.png")
    assert "half.png of" in refused()
    (three_images / "Annotations" / "half.xml").write_text("<annotation>")
    assert "annotation half of" in refused()
    (three_images / "Annotations" / "half.xml").write_text("<annotation></annotation>")
    assert "has no object with a box" in refused()
    for xmax in ("nan", "1", "inf"):
        box = f"<xmin>5</xmin><ymin>5</ymin><xmax>{xmax}</xmax><ymax>9</ymax>"
        (three_images / "Annotations" / "half.xml").write_text(
            f"<annotation><object><bndbox>{box}</bndbox></object></annotation>"
        )
        assert "has a box without area" in refused()
    (three_images / "Annotations" / "half.xml").write_text(
        '<!DOCTYPE a [<!ENTITY b "bbbb">]><annotation>&b;</annotation>'
    )
    assert "has a document type" in refused()
    (three_images / "JPEGImages" / "half.jpg").write_bytes(b"\xff\xd8no")
    assert "image half of" in refused()
    (three_images / "JPEGImages" / "half.jpg").unlink()
    assert "half.jpg cannot be read (No such file or directory)" in refused()
    (three_images / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
    assert "val.txt is empty" in refused()
    (three_images / "ImageSets" / "Segmentation" / "val.txt").write_text("../half\n")
    assert "'../half', which is not the name of an image" in refused()


def test_a_list_of_one_class_has_a_flag_behind_each_name(three_images):
    list_file = three_images / "ImageSets" / "Segmentation" / "val.txt"
    list_file.write_text("exact -1\nhalf  1\n")
    assert VocFolder(three_images, "Segmentation/val").names == ["exact", "half"]


def test_patches_are_eight_pixels(backbone):
    assert backbone.patch_pixels == PATCH
