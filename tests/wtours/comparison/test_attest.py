"""Two sets are compared frame by frame, and what differs is measured."""

import io
import itertools
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from tests.support.command_line import exit_code_of
from tests.support.object_stores import OF_S3_CLIENTS, copy_into
from tests.support.shard_set import encode, moving_pattern, write_shard, write_shard_set
from wtours.comparison.attest import attest
from wtours.comparison.dhash import cell_means, hash_bytes
from wtours.comparison.perceptual_hash import distances, image_dhash
from wtours.errors import ShardError
from wtours.shards.index import ShardIndex
from wtours.shards.schema import read_dataset
from wtours.storage.atomic import write_json
from wtours.storage.hashing import sha256_file


def rewrite(directory, change):
    """Write the set's first video again, each frame as `change(number, jpeg)` returns it."""
    dataset = read_dataset(directory)
    shard = dataset.shards[0]
    path = directory / f"{shard.shard}.tar"
    jpegs = jpegs_of(directory)
    rows = write_shard(
        path,
        (
            (shard.video_id, i, i * 1_000_000, change(i, jpeg), {"frame_rate": "1/1"})
            for i, jpeg in enumerate(jpegs)
        ),
    )
    table = pq.read_table(directory / "index.parquet")
    for name in ("offset", "size"):
        values = [row[name] for row in rows]
        column = pa.array([*values, *table[name].to_pylist()[len(rows) :]], table[name].type)
        table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
    pq.write_table(table, directory / "index.parquet")
    record = shard.model_copy(update={"bytes": path.stat().st_size, "sha256": sha256_file(path)})
    index = directory / "index.parquet"
    changed = dataset.model_copy(
        update={
            "shards": (record, *dataset.shards[1:]),
            "bytes": dataset.bytes - shard.bytes + record.bytes,
            "index": dataset.index.model_copy(
                update={"bytes": index.stat().st_size, "sha256": sha256_file(index)}
            ),
        }
    )
    write_json(directory / "dataset.json", changed.model_dump(mode="json"))


@pytest.fixture
def two(tmp_path):
    one = write_shard_set(tmp_path / "one", num_frames=6, size=(64, 96), videos=("oslo", "rome"))
    shutil.copytree(one, tmp_path / "two")
    return one, tmp_path / "two"


def test_a_copy_is_the_same_and_is_said_to_be(two):
    found = attest(*two)
    assert found.same
    assert found.set_sha256_a == found.set_sha256_b
    assert [(v.video_id, v.paired, v.same_bytes) for v in found.videos] == [
        ("oslo", 6, 6),
        ("rome", 6, 6),
    ]


@OF_S3_CLIENTS
def test_a_set_on_an_object_store_is_compared_with_one_on_a_disk(two, s3_folder, monkeypatch):
    one, other = two
    copy_into(s3_folder, one)
    assert attest(s3_folder, other).same
    rewrite(other, lambda number, jpeg: jpeg[:-20] + bytes(18) + jpeg[-2:] if number == 2 else jpeg)
    assert [video.same_bytes for video in attest(other, s3_folder).videos] == [5, 6]
    root = ("--root", other.parent)
    assert exit_code_of(monkeypatch, "attest", s3_folder, one, *root) == 0
    assert exit_code_of(monkeypatch, "attest", s3_folder, other, *root) == 3


def test_bytes_pixels_and_pictures_that_differ_are_told_apart(two):
    one, other = two

    def change(number, jpeg):
        if number == 1:  # a comment: other bytes, the same pixels
            return jpeg[:2] + b"\xff\xfe\x00\x04hi" + jpeg[2:]
        if number == 2:  # recoded: other pixels, the same picture
            return simplejpeg.encode_jpeg(simplejpeg.decode_jpeg(jpeg), quality=60)
        if number == 4:  # another picture
            return encode(moving_pattern(1, (64, 96), seed=9)[0])
        return jpeg

    rewrite(other, change)
    found = attest(one, other)
    assert not found.same
    oslo, rome = found.videos
    assert rome.same
    assert (oslo.same_bytes, oslo.same_pixels, oslo.different) == (3, 1, 2)
    assert oslo.first_difference is not None
    assert oslo.first_difference.startswith("oslo-00000001.jpg from byte 3 on")
    pairs = list(zip(*([*map(decode, jpegs_of(folder))] for folder in two), strict=True))
    errors = [np.square(a - b).mean() for a, b in (pairs[2], pairs[4])]
    psnr = [10 * np.log10(255**2 / error) for error in errors]
    assert (oslo.psnr_min_db, oslo.psnr_mean_db) == pytest.approx(
        (min(psnr), np.mean(psnr)), abs=0.01
    )
    assert (oslo.dhash_max or 0) > 10


def jpegs_of(directory):
    """Return the JPEGs of a set's first shard."""
    index = ShardIndex.open(directory)
    return index.read_jpegs(range(index.dataset.shards[0].frames))


def decode(jpeg):
    return simplejpeg.decode_jpeg(jpeg).astype(float)


def test_equal_records_are_no_proof_the_bytes_are_read(two):
    """A tar whose dataset.json still says the old hash: its frames are compared one by one."""
    path = two[1] / "oslo-00000.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as tar:
        member = tar.getmembers()[0]
        place = member.offset_data + member.size // 2
    data[place] ^= 0x55
    path.write_bytes(data)
    found = attest(*two)
    assert not found.same
    assert found.videos[0].same_bytes == 5


def test_frames_and_videos_that_only_one_set_has_are_counted(tmp_path):
    one = write_shard_set(tmp_path / "one", num_frames=6, videos=("oslo",))
    two = write_shard_set(tmp_path / "two", num_frames=4, videos=("oslo", "rome"))
    found = attest(one, two)
    oslo, rome = found.videos
    assert (oslo.frames_a, oslo.frames_b, oslo.paired, oslo.same) == (6, 4, 4, False)
    assert (rome.frames_a, rome.frames_b, rome.paired, rome.same_source) == (0, 4, 0, None)


def test_the_hash_knows_a_picture_again_and_others_not():
    pictures = [moving_pattern(1, (64, 96), seed=seed)[0] for seed in range(6)]
    hashes = [image_dhash(encode(picture), "x") for picture in pictures]
    again = [
        image_dhash(simplejpeg.encode_jpeg(np.ascontiguousarray(p), quality=50), "x")
        for p in pictures
    ]
    table = distances(np.array(hashes, np.uint64)[:, None], np.array(again, np.uint64)[None])
    assert (table.diagonal() <= 4).all()
    assert (table[~np.eye(6, dtype=bool)] > 12).all()
    gray = pictures[0].mean(2).astype(np.uint8)
    assert hash_bytes(cell_means(gray, 8, 9)) == _plain_dhash(gray)
    assert image_dhash(encode(np.full((64, 96, 3), 7, np.uint8)), "x") is None
    with pytest.raises(ShardError, match="the frame has no perceptual hash"):
        image_dhash(b"\xff\xd8\xff\xd9", "the frame")


def _plain_dhash(gray):
    height, width = gray.shape
    rows = [i * height // 8 for i in range(8)] + [height]
    columns = [i * width // 9 for i in range(9)] + [width]
    bits = ""
    for top, bottom in itertools.pairwise(rows):
        cells = [gray[top:bottom, left:right].mean() for left, right in itertools.pairwise(columns)]
        bits += "".join("01"[int(a < b)] for a, b in itertools.pairwise(cells))
    return int(bits, 2).to_bytes(8, "big")
