import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.support.pixel_labels import ADE20K, CAMVID, pack, picture, png, stripes, write_data
from training.evaluation.datasets.segmentation import VOID, open_labeled_pixels
from wtours.errors import ImageDataError

MAPS = {"train": [stripes([0, 1, 2]), stripes([-1, 2])], "test": [stripes([1, 0])]}


@pytest.mark.parametrize("layout", [CAMVID, ADE20K], ids=lambda layout: layout.name)
def test_images_and_labels_come_as_they_were_written(tmp_path, layout):
    write_data(tmp_path, layout, MAPS)

    train, test = open_labeled_pixels(tmp_path)

    assert (len(train), len(test), train.layout) == (2, 1, layout)
    image, labels = train.pair(1)
    assert (labels == MAPS["train"][1]).all()
    assert VOID in labels
    assert (np.asarray(image) == picture(MAPS["train"][1], seed=2)).all()


@pytest.mark.parametrize("within", ["", "ADEChallengeData2016"])
def test_a_tar_reads_as_the_folder_it_was_made_of(tmp_path, within):
    folder = write_data(tmp_path / "data", ADE20K, MAPS)

    of_tar = open_labeled_pixels(pack(folder, tmp_path / "data.tar", within=within))

    for packed, plain in zip(of_tar, open_labeled_pixels(folder), strict=True):
        assert packed.root == (f"{within}/" if within else "")
        assert [
            [file.name.removeprefix(packed.root) for file in pair] for pair in packed.files
        ] == [[file.name for file in pair] for pair in plain.files]
        assert packed.fingerprint() == plain.fingerprint()
        assert (packed.pair(0)[1] == plain.pair(0)[1]).all()


def test_a_folder_around_the_data_need_not_be_named(tmp_path):
    write_data(tmp_path / "CamVid", CAMVID, MAPS)

    assert len(open_labeled_pixels(tmp_path)[0]) == 2


def test_the_fingerprint_changes_with_a_label(tmp_path):
    write_data(tmp_path, CAMVID, MAPS)
    train, test = open_labeled_pixels(tmp_path)
    before = train.fingerprint(), test.fingerprint()

    (tmp_path / "trainannot/000.png").write_bytes(png(stripes([0, 2, 1]).astype(np.uint8)))

    assert train.fingerprint() != before[0]
    assert test.fingerprint() == before[1]


@pytest.mark.parametrize(
    ("layout", "value", "range_"),
    [(CAMVID, 12, "0 to 10, and 11"), (ADE20K, 151, "1 to 150, and 0")],
    ids=["camvid", "ade20k"],
)
def test_a_label_out_of_range_is_named(tmp_path, layout, value, range_):
    write_data(tmp_path, layout, MAPS)
    pixels = np.zeros((32, 48), np.uint8)
    pixels[3, 3] = value
    (tmp_path / layout.train[1] / "000.png").write_bytes(png(pixels))

    with pytest.raises(ImageDataError, match=f"000.png .* hold {value}; .* {range_}"):
        open_labeled_pixels(tmp_path)[0].labels(0)


def test_colors_are_no_labels(tmp_path):
    write_data(tmp_path, CAMVID, MAPS)
    (tmp_path / "trainannot/000.png").write_bytes(png(picture(stripes([0, 1]))))

    with pytest.raises(ImageDataError, match="of mode RGB, not one number for each pixel"):
        open_labeled_pixels(tmp_path)[0].labels(0)


def test_labels_of_another_size_are_refused(tmp_path):
    write_data(tmp_path, CAMVID, MAPS)
    (tmp_path / "trainannot/000.png").write_bytes(png(np.zeros((16, 48), np.uint8)))

    with pytest.raises(ImageDataError, match="is 48x32, its labels are 48x16"):
        open_labeled_pixels(tmp_path)[0].pair(0)


