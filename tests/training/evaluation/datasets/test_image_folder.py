import gzip
import hashlib
import io
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from training.data.image_decoding import decode_center
from training.data.image_files import MAX_IMAGE_BYTES
from training.distributed.world import World
from training.evaluation.datasets.image_folder import open_images, require_known_classes
from wtours.errors import ImageDataError
from wtours.progress import no_progress

transforms = pytest.importorskip("torchvision.transforms")
torch = pytest.importorskip("torch")
ONE = World(0, 1, 0, torch.device("cpu"))


def encoded(width=40, height=30, *, seed=0, format="JPEG", mode="RGB"):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).convert(mode).save(file, format)
    return file.getvalue()


def make_folder(root, names):
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(seed=seed))
    return root


def make_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in files.items() if isinstance(files, dict) else files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def refused(spec):
    with pytest.raises(ImageDataError) as caught:
        open_images(str(spec))
    message = str(caught.value)
    assert "\n" not in message
    return message


def contents(images):
    return {entry.name: data for entry, data in images.read()}


NAMES = ["cat/1.jpg", "cat/2.JPEG", "dog/1.png", "emu/x.webp"]


def test_a_folder_and_its_tar_hold_the_same_images(tmp_path):
    folder = make_folder(tmp_path / "photos", NAMES)
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(folder, "photos")
    from_folder, from_tar = open_images(str(folder)), open_images(str(tmp_path / "photos.tar"))

    assert from_folder.classes == from_tar.classes == ("cat", "dog", "emu")
    assert contents(from_folder) == contents(from_tar)
    assert sorted(contents(from_tar)) == NAMES
    assert from_folder.entries[0].file.size == (folder / "cat/1.jpg").stat().st_size


@pytest.mark.parametrize("prefix", ["val", "all/val", "./all/val", "val/"])
def test_a_prefix_picks_the_split(tmp_path, prefix):
    files = [(f"all/{split}/{name}", encoded()) for split in ("train", "val") for name in NAMES]
    path = make_tar(tmp_path / "a.tar", [*files[:4], *[(f"./{n}", d) for n, d in files[4:]]])
    assert sorted(contents(open_images(f"{path}:{prefix}"))) == NAMES


def test_a_compressed_tar_is_read(tmp_path):
    files = [(name, encoded(seed=seed)) for seed, name in enumerate(NAMES)]
    path = make_tar(tmp_path / "a.tar.gz", files, "w:gz")
    assert contents(open_images(str(path))) == dict(files)


def test_a_path_with_a_colon_is_a_path(tmp_path):
    folder = make_folder(tmp_path / "a:b", NAMES)
    assert len(open_images(str(folder)).entries) == 4


def test_what_is_no_image_is_left_out(tmp_path):
    folder = make_folder(tmp_path / "photos", NAMES)
    (folder / "README.txt").write_text("photos")
    (folder / "cat" / "._1.jpg").write_bytes(b"resource fork")
    (folder / "cat" / "notes.txt").write_text("cats")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "1.jpg").write_bytes(encoded())
    assert len(open_images(str(folder)).entries) == 4


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../etc/passwd", "cat/link.jpg", "nothing"])
def test_a_link_out_of_the_tar_or_to_nothing_is_refused_not_left_out(tmp_path, kind, target):
    path = make_tar(tmp_path / "a.tar", [(name, encoded()) for name in NAMES])
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("cat/link.jpg")
        member.type, member.linkname = kind, target
        tar.addfile(member)
    message = refused(path)
    assert f"image 'cat/link.jpg' is a link to {target!r}, which is not in the tar" in message


def test_a_link_to_nothing_in_a_folder_is_refused_too(tmp_path):
    folder = make_folder(tmp_path / "photos", NAMES)
    (folder / "cat/link.jpg").symlink_to("gone.jpg")
    assert "image 'cat/link.jpg' is a link to nothing" in refused(folder)
    (folder / "cat/link.jpg").unlink()
    (folder / "cat/loop.jpg").symlink_to("loop.jpg")
    assert "image 'cat/loop.jpg' is a link to nothing" in refused(folder)


