"""A folder and its tar give the same images, order, classes and fingerprint: odd trees, real cases.

`training.data.tar_files` has no word of PIL: an "image" here is any bytes under an image's name.
"""

import gzip
import os
import random
import shutil
import tarfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.data.image_clips import ImageClips
from training.distributed.world import World
from training.evaluation.datasets.image_folder import open_images
from wtours.errors import ImageDataError
from wtours.progress import no_progress

ONE = World(0, 1, 0, torch.device("cpu"))
FORMATS = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def seen(spec):
    """Return all that a command makes of a set of images: names, bytes, classes, fingerprint."""
    images = open_images(str(spec))
    names = [entry.name for entry in images.entries]
    read = {entry.name: data for entry, data in images.read()}
    assert sorted(names) == sorted(read)
    return (
        [(entry.name, images.source.read(entry.file)) for entry in images.entries],
        [read[name] for name in names],
        images.classes,
        images.fingerprint(ONE, no_progress),
    )


def outcome(function, *arguments):
    try:
        return function(*arguments)
    except ImageDataError:
        return "refused"


PARTS = st.sampled_from(["a", "b", "a b", "é", "b_a", ".hidden", "x" * 120])
FILES = st.sampled_from(
    ["1.jpg", "1.JPG", "2.png", "._1.jpg", ".jpg", "3.bmp", "n.txt", "ä.webp", f"{'y' * 110}.jpg"]
)
TARGETS = st.sampled_from(["1.jpg", "../a/1.jpg", "../b/2.png", ".././a/../a/1.jpg", "nowhere"])


@st.composite
def trees(draw):
    """Return folders, files, symbolic links to files and to folders, and hard links, by name."""
    plain = {"a/0.jpg": b"first", "b/0.jpg": b"second"}
    for _ in range(draw(st.integers(0, 6))):
        folders = draw(st.lists(PARTS, min_size=1, max_size=draw(st.sampled_from([1, 1, 1, 2]))))
        plain["/".join([*folders, draw(FILES)])] = draw(st.binary(max_size=600))
    empty = draw(st.lists(PARTS, max_size=2))
    links = {f"{draw(PARTS)}/{draw(FILES)}": draw(TARGETS) for _ in range(draw(st.integers(0, 2)))}
    to_folders = {
        name: draw(st.sampled_from(["a", "b", ".hidden", ".", "l1", "nowhere"]))
        for name in draw(st.lists(st.sampled_from(["l1", "l2", "a/l3"]), unique=True, max_size=2))
    }
    hard = {
        f"{draw(PARTS)}/h{number}.jpg": draw(st.sampled_from(sorted(plain)))
        for number in range(draw(st.integers(0, 2)))
    }
    return plain, empty, links | to_folders, hard


def build(root, tree):
    plain, empty, links, hard = tree
    shutil.rmtree(root, ignore_errors=True)
    for name, data in plain.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    for name in empty:
        (root / name).mkdir(exist_ok=True)
    for make, names in ((os.symlink, links), (lambda to, at: os.link(root / to, at), hard)):
        for name, target in names.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(root / name):
                make(target, root / name)


def pack(root, path, *, order, form, within):
    members = sorted(root.rglob("*"))
    order.shuffle(members)
    with tarfile.open(path, "w", format=FORMATS[form]) as tar:
        for file in members:
            tar.add(file, f"{within}{file.relative_to(root)}", recursive=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    tree=trees(),
    order=st.randoms(use_true_random=False),
    form=st.sampled_from(sorted(FORMATS)),
    within=st.sampled_from(["", "./", "photos/", ".photos/", "../photos/", "/photos/"]),
)
def test_an_odd_tree_and_its_tar_are_the_same_images(tmp_path, tree, order, form, within):
    folder, path = tmp_path / "photos", tmp_path / "photos.tar"
    build(folder, tree)
    pack(folder, path, order=order, form=form, within=within)
    assert outcome(seen, folder) == outcome(seen, path)
    if within in ("", "./"):  # clips are named by the whole path

        def clips(source):
            images = ImageClips(source)
            return images.identity, [images[number].data for number in range(len(images))]

        assert outcome(clips, folder) == outcome(clips, path)


def test_links_that_multiply_are_refused_in_a_folder_and_in_a_tar(tmp_path):
    folder = tmp_path / "photos"
    for number in range(40):
        (folder / f"{number:02d}").mkdir(parents=True)
        for name in "ab":
            (folder / f"{number:02d}" / name).symlink_to(f"../{number + 1:02d}")
    (folder / "40").mkdir()
    (folder / "40/1.jpg").write_bytes(b"x")
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(folder, "photos")
    for spec in (folder, tmp_path / "photos.tar"):
        with pytest.raises(ImageDataError, match="same folder more than 1000 times"):
            open_images(str(spec))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_a_damaged_tar_ends_in_images_or_in_one_line(tmp_path, mode):
    build(
        tmp_path / "photos",
        ({"a/1.jpg": b"x" * 700, "b/1.jpg": b"y"}, [], {"b/2.jpg": "1.jpg"}, {}),
    )
    path = tmp_path / "photos.tar"
    with tarfile.open(path, mode) as tar:
        tar.add(tmp_path / "photos", "photos")
    whole, generator = path.read_bytes(), random.Random(0)
    for _ in range(150):
        damaged = bytearray(
            whole[: generator.choice([len(whole), generator.randrange(len(whole))])]
        )
        for _ in range(generator.choice([0, 1, 4])):
            if damaged:
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        outcome(lambda: list(open_images(str(path)).read()))


@pytest.fixture
def cases(data_dir):
    folder = data_dir / "cases" / "eval"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


@pytest.mark.parametrize(("case", "num_images"), [("hardlinks.tar", 18), ("jupyter_root.tar", 12)])
def test_a_tar_of_links_or_hidden_folders_is_its_folder(cases, tmp_path, case, num_images):
    with tarfile.open(cases / case) as tar:
        tar.extractall(tmp_path / "out", filter="data")
    in_tar = seen(cases / case)
    assert len(in_tar[0]) == num_images
    assert in_tar[2] == ("cat", "dog")
    assert in_tar == seen(tmp_path / "out")


def test_two_splits_with_equal_file_names_stay_apart_in_one_tar(cases, tmp_path):
    path = tmp_path / "same_names.tar"
    path.write_bytes(gzip.decompress((cases / "same_names.tar.gz").read_bytes()))
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path / "out", filter="data")
    for split in ("train", "val"):
        (folder,) = (tmp_path / "out").rglob(split)
        assert seen(f"{path}:{split}") == seen(folder)
    assert seen(f"{path}:train")[0] != seen(f"{path}:val")[0]
