"""A layer is made, read with clips, found damaged, repaired, kept over kills, refused elsewhere."""

import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.shard_set import write_shard_set
from tests.support.sharded_videos import files_of
from wtours.errors import ShardError, UsageError, WtoursError
from wtours.exporting.units import shard_units
from wtours.layers.external import external_source
from wtours.layers.files import ArraySource
from wtours.layers.make import drop_layer, make_layer
from wtours.layers.verify import repair_layer, verify_layer
from wtours.shards import ClipDataset, ShardIndex
from wtours.shards.layers.arrays import array_suffix, decode_array, encode_array
from wtours.shards.layers.layer import Layer
from wtours.shards.layers.schema import layer_folder, layer_names

FRAMES = 12
VIDEOS = ("oslo", "venice")


@pytest.fixture
def frames(tmp_path):
    """Return a shard set of two videos with a frame a second."""
    return write_shard_set(tmp_path / "set", num_frames=FRAMES, videos=VIDEOS)


@pytest.fixture
def depth(tmp_path):
    """Return a folder with a .npy of (12, 3, 4) float32 for each video."""
    folder = tmp_path / "depth"
    folder.mkdir()
    for number, video_id in enumerate(VIDEOS):
        values = np.arange(FRAMES * 12, dtype=np.float32).reshape(FRAMES, 3, 4)
        np.save(folder / f"{video_id}.npy", values + 1000 * number)
    return folder


def made(frames, name, path, **options):
    """Make a layer of a file or folder; return the report."""
    index = ShardIndex.open(frames)
    source = external_source(index, path, **options)
    return make_layer(index, name, source, origin=f"external:{path}")