def test_a_class_of_another_format_is_refused_not_left_out(tmp_path):
    folder = make_folder(tmp_path / "photos", NAMES)
    for name in ("fox/1.bmp", "fox/2.bmp"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(encoded(format="BMP"))
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(folder, "photos")
    for spec in (folder, tmp_path / "photos.tar"):
        assert "class 'fox' has no JPEG, PNG or WebP, only .bmp; convert" in refused(spec)


def test_some_images_of_another_format_are_said(tmp_path):
    folder = make_folder(tmp_path / "photos", NAMES)
    assert open_images(str(folder)).notes == ()
    for name in ("cat/9.bmp", "dog/9.TIF", "dog/notes.txt", "dog/._8.bmp"):
        (folder / name).write_bytes(b"")
    assert open_images(str(folder)).notes == (f"{folder}: 2 images are left out (.bmp, .tif)",)


def test_a_missing_path_is_refused(tmp_path):
    assert "nowhere: no such file" in refused(tmp_path / "nowhere")
    assert "nowhere.tar:val: no such file" in refused(f"{tmp_path}/nowhere.tar:val")


def test_an_empty_split_is_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    assert "has no JPEG, PNG or WebP image" in refused(tmp_path)
    assert "no class folders of images" in refused(make_tar(tmp_path / "a.tar", []))


def test_an_unknown_prefix_is_refused_with_what_there_is(tmp_path):
    files = [(f"all/{split}/{name}", encoded()) for split in ("train", "val") for name in NAMES]
    path = make_tar(tmp_path / "a.tar", files)
    for spec in (f"{path}:test", f"{path}:all", f"{path}"):
        assert refused(spec).endswith("all/train, all/val")


def test_images_outside_class_folders_are_refused(tmp_path):
    shallow = make_folder(tmp_path / "shallow", ["1.jpg", *NAMES])
    assert "'1.jpg' lies in no class folder" in refused(shallow)
    deep = make_folder(tmp_path / "deep", ["train/cat/1.jpg", "train/dog/1.jpg"])
    assert "'train/cat/1.jpg' lies deeper than class/file" in refused(deep)
    flat = make_tar(tmp_path / "flat.tar", [("1.jpg", encoded()), ("2.jpg", encoded())])
    assert "'1.jpg' lies in no class folder" in refused(flat)


def test_one_class_only_is_refused(tmp_path):
    assert "one class folder only, 'cat'" in refused(make_folder(tmp_path, ["cat/1.jpg"]))


def test_a_file_that_is_no_tar_is_refused(tmp_path):
    (tmp_path / "a.tar").write_text("not a tar\n" * 100)
    assert "a.tar cannot be read as a tar" in refused(tmp_path / "a.tar")


def test_a_tar_cut_in_the_middle_is_refused(tmp_path):
    path = make_tar(tmp_path / "a.tar", [(name, encoded()) for name in NAMES])
    whole = path.read_bytes()
    path.write_bytes(gzip.compress(whole)[:-200])
    assert "a.tar cannot be read as a tar" in refused(path)
    path.write_bytes(whole)
    images = open_images(str(path))
    path.write_bytes(whole[:3000])
    with pytest.raises(ImageDataError, match=r"a\.tar"):
        contents(images)
    # Between two members, where `tarfile` takes it for a whole one.
    path.write_bytes(whole[:2048])
    assert "a.tar cannot be read as a tar (it was cut after 2048 bytes" in refused(path)


def test_an_image_twice_in_a_tar_is_refused(tmp_path):
    path = make_tar(tmp_path / "a.tar", [(name, encoded()) for name in [*NAMES, NAMES[1]]])
    assert "image 'cat/2.JPEG' more than once" in refused(path)


def test_a_huge_member_is_refused_before_it_is_read(tmp_path):
    header = tarfile.TarInfo("cat/huge.jpg")
    header.size = MAX_IMAGE_BYTES + 1
    path = make_tar(tmp_path / "a.tar", [("dog/1.jpg", encoded())])
    with path.open("r+b") as file:
        with tarfile.open(path) as tar:
            end = tar.getmembers()[-1].offset_data + 512 * -(-len(encoded()) // 512)
        file.seek(end)
        file.write(header.tobuf())
        file.truncate(end + 512 + header.size + 2048)
    assert "'cat/huge.jpg' has more than" in refused(path)


def test_an_image_that_went_away_is_named(tmp_path):
    images = open_images(str(make_folder(tmp_path, NAMES)))
    (tmp_path / "dog/1.png").unlink()
    with pytest.raises(ImageDataError, match=r"dog/1\.png cannot be read"):
        contents(images)


def test_a_class_that_nobody_can_vote_for_is_refused(tmp_path):
    train = open_images(str(make_folder(tmp_path / "train", ["cat/1.jpg", "dog/1.jpg"])))
    val = open_images(str(make_folder(tmp_path / "val", ["cat/1.jpg", "emu/1.jpg"])))
    with pytest.raises(ImageDataError, match="no image of: emu"):
        require_known_classes(train, val)
    require_known_classes(train, train)


@pytest.mark.parametrize("size", [(500, 333), (333, 501), (32, 32), (31, 90), (256, 256)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_crop_is_torchvisions_pixel_by_pixel(size, mode):
    data = encoded(*size, mode=mode)
    oracle = transforms.Compose(
        [
            transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
        ]
    )
    expected = np.asarray(oracle(Image.open(io.BytesIO(data)).convert("RGB")))
    actual = decode_center(data, what="x", resize_pixels=256, crop_pixels=224)
    assert actual.shape == (224, 224, 3)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_png_and_webp_decode(format):
    data = encoded(format=format)
    assert decode_center(data, what="x", resize_pixels=40, crop_pixels=32).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello", "not a JPEG, PNG or WebP"),
        (b"", "not a JPEG, PNG or WebP"),
        (encoded(format="GIF", mode="P"), "not a JPEG, PNG or WebP"),
        (encoded(200, 200)[:3000], "cannot be decoded"),
        (encoded(200, 200, format="PNG")[:3000], "cannot be decoded"),
        (encoded(1, 20_000, format="PNG"), "too long and thin"),
    ],
)
def test_an_unreadable_image_is_named(data, reason):
    with pytest.raises(ImageDataError, match=rf"image cat/1\.jpg .*{reason}"):
        decode_center(data, what="cat/1.jpg", resize_pixels=256, crop_pixels=224)


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_a_picture_of_too_many_pixels_is_refused_unread(side):
    data = bytearray(encoded(format="PNG"))
    data[16:24] = struct.pack(">II", side, side)  # what the header claims
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(ImageDataError, match="pixels"):
        decode_center(bytes(data), what="bomb.png", resize_pixels=256, crop_pixels=224)


def saved_dataset(path, labels=(1, 0, 1), names=("cat", "dog/wolf")):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        picture=datasets.Image(),
        label=datasets.ClassLabel(names=list(names)),
        n=datasets.Value("int8"),
    )
    rows = {
        "picture": [{"bytes": encoded(seed=i), "path": None} for i in range(len(labels))],
        "label": list(labels),
        "n": [0] * len(labels),
    }
    datasets.disable_progress_bars()
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_dataset_saved_on_disk_is_read_by_its_own_columns(tmp_path):
    saved_dataset(tmp_path).save_to_disk(tmp_path / "photos")
    images = open_images(str(tmp_path / "photos"))
    assert [entry.name for entry in images.entries] == [
        "dog_wolf/00000000",
        "cat/00000001",
        "dog_wolf/00000002",
    ]
    assert [data for _, data in images.read()] == [encoded(seed=i) for i in range(3)]
    assert [entry.file.size for entry in images.entries] == [len(encoded(seed=i)) for i in range(3)]
    assert images.source.read(images.entries[1].file) == encoded(seed=1)
    lines = [
        f"{entry.name}\0{entry.file.size}\0{hashlib.sha256(images.source.read(entry.file)).hexdigest()}\n"
        for entry in sorted(images.entries, key=lambda entry: entry.name)
    ]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()  # as of every version
    assert images.fingerprint(ONE, no_progress) == expected


def test_a_saved_dataset_whose_classes_have_no_names_is_refused(tmp_path):
    saved_dataset(tmp_path).save_to_disk(tmp_path / "photos")
    info = tmp_path / "photos" / "dataset_info.json"
    info.write_text(info.read_text().replace('"cat"', "7"))
    with pytest.raises(ImageDataError, match="has classes whose names are no texts"):
        open_images(str(tmp_path / "photos"))


def test_classes_of_a_saved_dataset_stay_apart(tmp_path):
    saved_dataset(tmp_path, names=("a/b", "a_b")).save_to_disk(tmp_path / "photos")
    images = open_images(str(tmp_path / "photos"))
    assert images.classes == ("a%2Fb", "a_b")
    assert [entry.class_name for entry in images.entries] == ["a_b", "a%2Fb", "a_b"]


def test_a_label_out_of_range_is_named(tmp_path):
    saved_dataset(tmp_path, labels=(0, -1, 1)).save_to_disk(tmp_path / "photos")
    assert "row 1 has label -1, which is none of the 2 classes" in refused(tmp_path / "photos")


def test_a_dataset_of_several_splits_or_without_labels_says_what_it_has(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = saved_dataset(tmp_path)
    datasets.DatasetDict(train=rows, val=rows).save_to_disk(tmp_path / "both")
    assert refused(tmp_path / "both").endswith(
        "several splits; name one: " + f"{tmp_path}/both/{{train,val}}"
    )
    rows.remove_columns("label").save_to_disk(tmp_path / "plain")
    assert "it has 1 and 0 (columns: picture, n)" in refused(tmp_path / "plain")


def test_images_are_read_in_any_order(tmp_path):
    names = ["a/1.jpg", "b/2.jpg", "a/3.jpg"]
    folder = make_folder(tmp_path / "photos", names)
    files = {f"all/val/{name}": (folder / name).read_bytes() for name in names}
    plain = make_tar(tmp_path / "photos.tar", files)
    for images in (open_images(str(folder)), open_images(f"{plain}:all/val")):
        for entry in reversed(images.entries):
            assert images.source.read(entry.file) == (folder / entry.name).read_bytes()
    packed = open_images(f"{make_tar(tmp_path / 'photos.tgz', files, mode='w:gz')}:all/val")
    with pytest.raises(
        ImageDataError, match=r"photos\.tgz is neither a folder nor an uncompressed tar"
    ):
        packed.source.read(packed.entries[0].file)