def test_an_image_without_labels_is_named(tmp_path):
    write_data(tmp_path, ADE20K, MAPS)
    (tmp_path / "annotations/validation/000.png").unlink()

    with pytest.raises(ImageDataError, match=r"images/validation/000\.png has no labels"):
        open_labeled_pixels(tmp_path)


def test_an_empty_split_is_named(tmp_path):
    write_data(tmp_path, CAMVID, {"train": MAPS["train"], "test": []})

    with pytest.raises(ImageDataError, match="has no image in test"):
        open_labeled_pixels(tmp_path)


def test_an_unreadable_image_is_named(tmp_path):
    write_data(tmp_path, CAMVID, MAPS)
    path = tmp_path / "train/001.png"
    path.write_bytes(path.read_bytes()[:200])

    with pytest.raises(ImageDataError, match=r"train/001\.png .* cannot be decoded"):
        open_labeled_pixels(tmp_path)[0].image(1)


def test_labels_that_say_they_are_huge_are_refused_in_one_line(tmp_path):
    write_data(tmp_path, CAMVID, MAPS)
    path = tmp_path / "trainannot/001.png"
    content = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", 40_000, 40_000) + content[24:29]
    checksum = struct.pack(">I", zlib.crc32(header))
    path.write_bytes(content[:12] + header + checksum + content[33:])

    with pytest.raises(ImageDataError, match=r"^labels trainannot/001\.png .* pixels$"):
        open_labeled_pixels(tmp_path)[0].labels(1)


def test_neither_layout_a_compressed_tar_and_nothing_there_are_one_line_each(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / "0.png")
    with pytest.raises(ImageDataError, match="labels of no known layout"):
        open_labeled_pixels(tmp_path / "photos")
    (tmp_path / "data.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(ImageDataError, match="uncompressed tar"):
        open_labeled_pixels(tmp_path / "data.tar")
    with pytest.raises(ImageDataError, match="no such file or folder"):
        open_labeled_pixels(tmp_path / "nothing")


def test_the_real_camvid_labels_are_in_range(tmp_path, data_dir):
    import tarfile

    with tarfile.open(data_dir / "images/camvid_labels_11class.tar") as tar:
        names = [f"labels/camvid_0006R0_1hz/{number:05d}.png" for number in range(0, 101, 20)]
        files = [tar.extractfile(name) for name in names]
        labels = [file.read() for file in files if file]
    for folder in ("train", "trainannot", "test", "testannot"):
        (tmp_path / folder).mkdir()
    for split in ("train", "test"):
        for number, data in enumerate(labels):
            Image.new("RGB", (480, 360)).save(tmp_path / split / f"{number}.png")
            (tmp_path / f"{split}annot/{number}.png").write_bytes(data)

    found = np.unique([open_labeled_pixels(tmp_path)[0].labels(n) for n in range(6)])

    assert found.min() == VOID
    assert found.max() <= 10


def test_two_images_with_the_same_labels_are_refused_not_merged(tmp_path):
    write_data(tmp_path, CAMVID, MAPS)
    (tmp_path / "train/000.jpg").write_bytes(png(picture(stripes([0, 1]))))

    with pytest.raises(ImageDataError, match=r"000\.jpg and .*000\.png have the same labels"):
        open_labeled_pixels(tmp_path)


@pytest.mark.parametrize("bits", [2, 4])
def test_gray_labels_of_few_bits_are_the_numbers_stored(tmp_path, bits):
    write_data(tmp_path, ADE20K, MAPS)
    rows = np.array([[0, 1, 2, 3] * 4] * 4, np.uint8)  # what PIL would stretch to 0..255
    packed = np.packbits(
        np.unpackbits(rows[..., None], axis=-1)[..., -bits:].reshape(len(rows), -1), axis=-1
    )
    header = struct.pack(">IIBBBBB", 16, 4, bits, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    (tmp_path / ADE20K.train[1] / "000.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )
    )

    assert (open_labeled_pixels(tmp_path)[0].labels(0) == rows.astype(int) - 1).all()