def test_clips_come_with_the_values_of_their_frames_and_no_frame_is_touched(frames, depth):
    before = files_of(frames)
    report = made(frames, "depth", depth)
    assert {name: data for name, data in files_of(frames).items() if name in before} == before
    assert report.file.values == report.file.frames == 2 * FRAMES
    index = ShardIndex.open(frames)
    clips = ClipDataset(index, clip_length=3, frame_interval_seconds=2.0, layers=["depth"])
    assert len(clips) == 2 * (FRAMES - 4)
    for number in range(len(clips)):
        clip = clips[number]
        stored = np.load(depth / f"{clip.video_id}.npy")
        for pts_us, value in zip(clip.pts_us, clip.layers["depth"], strict=True):
            np.testing.assert_array_equal(value, stored[pts_us // 1_000_000])
    item = clips.torch()[3]
    assert item["depth"].shape == (3, 3, 4)
    assert item["frames"].shape[0] == 3
    for number, value in enumerate(clips[3].layers["depth"]):
        np.testing.assert_array_equal(item["depth"][number], value)
    plain = ClipDataset(index, clip_length=3, frame_interval_seconds=2.0)
    assert plain[3].layers == {}
    assert plain[3].jpegs == clips[3].jpegs


def test_again_does_nothing_and_one_changed_value_makes_one_shard(frames, depth):
    made(frames, "depth", depth)
    folder = layer_folder(frames, "depth")
    before = files_of(folder)
    again = made(frames, "depth", depth)
    assert (again.num_written, again.num_kept) == (0, 2)
    assert files_of(folder) == before
    values = np.load(depth / "oslo.npy")
    values[5] += 1
    np.save(depth / "oslo.npy", values)
    changed = made(frames, "depth", depth)
    assert (changed.num_written, changed.num_kept) == (1, 1)
    (value,) = Layer.open(ShardIndex.open(frames), "depth").read([5])
    np.testing.assert_array_equal(value, values[5])


def _cut(folder):
    path = folder / "oslo-00000.tar"
    path.write_bytes(path.read_bytes()[:-1024])


def _flip(folder):
    path = folder / "oslo-00000.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)


def _remove(folder):
    (folder / "oslo-00000.tar").unlink()


def _swap_videos(folder):
    one, other = (folder / f"{video_id}-00000.tar" for video_id in VIDEOS)
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def _shift_times(folder):
    path = folder / "index.parquet"
    table = pq.read_table(path)
    pts = table["pts_us"].to_numpy() + 1_000_000
    pq.write_table(table.set_column(2, table.schema.field("pts_us"), pa.array(pts)), path)
    file = json.loads((folder / "layer.json").read_text())
    file["index"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "layer.json").write_text(json.dumps(file))


@pytest.mark.parametrize("damage", [_cut, _flip, _remove, _swap_videos, _shift_times])
def test_damage_is_found_and_repaired_to_the_byte(frames, depth, damage):
    made(frames, "depth", depth)
    folder = layer_folder(frames, "depth")
    before, index = files_of(folder), ShardIndex.open(frames)
    assert verify_layer(index, "depth") == []
    damage(folder)
    problems = verify_layer(index, "depth")
    assert problems
    source = external_source(index, depth)
    repair_layer(index, "depth", source, problems, origin=f"external:{depth}")
    assert verify_layer(index, "depth") == []
    assert files_of(folder) == before


def test_a_layer_that_is_made_again_while_it_is_open_gives_no_new_values_as_old(frames, depth):
    def first_values(layer, *videos):
        return [value.tolist() for value in layer.read([FRAMES * video for video in videos])]

    made(frames, "depth", depth)
    index = ShardIndex.open(frames)
    layer = Layer.open(index, "depth")
    before = first_values(layer, 0, 1)
    values = np.load(depth / "venice.npy")
    np.save(depth / "venice.npy", values + 1)  # of the same shape, so in the same places
    made(frames, "depth", depth)
    assert first_values(layer, 0) == before[:1]  # oslo's tar was kept
    with pytest.raises(ShardError, match="was made again since the layer was opened"):
        first_values(layer, 1)
    assert first_values(Layer.open(index, "depth"), 1) == [(values + 1)[0].tolist()]


def test_a_member_of_another_frame_is_not_returned(frames, depth):
    made(frames, "depth", depth)
    index = ShardIndex.open(frames)
    layer = Layer.open(index, "depth")
    layer.offset[[3, 4]] = layer.offset[[4, 3]]
    with pytest.raises(ShardError, match="another value is in its place"):
        layer.read([3])


KILLED = """
import os, signal, sys
from pathlib import Path
from wtours.layers.make import make_layer
from wtours.layers.external import external_source
from wtours.shards import ShardIndex

index = ShardIndex.open(sys.argv[1])
source = external_source(index, Path(sys.argv[2]))
values = source.values

def dying(unit):
    for number, value in enumerate(values(unit)):
        if unit.video_id == "venice" and number == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        yield value

source.values = dying
make_layer(index, "depth", source, origin="x")
"""


def test_a_killed_layer_is_none_and_goes_on(frames, depth):
    made(frames, "whole", depth)
    command = [sys.executable, "-c", KILLED, str(frames), str(depth)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    left = layer_folder(frames, "depth")
    assert list(left.glob(".tmp-*"))
    assert layer_names(frames) == ["whole"]
    index = ShardIndex.open(frames)
    with pytest.raises(ShardError, match=r"no finished layer 'depth' \(it has whole\)"):
        ClipDataset(index, layers=["depth"], clip_length=2)
    report = made(frames, "depth", depth)
    assert (report.num_written, report.num_kept) == (1, 1)
    assert verify_layer(index, "depth") == []
    whole = files_of(layer_folder(frames, "whole"))
    files = files_of(left)
    assert files.pop("layer.json") != whole.pop("layer.json")  # its name
    assert files == whole


def test_a_layer_goes_with_equal_frames_and_is_refused_by_others(frames, depth, tmp_path):
    made(frames, "depth", depth)
    twin = write_shard_set(tmp_path / "twin", num_frames=FRAMES, videos=VIDEOS)
    shutil.copytree(frames / "layers", twin / "layers")
    assert verify_layer(ShardIndex.open(twin), "depth") == []
    other = write_shard_set(tmp_path / "other", num_frames=FRAMES, size=(32, 48), videos=VIDEOS)
    shutil.copytree(frames / "layers", other / "layers")
    with pytest.raises(ShardError, match="was made for other frames"):
        ClipDataset(ShardIndex.open(other), layers=["depth"], clip_length=2)
    # The same times: nothing is written but layer.json.
    report = made(other, "depth", depth)
    assert (report.num_written, report.num_kept) == (0, 2)
    assert verify_layer(ShardIndex.open(other), "depth") == []


def test_a_dropped_layer_is_gone_and_nothing_else(frames, depth):
    before = files_of(frames)
    made(frames, "depth", depth)
    drop_layer(frames, "depth")
    left = {name for name in files_of(frames) if not name.endswith(".lock")}
    assert left == before.keys()
    with pytest.raises(ShardError, match="has no layer 'depth'"):
        drop_layer(frames, "depth")
    for name in ("../x", "", "Depth", "a" * 33):
        with pytest.raises(UsageError, match="layer name"):
            drop_layer(frames, name)


def test_images_keep_their_type_and_files_of_no_frame_are_refused(frames, tmp_path):
    folder = tmp_path / "masks"
    drawn = {}
    for video_id in VIDEOS:
        (folder / video_id).mkdir(parents=True)
        for frame in range(FRAMES):
            mask = np.full((6, 8), 300 * frame, np.uint16)
            mask[:2] = 7
            drawn[video_id, frame] = mask
            Image.fromarray(mask).save(folder / video_id / f"{video_id}-{frame:08d}.png")
    made(frames, "masks", folder)
    clips = ClipDataset(ShardIndex.open(frames), clip_length=2, layers=["masks"])
    for clip in (clips[0], clips[len(clips) - 1]):
        for pts_us, value in zip(clip.pts_us, clip.layers["masks"], strict=True):
            assert value is not None
            assert value.dtype == np.uint16
            np.testing.assert_array_equal(value, drawn[clip.video_id, pts_us // 1_000_000])
    shutil.copy(folder / "oslo/oslo-00000000.png", folder / "oslo/oslo-00000099.png")
    with pytest.raises(ShardError, match=r"oslo-00000099\.png is of no frame"):
        made(frames, "masks", folder)
    (folder / "oslo/oslo-00000099.png").rename(folder / "oslo/oslo-00000099.PNG")
    with pytest.raises(ShardError, match=r"oslo-00000099\.PNG is of no frame"):
        made(frames, "masks", folder)
    (folder / "oslo/oslo-00000099.PNG").unlink()
    (folder / "oslo/oslo-00000001.png").rename(folder / "oslo/oslo-00000001.PNG")
    (folder / "venice/venice-00000003.png").unlink()
    with pytest.raises(ShardError, match="1 of 24 frames have no value, the first venice at 3 s"):
        made(frames, "masks", folder)
    report = made(frames, "masks", folder, allow_missing=True)
    assert report.file.values == 2 * FRAMES - 1
    clips = ClipDataset(ShardIndex.open(frames), clip_length=4, layers=["masks"])
    missing = clips[len(clips) - 1 - 8 + 2]
    assert missing.layers["masks"][1] is None
    with pytest.raises(ShardError, match="which make no array"):
        clips.torch()[len(clips) - 1 - 8 + 2]


def test_files_of_frames_are_not_read_again_after_a_video_that_comes_before(frames, tmp_path):
    folder = tmp_path / "speed"
    folder.mkdir()
    for frame in range(FRAMES):
        np.save(folder / f"venice-{frame:08d}.npy", np.float32(frame))
    alone = write_shard_set(tmp_path / "alone", num_frames=FRAMES, videos=("venice",))
    found = []
    for directory in (alone, frames):
        index = ShardIndex.open(directory)
        source = external_source(index, folder, allow_missing=True)
        found.append(source.inputs(shard_units(index)[-1]))
    assert found[0] == found[1]


class ChangingSource(ArraySource):
    """A folder of arrays that another program is still writing."""

    def __init__(self, index, folder):
        super().__init__(index, folder)
        self.folder = folder

    def values(self, unit):
        yield from [value.copy() for value in super().values(unit)]
        stored = np.load(self.folder / f"{unit.video_id}.npy", mmap_mode="r+")
        stored += 1
        stored.flush()


def test_values_that_change_while_they_are_read_are_not_taken_for_those_of_the_end(frames, depth):
    index = ShardIndex.open(frames)
    with pytest.raises(ShardError, match="oslo-00000 is made from was changed while it was read"):
        make_layer(index, "depth", ChangingSource(index, depth), origin="external:depth")
    assert layer_names(frames) == []
    assert made(frames, "depth", depth).num_kept == 0
    (value, *_) = Layer.open(index, "depth").read([0])
    np.testing.assert_array_equal(value, np.load(depth / "oslo.npy")[0])


def test_scalars_stay_scalars(frames, tmp_path):
    folder = tmp_path / "speed"
    folder.mkdir()
    for video_id in VIDEOS:
        np.save(folder / f"{video_id}.npy", np.arange(FRAMES, dtype=np.float32))
    report = made(frames, "speed", folder)
    assert "() float32" in report.file.about
    (value,) = Layer.open(ShardIndex.open(frames), "speed").read([3])
    assert value is not None
    assert (value.shape, value.dtype.name, float(value)) == ((), "float32", 3.0)


def test_a_value_that_would_not_be_read_is_refused_when_it_is_made(frames, tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    for video_id in VIDEOS:
        for number in range(FRAMES):
            np.save(folder / f"{video_id}-{number:08d}.npy", np.zeros((2, 2), np.uint8))
    large = folder / "oslo-00000003.npy"
    np.lib.format.open_memmap(large, mode="w+", dtype=np.uint8, shape=(8200, 8200)).flush()
    with pytest.raises(ShardError, match=r"oslo at 3000000 us has more than 67108864 bytes"):
        made(frames, "masks", folder)
    assert layer_names(frames) == []


def test_missing_floats_are_nan_for_torch(frames, tmp_path):
    table = pa.table(
        {"video_id": ["oslo"] * FRAMES, "time": np.arange(FRAMES), "x": np.arange(12.0)}
    )
    pq.write_table(table.slice(0, 5), tmp_path / "pose.parquet")
    made(frames, "pose", tmp_path / "pose.parquet", allow_missing=True)
    clips = ClipDataset(ShardIndex.open(frames), clip_length=3, layers=["pose"])
    np.testing.assert_array_equal(clips.torch()[3]["pose"], [[3], [4], [np.nan]])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 6), np.float32),
        np.float64(3.5).reshape(()),
        np.arange(6, dtype=">i2").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([True, False]),
    ],
)
def test_arrays_come_back_as_they_were(array):
    data = encode_array(array)
    assert data == encode_array(array)
    back = decode_array(data, array_suffix(array))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def _npy(shape, dtype="<f4", data=b"\0" * 8):
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def _bomb():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("value.npy", _npy("(100000000,)", "|u1", bytes(100_000_000)))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("data", "suffix"),
    [
        (b"", "npy"),
        (b"\x93NUMPY", "npy"),
        (_npy("(2,)", "|O"), "npy"),
        (_npy("(1000000000000,)"), "npy"),
        (_npy("(-2,)"), "npy"),
        (_npy("(2, 0, -1)", data=b""), "npy"),
        (_npy("(__import__('os').getpid(),)"), "npy"),
        (b"PK\x03\x04", "npz"),
        (_bomb(), "npz"),
    ],
)
def test_hostile_arrays_are_refused(data, suffix):
    with pytest.raises(ValueError, match=r"\w"):
        decode_array(data, suffix)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.update(format=2),
        lambda f: f.update(values=10**40),
        lambda f: f["shards"][0].update(shard="../../../etc/passwd"),
        lambda f: f.update(extra="\x1b[2J"),
    ],
)
def test_a_hostile_layer_file_is_one_line(frames, depth, change):
    made(frames, "depth", depth)
    path = layer_folder(frames, "depth") / "layer.json"
    file = json.loads(path.read_text())
    change(file)
    path.write_text(json.dumps(file))
    with pytest.raises(WtoursError) as refused:
        Layer.open(ShardIndex.open(frames), "depth")
    assert "\n" not in str(refused.value)
    assert "\x1b" not in str(refused.value)
    assert len(str(refused.value)) < 600
