import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from training.data.image_decoding import decode_center, resize_for
from training.data.normalization import normalized
from training.evaluation.datasets.image_folder import open_images
from training.evaluation.features import extract_features
from training.models.vit import build_backbone, encode
from wtours.errors import ImageDataError

CPU = torch.device("cpu")


def tiny_backbone(seed=0):
    torch.manual_seed(seed)
    return build_backbone(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=3
    ).eval()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(11):
        path = root / ("cat", "dog", "emu")[number % 3] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return open_images(str(root))


def extract(images, **changed):
    arguments = {
        "classes": ("cat", "dog", "emu"),
        "crop_pixels": 32,
        "batch_size": 4,
        "device": CPU,
        **changed,
    }
    return extract_features({"tiny": tiny_backbone()}, images, **arguments)


def test_a_row_is_the_normalized_cls_token_of_its_image(photos):
    found = extract(photos)
    entry, data = max(photos.read(), key=lambda item: item[0].name)
    pixels = decode_center(data, what="x", resize_pixels=37, crop_pixels=32)

    by_hand = (torch.from_numpy(pixels.copy()).float() / 255).permute(2, 0, 1)
    by_hand = by_hand - torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    by_hand = by_hand / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        expected = F.normalize(encode(tiny_backbone(), by_hand[None]), dim=1)[0]
    torch.testing.assert_close(found.features["tiny"][-1], expected)
    assert found.features["tiny"].shape == (11, 24)
    assert found.labels[-1] == ("cat", "dog", "emu").index(entry.class_name)


def test_rows_are_in_the_order_of_the_names(photos):
    names = sorted(entry.name for entry in photos.entries)
    found = extract(photos)
    expected = [("cat", "dog", "emu").index(name.partition("/")[0]) for name in names]
    assert found.labels.tolist() == expected


def test_the_same_features_again_and_in_another_storage_order(photos):
    reversed_photos = replace(photos, entries=photos.entries[::-1])
    first, again = extract(photos), extract(photos)
    other_order = extract(reversed_photos, batch_size=11)
    assert torch.equal(first.features["tiny"], again.features["tiny"])
    assert first.fingerprint == again.fingerprint == other_order.fingerprint
    torch.testing.assert_close(first.features["tiny"], other_order.features["tiny"])
    assert torch.equal(first.labels, other_order.labels)


def test_the_fingerprint_is_of_names_sizes_and_contents(photos):
    lines = sorted(
        f"{entry.name}\0{len(data)}\0{hashlib.sha256(data).hexdigest()}\n"
        for entry, data in photos.read()
    )
    assert extract(photos).fingerprint == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_several_backbones_share_one_pass(photos):
    counted = []
    found = extract_features(
        {"one": tiny_backbone(0), "two": tiny_backbone(1)},
        photos,
        classes=("cat", "dog", "emu"),
        crop_pixels=32,
        batch_size=4,
        device=CPU,
        on_progress=lambda item, done, total: counted.append((done, total)),
    )
    assert counted == [(4, 11), (8, 11), (11, 11)]
    assert torch.equal(found.features["one"], extract(photos).features["tiny"])
    assert not torch.equal(found.features["one"], found.features["two"])


def test_an_unreadable_image_is_named(tmp_path):
    for name in ("cat/1.jpg", "dog/2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(ImageDataError, match=r"image cat/1\.jpg of .* is not a JPEG"):
        extract(open_images(str(tmp_path)))


@pytest.mark.parametrize(("crop", "resize"), [(224, 256), (96, 110), (448, 512), (32, 37)])
def test_the_resize_keeps_dinos_ratio(crop, resize):
    assert resize_for(crop) == resize


def test_normalized_maps_black_and_white_to_imagenets_range():
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 2, 1).expand(1, 1, 2, 3)
    expected = torch.tensor([[-0.485 / 0.229, 0.515 / 0.229], [-0.456 / 0.224, 0.544 / 0.224]])
    torch.testing.assert_close(normalized(images)[0, :2, 0], expected)
