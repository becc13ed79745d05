import io
import json
import multiprocessing
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from tests.support.sharded_videos import publish_video
from tests.support.video_clips import write_clip
from wtours.errors import ShardError
from wtours.sharding.build import build_shards
from wtours.shards import Clip, ClipBatches, ClipDataset, ClipSampler, ShardIndex
from wtours.shards.params import ShardParams
from wtours.storage.hashing import canonical_json, sha256_file
from wtours.workspace.layout import Layout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Two videos of 3 s at 30 frames a second, in shards of one second."""
    folder = tmp_path_factory.mktemp("built")
    layout = Layout(folder / "root")
    for video_id, rate in (("one", 30), ("two", 60)):
        source = f"testsrc2=size=96x64:rate={rate}:duration=3"
        publish_video(layout, video_id, write_clip(folder / f"{video_id}.mp4", source=source))
    params = ShardParams(shard_seconds=1, short_side=48)
    return build_shards(layout, ["one", "two"], params=params).directory


@pytest.fixture
def directory(built, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(built, tmp_path / "set"))


def rewrite_index(directory: Path, **columns: list[int | None]) -> None:
    """Replace whole columns of the index, and vouch for it in dataset.json."""
    table = pq.read_table(directory / "index.parquet")
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(name)
        table = table.set_column(place, field, pa.array(values, field.type))
    pq.write_table(table, directory / "index.parquet")
    dataset = json.loads((directory / "dataset.json").read_text())
    dataset["index"]["sha256"] = sha256_file(directory / "index.parquet")
    dataset["index"]["bytes"] = (directory / "index.parquet").stat().st_size
    (directory / "dataset.json").write_bytes(canonical_json(dataset))


def test_the_index_says_where_each_frame_is(built):
    index = ShardIndex.open(built)
    assert len(index) == 180
    assert [(v.video_id, v.start, v.stop) for v in index.videos] == [
        ("one", 0, 90),
        ("two", 90, 180),
    ]
    ref = index.frame(90 + 45)
    assert (ref.video_id, ref.frame_index, ref.pts_us) == ("two", 45, 1_500_000)
    assert ref.shard == "two-00001"
    data = (built / "two-00001.tar").read_bytes()
    assert index.read_jpegs([135]) == (data[ref.offset : ref.offset + ref.size],)


def test_a_clip_has_its_frames_a_second_apart_also_across_shards(built):
    index = ShardIndex.open(built)
    dataset = ClipDataset(index, clip_length=3, frame_interval_seconds=1.0)
    assert len(dataset) == 60  # starts 0 to 29 of each video
    clip = dataset[31]
    assert isinstance(clip, Clip)
    assert (clip.video_id, clip.start) == ("two", 91)
    assert clip.pts_us == (33_333, 1_033_333, 2_033_333)
    assert clip.jpegs == index.read_jpegs([91, 121, 151])
    frames = clip.decode()
    assert [(frame.shape, frame.dtype.name) for frame in frames] == [((48, 72, 3), "uint8")] * 3
    assert np.array_equal(frames[2], simplejpeg.decode_jpeg(clip.jpegs[2]))


def test_clips_ignore_cuts_only_where_shots_are_not_known(directory):
    assert not ShardIndex.open(directory).shots_known
    assert len(ClipDataset(ShardIndex.open(directory), clip_length=3)) == 60
    # "one" is analyzed, with a cut at its frame 60; "two" is not.
    rewrite_index(directory, shot=[0] * 60 + [1] * 30 + [None] * 90)
    index = ShardIndex.open(directory)
    assert not index.shots_known
    assert len(ClipDataset(index, clip_length=2)) == 30 + 60
    assert len(ClipDataset(index, clip_length=2, across_cuts=True)) == 60 + 60
    rewrite_index(directory, shot=[0] * 180)
    assert ShardIndex.open(directory).shots_known


@pytest.mark.parametrize(
    ("min_short_side", "shape"), [(None, (48, 72)), (48, (48, 72)), (24, (24, 36)), (1, (6, 9))]
)
def test_a_scaled_decode_is_the_smallest_that_is_large_enough(built, min_short_side, shape):
    clip = ClipDataset(ShardIndex.open(built), clip_length=2)[0]
    full, scaled = clip.decode()[1], clip.decode(min_short_side=min_short_side)[1]
    assert scaled.shape == (*shape, 3)
    factor = 48 // shape[0]
    averaged = full.reshape(shape[0], factor, shape[1], factor, 3).mean(axis=(1, 3))
    assert np.abs(averaged - scaled).mean() < 12  # another picture is 60 and more away


def test_a_set_without_such_a_clip_says_so(built):
    with pytest.raises(ShardError, match=r"no clip of 8 frames 1\.0 s apart .* use a shorter clip"):
        ClipDataset(ShardIndex.open(built))


def test_numbers_outside_the_dataset_are_refused_so_that_iteration_ends(built):
    dataset = ClipDataset(ShardIndex.open(built), clip_length=3)
    for number in (-1, 60):
        with pytest.raises(IndexError, match=f"clip {number} of 60"):
            dataset[number]
    assert len(list(dataset)) == 60  # type: ignore[call-overload]


def test_a_dataset_survives_pickling(built):
    dataset = ClipDataset(ShardIndex.open(built), clip_length=3)
    assert pickle.loads(pickle.dumps(dataset))[7] == dataset[7]


@pytest.mark.medium
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"  # forking is what is tested
)
def test_worker_processes_read_the_same_clips(built, method):
    dataset = ClipDataset(ShardIndex.open(built), clip_length=3)
    here = [dataset[number] for number in range(12)]
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(dataset.__getitem__, range(12)) == here


@pytest.mark.medium
def test_a_torch_data_loader_reads_it_in_the_sampler_s_order(built):
    data = pytest.importorskip("torch.utils.data")
    dataset = ClipDataset(ShardIndex.open(built), clip_length=3)
    sampler = ClipSampler(len(dataset), seed=0)
    order = [sampler.clip_at(position) for position in range(8)]
    loader = data.DataLoader(
        dataset,
        batch_size=4,
        sampler=order,
        num_workers=2,
        collate_fn=list,
        multiprocessing_context="spawn",
    )
    assert [clip for batch in loader for clip in batch] == [dataset[number] for number in order]


@pytest.mark.medium
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"  # forking is what is tested
)
def test_ranks_and_workers_share_one_order_also_when_resumed(built, world_size, num_workers):
    data = pytest.importorskip("torch.utils.data")
    dataset = ClipDataset(ShardIndex.open(built), clip_length=3)
    mixture = dataset.shares({"one": 1, "two": 2})

    def order(world_size, first_step, num_steps, num_workers):
        sampler = ClipSampler(len(dataset), seed=0, mixture=mixture)
        ranks = [
            data.DataLoader(
                dataset,
                batch_sampler=ClipBatches(sampler, 4, num_steps, first_step, rank, world_size),
                num_workers=num_workers,
                collate_fn=list,
                multiprocessing_context="fork" if num_workers else None,
            )
            for rank in range(world_size)
        ]
        return [clip.start for batches in zip(*ranks, strict=True) for b in batches for clip in b]

    whole = order(1, 0, 8, 0)
    assert sum(start >= 90 for start in whole[:30]) == 20
    assert order(1, 0, 3, 0) + order(world_size, 3, 5, num_workers) == whole


def test_shares_name_the_clips_of_each_video_and_refuse_a_video_that_has_none(built):
    dataset = ClipDataset(ShardIndex.open(built), clip_length=3)
    shares = dataset.shares({"two": 3, "one": 1})
    assert [(s.name, s.clips, s.weight) for s in shares] == [
        ("one", range(30), 1),
        ("two", range(30, 60), 3),
    ]
    assert {dataset[number].video_id for number in shares[1].clips} == {"two"}
    with pytest.raises(ShardError, match="no clip of 'three' to mix in; it has one, two"):
        dataset.shares({"three": 1})


def test_no_file_stays_open(built):
    dataset = ClipDataset(ShardIndex.open(built), clip_length=3)
    before = os.listdir("/proc/self/fd")  # noqa: PTH208  # names of descriptors, not paths
    for number in range(20):
        dataset[number]
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_an_unfinished_or_foreign_folder_is_refused(tmp_path, directory):
    with pytest.raises(ShardError, match=r"not a finished shard set \(no dataset.json\)"):
        ShardIndex.open(tmp_path)
    (directory / "dataset.json").write_text('{"format": 2}')
    with pytest.raises(ShardError, match=r"not a dataset\.json of format 1 \(format: "):
        ShardIndex.open(directory)


def test_a_set_with_a_missing_or_cut_shard_is_refused_by_name(directory):
    path = directory / "two-00001.tar"
    data = path.read_bytes()
    path.write_bytes(data[:-1024])
    with pytest.raises(ShardError, match=rf"two-00001\.tar has \d+ bytes instead of {len(data)}"):
        ShardIndex.open(directory)
    path.unlink()
    with pytest.raises(
        ShardError, match=r"two-00001\.tar is missing; run `wtours verify \w+ --repair`"
    ):
        ShardIndex.open(directory)


def test_an_index_of_another_set_is_refused(directory):
    table = pq.read_table(directory / "index.parquet")
    pq.write_table(table.slice(1), directory / "index.parquet")
    with pytest.raises(ShardError, match=r"not the index that dataset\.json describes"):
        ShardIndex.open(directory)


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [
        ("size", 5, 0),
        ("size", 5, 2**26 + 1),
        ("offset", 5, -1),
        ("offset", 5, 2**30),
        ("pts_us", 5, 0),
    ],
)
def test_an_index_that_asks_for_the_impossible_is_refused(directory, column, row, value):
    values = pq.read_table(directory / "index.parquet")[column].to_pylist()
    values[row] = value
    rewrite_index(directory, **{column: values})
    with pytest.raises(ShardError, match=rf"impossible row \(FrameRef\(.*{column}={value}[,)]"):
        ShardIndex.open(directory)


@pytest.mark.parametrize(("column", "value"), [("frame_index", 2**31), ("offset", 2**40)])
def test_an_index_with_a_number_that_no_set_has_is_refused(directory, column, value):
    values = pq.read_table(directory / "index.parquet")[column].to_pylist()
    rewrite_index(directory, **{column: [value, *values[1:]]})
    message = rf"index\.parquet cannot be read \(Integer value {value} not in range"
    with pytest.raises(ShardError, match=message):
        ShardIndex.open(directory)


def test_a_tar_of_more_than_two_gib_is_read(directory):
    # 4K frames as PNG at 60 a second: 30 GB a minute. The last frame of the tar moves out there.
    ref = ShardIndex.open(directory).frame(59)
    path, far = directory / f"{ref.shard}.tar", 2**31 + 2**20
    block = path.read_bytes()[ref.offset - 512 : ref.offset + ref.size]
    with path.open("r+b") as tar:  # sparse: it takes no room
        tar.seek(far)
        tar.write(block)
        tar.truncate(far + 2**20)
    dataset = json.loads((directory / "dataset.json").read_text())
    record = next(shard for shard in dataset["shards"] if shard["shard"] == ref.shard)
    record["bytes"] = far + 2**20
    (directory / "dataset.json").write_bytes(canonical_json(dataset))
    offsets = pq.read_table(directory / "index.parquet")["offset"].to_pylist()
    rewrite_index(directory, offset=[*offsets[:59], far + 512, *offsets[60:]])
    index = ShardIndex.open(directory)
    assert index.frame(59).offset == far + 512
    assert index.read_jpegs([58, 59])[1] == block[512:]
    assert len(ClipDataset(index, clip_length=3)) == 60


def test_damage_after_opening_is_named_when_it_is_read(directory):
    dataset = ClipDataset(ShardIndex.open(directory), clip_length=3)
    path = directory / "one-00001.tar"
    good = path.read_bytes()
    ref = dataset.index.frame(30)

    def message(damaged: bytes) -> str:
        path.write_bytes(damaged)
        with pytest.raises(ShardError) as caught:
            dataset[0]
        assert "one-00001.tar: frame one-00000030 is damaged" in str(caught.value)
        return str(caught.value)

    assert "another file is in its place" in message(bytes([good[0] ^ 1]) + good[1:])
    start, end = ref.offset, ref.offset + ref.size
    assert "not a whole JPEG" in message(good[:start] + b"\0" + good[start + 1 :])
    assert "not a whole JPEG" in message(good[: end - 1] + b"\0" + good[end:])
    assert "ends before it" in message(good[: end - 1])
    path.unlink()
    with pytest.raises(ShardError, match=r"one-00001\.tar is missing"):
        dataset[0]


def test_frames_beside_each_other_are_read_at_once(directory, monkeypatch):
    index = ShardIndex.open(directory)
    calls: list[int] = []
    rows = [*range(20, 40), 3, 2]  # the end of a shard, the next, and two that go back
    tars = {
        shard.shard: (directory / f"{shard.shard}.tar").read_bytes()
        for shard in index.dataset.shards
    }
    real = os.preadv

    def counted(descriptor, pieces, offset):
        calls.append(offset)
        return real(descriptor, pieces, offset)

    monkeypatch.setattr(os, "preadv", counted)
    refs, images = index.read_joined(rows)
    assert len(calls) == 4
    expected = [tars[ref.shard][ref.offset : ref.offset + ref.size] for ref in refs]
    assert refs == index.frames(rows)
    assert images.tobytes() == b"".join(expected)
    assert index.read_jpegs(rows) == tuple(expected)
    assert len(calls) == 8


def test_the_frame_is_named_at_which_a_tar_ends_that_is_read_at_once(directory):
    index = ShardIndex.open(directory)
    before, ref = index.read_jpegs(range(30, 33)), index.frame(33)
    path = directory / f"{ref.shard}.tar"
    path.write_bytes(path.read_bytes()[: ref.offset + ref.size - 1])
    for read in (index.read_jpegs, index.read_joined):
        with pytest.raises(ShardError, match=r"one-00000033 is damaged .the file ends before it"):
            read(range(30, 40))
    assert index.read_jpegs(range(30, 33)) == before


def test_a_picture_that_does_not_decode_is_named():
    jpeg = simplejpeg.encode_jpeg(np.zeros((48, 64, 3), np.uint8))
    header = jpeg.index(b"\xff\xc0")  # the frame header holds the height at +5
    with pytest.raises(ShardError, match="the frame of walk at 33333 us does not decode"):
        Clip("walk", 0, (33_333,), (jpeg[:header] + jpeg[-2:],)).decode()
    huge = bytearray(jpeg)
    huge[header + 5 : header + 9] = b"\x90\x00\x90\x00"
    with pytest.raises(ShardError, match=r"at 33333 us does not decode \(36864x36864 is more than"):
        Clip("walk", 0, (33_333,), (bytes(huge),)).decode()


@pytest.mark.medium
@pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning"  # webdataset opens local tars and leaves them to the GC
)
def test_plain_webdataset_reads_the_shards(built):
    wds = pytest.importorskip("webdataset")
    urls = sorted(str(path) for path in built.glob("*.tar"))
    samples = list(wds.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    index = ShardIndex.open(built)
    assert [sample["__key__"] for sample in samples] == [
        f"{ref.video_id}-{ref.frame_index:08d}" for ref in map(index.frame, range(len(index)))
    ]
    assert [sample["json"]["pts_us"] for sample in samples] == index.pts_us.tolist()
    assert samples[135]["json"] == {
        "video_id": "two",
        "frame_index": 45,
        "pts_us": 1_500_000,
        "source_sha256": index.dataset.videos[1].source_sha256,
        "source_width": 96,
        "source_height": 64,
        "source_frame_rate": "60/1",
    }
    assert samples[135]["jpg"].shape == (48, 72, 3)


@pytest.mark.medium
@pytest.mark.parametrize("streaming", [True, False])
def test_hugging_face_datasets_reads_the_shards(built, tmp_path, monkeypatch, streaming):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    rows = datasets.load_dataset(
        "webdataset",
        data_files={"train": sorted(str(path) for path in built.glob("*.tar"))},
        split="train",
        streaming=streaming,
        cache_dir=str(tmp_path / "cache"),
    ).cast_column("jpg", datasets.Image(decode=False))
    index = ShardIndex.open(built)
    rows = list(rows)
    assert [row["json"]["pts_us"] for row in rows] == index.pts_us.tolist()
    assert rows[135]["__key__"] == "two-00000045"
    assert io.BytesIO(rows[135]["jpg"]["bytes"]).read() == index.read_jpegs([135])[0]


@pytest.mark.medium
def test_three_million_rows_open_and_give_clips(tmp_path):
    # Ten made-up videos of 10,000 s at 30 frames a second; the tars are sparse files of the size.
    num_videos, num_rows, seconds = 10, 300_000, 1000
    per_shard = 30 * seconds
    videos, shards, tables = [], [], []
    pts_us = (np.arange(num_rows) * 1_000_000 / 30).round().astype(np.int64)
    for number in range(num_videos):
        video_id = f"video{number}"
        names = [f"{video_id}-{k:05d}" for k in range(num_rows // per_shard)]
        columns = {
            "video_id": pa.array([video_id]).take(pa.array(np.zeros(num_rows, np.int32))),
            "frame_index": np.arange(num_rows),
            "pts_us": pts_us,
            "shard": pa.array(names).take(pa.array(np.arange(num_rows) // per_shard)),
            "offset": 512 + np.arange(num_rows) % per_shard * 2048,
            "size": np.full(num_rows, 500, np.int32),
            "shot": np.zeros(num_rows, np.int32),
            "lightness": np.zeros(num_rows, np.float32),
        }
        tables.append(pa.table(columns))
        num_bytes = 2048 * per_shard
        for segment, name in enumerate(names):
            with (tmp_path / f"{name}.tar").open("wb") as file:
                file.truncate(num_bytes)
            shard = {"shard": name, "video_id": video_id, "segment": segment, "frames": per_shard}
            shards.append({**shard, "bytes": num_bytes, "sha256": ""})
        video = dict.fromkeys(
            ("source", "title", "channel", "license_claimed", "license_observed"), None
        )
        size = {"width": 96, "height": 64, "frames": num_rows, "segments": len(names)}
        video |= {"video_id": video_id, "source_sha256": "", "frame_rate": "30/1", **size}
        videos.append({**video, "last_pts_us": int(pts_us[-1]), "holes": 0, "corrupt_frames": 0})
    pq.write_table(pa.concat_tables(tables), tmp_path / "index.parquet")
    index_file = tmp_path / "index.parquet"
    record = {"rows": 3_000_000, "bytes": index_file.stat().st_size}
    dataset = {
        "format": 1,
        "name": "large",
        "params": {"shard_seconds": seconds},
        "frames": 3_000_000,
        "bytes": 2048 * 3_000_000,
        "index": {**record, "sha256": sha256_file(index_file)},
        "videos": videos,
        "shards": shards,
    }
    (tmp_path / "dataset.json").write_bytes(canonical_json(dataset))
    index = ShardIndex.open(tmp_path)
    clips = ClipDataset(index)
    assert len(clips) == 10 * (num_rows - 7 * 30)
    assert clips.clip_rows(len(clips) - 1) == list(range(3_000_000 - 211, 3_000_000, 30))


def lower_left(frames):
    return frames[:, -8:, :8].astype(np.float32)


def test_a_dataloader_batches_clips_with_its_default_collate(built):
    import torch
    from torch.utils.data import DataLoader

    clips = ClipDataset(ShardIndex.open(built), clip_length=3, frame_interval_seconds=0.5)
    whole: Any = clips.torch()
    batch = next(iter(DataLoader(whole, batch_size=2, shuffle=False)))
    expected = np.stack(clips[0].decode())
    assert batch["frames"].shape == (2, *expected.shape)
    assert batch["frames"].dtype == torch.uint8
    assert (batch["frames"][0].numpy() == expected).all()
    assert batch["pts_us"][0].tolist() == list(clips[0].pts_us)
    assert batch["video_id"] == ["one", "one"]
    smaller: Any = clips.torch(transform=lower_left, min_short_side=16)
    given = pickle.loads(pickle.dumps(smaller))[len(clips) - 1]  # as a spawned worker gets it
    assert given["frames"].shape == (3, 8, 8, 3)
    assert given["video_id"] == "two"
    batch = next(iter(DataLoader(smaller, batch_size=4, num_workers=1)))
    assert batch["frames"].dtype == torch.float32
