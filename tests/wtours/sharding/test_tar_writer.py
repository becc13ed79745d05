import io
import tarfile

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.shard_set import write_shard
from wtours.errors import ShardError, WtoursError
from wtours.shards.schema import MAX_MEMBER_BYTES, sample_key, shard_name

JPEG = simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8))


def samples(
    count: int, *, image: bytes = JPEG
) -> list[tuple[str, int, int, bytes, dict[str, str]]]:
    return [
        ("venice", number, number * 33_333, image, {"source_sha256": "ab"})
        for number in range(count)
    ]


video_ids = st.text("abcdefghijklmnopqrstuvwxyz0123456789_", min_size=1, max_size=64)


@settings(deadline=None)
@given(video_ids, st.integers(0, 10**10), st.integers(0, 10**6))
def test_keys_have_no_dot_sort_by_time_and_fit_into_a_tar_header(video_id, number, segment):
    key = sample_key(video_id, number)
    assert "." not in key
    assert key.rsplit("-", 1)[0] == video_id
    assert int(key.rsplit("-", 1)[1]) == number
    assert len(f"{key}.json") <= 100
    if number + 1 < 10**8:
        assert key < sample_key(video_id, number + 1)
    assert int(shard_name(video_id, segment).rsplit("-", 1)[1]) == segment


def test_members_are_adjacent_and_lie_where_the_writer_says(tmp_path):
    rows = write_shard(tmp_path / "a.tar", samples(3))
    data = (tmp_path / "a.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == [
        f"venice-{number:08d}.{kind}" for number in range(3) for kind in ("jpg", "json")
    ]
    for row, member in zip(rows, members[::2], strict=True):
        assert (row["offset"], row["size"]) == (member.offset_data, member.size)
        assert data[row["offset"] : row["offset"] + row["size"]] == JPEG
    assert [(row["frame_index"], row["pts_us"]) for row in rows] == [
        (0, 0),
        (1, 33_333),
        (2, 66_666),
    ]


def test_members_say_nothing_of_when_or_by_whom_they_were_written(tmp_path):
    write_shard(tmp_path / "a.tar", samples(1))
    with tarfile.open(tmp_path / "a.tar") as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
            assert (member.uname, member.gname, member.mode) == ("wtours", "wtours", 0o444)


@pytest.mark.medium
def test_the_tar_is_the_one_that_webdataset_itself_writes(tmp_path):
    writer = pytest.importorskip("webdataset.writer")
    write_shard(tmp_path / "a.tar", samples(5))
    theirs = io.BytesIO()
    with writer.TarWriter(theirs, user="wtours", group="wtours", mtime=0, encoder=False) as tar:
        for _, frame_index, pts_us, image, _ in samples(5):
            fields = (
                f'{{"frame_index":{frame_index},"pts_us":{pts_us},'
                f'"source_sha256":"ab","video_id":"venice"}}'
            )
            key = f"venice-{frame_index:08d}"
            tar.write({"__key__": key, "jpg": image, "json": fields.encode()})
    assert (tmp_path / "a.tar").read_bytes() == theirs.getvalue()


def test_without_samples_there_is_no_shard(tmp_path):
    assert write_shard(tmp_path / "a.tar", []) == []
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_dies_leaves_nothing(tmp_path):
    def dying():
        yield from samples(2)
        raise WtoursError("the source ended")

    with pytest.raises(WtoursError, match="the source ended"):
        write_shard(tmp_path / "a.tar", dying())
    assert list(tmp_path.iterdir()) == []


def test_a_member_above_the_limit_is_refused_by_name(tmp_path):
    too_large = samples(1, image=bytes(MAX_MEMBER_BYTES + 1))
    with pytest.raises(ShardError, match=r"venice-00000000\.jpg has 67108865 bytes"):
        write_shard(tmp_path / "a.tar", too_large)
    assert list(tmp_path.iterdir()) == []
