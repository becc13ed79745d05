"""Each layout is read back with its own library, to the frame; a killed export resumes."""

import csv
import gc
import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from tests.support.object_stores import FaultyFileSystem, copy_into
from tests.support.range_server import serve_ranges
from tests.support.shard_set import write_shard_set
from tests.support.sharded_videos import publish_video
from wtours.errors import ShardError, UsageError, WtoursError
from wtours.exporting.export import EXPORT_FILE, export_shards
from wtours.exporting.images import (
    DavisExporter,
    ImageFolderExporter,
    SplitImageFolderExporter,
)
from wtours.exporting.lerobot import LeRobotExporter
from wtours.exporting.mds import MdsExporter
from wtours.exporting.tables import (
    HF_SCHEMA,
    HuggingFaceExporter,
    LanceExporter,
    parquet_writer,
)
from wtours.exporting.units import clip_units
from wtours.exporting.videos import Mp4Exporter, VJepaExporter
from wtours.sharding.build import build_shards
from wtours.shards import ClipDataset, FetchPolicy, IntervalRange, ShardIndex
from wtours.shards.params import ShardParams
from wtours.shards.schema import sample_key
from wtours.shards.split import read_split, split_shards
from wtours.storage.locks import lock
from wtours.workspace.layout import Layout

CUT = 5


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Return a set of two videos of 9 s, a frame a second; each has a cut after 5."""
    folder = tmp_path_factory.mktemp("export") / "walks"
    found = ShardIndex.open(
        write_shard_set(folder, num_frames=9, size=(48, 64), videos=("oslo", "rome"))
    )
    found.shot[:] = np.tile(np.arange(9) >= CUT, 2)
    return found


@pytest.fixture(scope="module")
def frames(index):
    """Return every frame as (video_id, frame_index, pts_us, shot, JPEG)."""
    rows = range(len(index))
    refs = [index.frame(row) for row in rows]
    return [
        (ref.video_id, ref.frame_index, ref.pts_us, int(index.shot[row]), jpeg)
        for row, ref, jpeg in zip(rows, refs, index.read_jpegs(rows), strict=True)
    ]


ALL = [
    ImageFolderExporter(),
    HuggingFaceExporter(),
    MdsExporter(),
    DavisExporter(clip_seconds=3),
    VJepaExporter(clip_seconds=3),
    LeRobotExporter(clip_seconds=3),
    pytest.param(LanceExporter(), id="LanceExporter"),
]


def exported(index, exporter, tmp_path):
    if isinstance(exporter, LanceExporter):
        pytest.importorskip("lance", reason="Lance is read and written by pylance")
    return export_shards(index, exporter, tmp_path / "out")


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "_versions" not in path.parts and "_transactions" not in path.parts
    }


@pytest.mark.parametrize("exporter", ALL, ids=lambda e: type(e).__name__)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_export_is_counted_resumes_and_is_refused_for_another_set(index, tmp_path, exporter):
    report = exported(index, exporter, tmp_path)
    out = report.out
    assert (report.frames, report.bytes, report.kept) == (18, int(index.size.sum()), 0)
    said = json.loads((out / EXPORT_FILE).read_text())
    assert (said["finished"], said["frames"], said["to"]) == (True, 18, exporter.suffix)
    before = contents(out)

    again = export_shards(index, exporter, out)
    assert (again.kept, again.units) == (report.units, report.units)
    assert contents(out) == before

    other = ShardIndex.open(write_shard_set(tmp_path / "other", num_frames=3))
    with pytest.raises(ShardError, match=r"is an export of something else .set_sha256"):
        export_shards(other, exporter, out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(ShardError, match="is not empty, and no export of wtours"):
        export_shards(index, exporter, tmp_path / "full")
    with (
        lock(out / ".wtours-export.lock", what="it"),
        pytest.raises(WtoursError, match="is in use by process"),
    ):
        export_shards(index, exporter, out)


def test_a_split_set_becomes_labeled_images_of_two_parts_far_apart(index, tmp_path):
    folder = shutil.copytree(index.directory, tmp_path / "walks")
    ours = ShardIndex.open(folder)
    split_shards(ours, val_share=0.4, block_seconds=3, gap_seconds=1.5, seed=1)
    exporter = SplitImageFolderExporter(read_split(ours, "train").sha256)
    report = export_shards(ours, exporter, tmp_path / "out")
    assert export_shards(ours, exporter, tmp_path / "out").kept == report.units
    times: dict[str, dict[str, set[int]]] = {"train": {}, "val": {}}
    for path in (tmp_path / "out").rglob("*.jpg"):
        part, video_id, name = path.relative_to(tmp_path / "out").parts
        row = next(
            row
            for row in range(len(ours))
            if f"{sample_key(video_id, int(ours.frame_index[row]))}.jpg" == name
            and ours.video_of(row).video_id == video_id
        )
        assert path.read_bytes() == ours.read_jpegs([row])[0]
        times[part].setdefault(video_id, set()).add(int(ours.pts_us[row]))
    assert report.frames == sum(len(found) for part in times.values() for found in part.values())
    assert 0 < report.frames < 18  # frames between the parts are in neither
    for video_id, found in times["val"].items():
        others = times["train"].get(video_id, set())
        assert min((abs(a - b) for a in found for b in others), default=1_500_000) >= 1_500_000
    split_shards(ours, val_share=0.4, block_seconds=3, gap_seconds=1.5, seed=2)
    with pytest.raises(ShardError, match=r"is an export of something else .options"):
        export_shards(
            ours, SplitImageFolderExporter(read_split(ours, "train").sha256), tmp_path / "out"
        )


@pytest.mark.parametrize("exporter", ALL, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("protocol", ["faulty", "http"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_set_at_a_url_is_exported_as_one_on_a_disk(index, tmp_path, exporter, protocol):
    here = exported(index, exporter, tmp_path / "here")
    FaultyFileSystem.reset()
    copy_into("faulty://bucket/walks", index.directory)
    with serve_ranges(index.directory) as server:
        url = server.url if protocol == "http" else "faulty://bucket/walks"
        remote = ShardIndex.open(url, policy=FetchPolicy(cache_dir=None, memory_bytes=0))
        remote.shot[:] = index.shot
        there = export_shards(remote, exporter, tmp_path / "there")
    assert (there.frames, there.bytes, there.kept) == (here.frames, here.bytes, 0)
    if isinstance(exporter, LanceExporter):  # names of its files are random
        return
    mine, theirs = contents(there.out), contents(here.out)
    for one in (mine, theirs):
        one.pop("vjepa.csv", None), one.pop(".wtours-export.lock")  # absolute paths; an id
    assert mine == theirs


def test_a_split_is_read_at_a_url_as_on_a_disk(index, tmp_path):
    folder = shutil.copytree(index.directory, tmp_path / "walks")
    ours = ShardIndex.open(folder)
    policy = FetchPolicy(cache_dir=None)
    with serve_ranges(folder) as server:
        remote = ShardIndex.open(server.url, policy=policy)
        with pytest.raises(ShardError, match=r"has no split.json; .* on a disk, and `wtours copy`"):
            ClipDataset(remote, clip_length=2, split="train")
        with pytest.raises(ShardError, match="is at a URL, where no split is written"):
            split_shards(remote, val_share=0.4, block_seconds=3, gap_seconds=1.5)
        split_shards(ours, val_share=0.4, block_seconds=3, gap_seconds=1.5, seed=1)
        here, there = (ClipDataset(one, clip_length=2, split="train") for one in (ours, remote))
    assert here.split is not None
    assert there.split is not None
    assert here.split.sha256 == there.split.sha256
    assert 0 < len(here.starts) < 14
    assert here.starts.tolist() == there.starts.tolist()


class Killed(Exception):
    """As if the process had died."""


@pytest.mark.parametrize("exporter", ALL, ids=lambda e: type(e).__name__)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_killed_export_ends_as_one_that_was_not(index, tmp_path, exporter):
    whole = exported(index, exporter, tmp_path / "whole")

    def die(item, done, total):
        raise Killed

    for _ in range(whole.units):
        with pytest.raises(Killed):
            export_shards(index, exporter, tmp_path / "out", on_progress=die)
        break
    assert not json.loads((tmp_path / "out" / EXPORT_FILE).read_text())["finished"]
    report = export_shards(index, exporter, tmp_path / "out")
    assert 1 <= report.kept <= whole.units  # the next may have been written meanwhile
    if isinstance(exporter, LanceExporter):  # names of its files are random
        return
    mine, theirs = contents(tmp_path / "out"), contents(whole.out)
    mine.pop("vjepa.csv", None), theirs.pop("vjepa.csv", None)  # absolute paths
    mine.pop(".wtours-export.lock"), theirs.pop(".wtours-export.lock")
    assert mine == theirs


@pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning",  # datasets leaves metadata.csv to the GC
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning",
)
def test_torchvision_and_datasets_read_an_image_folder(index, frames, tmp_path):
    datasets = pytest.importorskip("datasets", reason="reads the folder")
    torchvision = pytest.importorskip("torchvision", reason="reads the folder")
    out = export_shards(index, ImageFolderExporter(), tmp_path / "out").out
    folder = torchvision.datasets.ImageFolder(out)
    assert folder.classes == ["oslo", "rome"]
    assert [Path(path).read_bytes() for path, _ in folder.samples] == [f[-1] for f in frames]
    table = datasets.load_dataset("imagefolder", data_dir=str(out), cache_dir=str(tmp_path / "c"))
    table = table["train"].cast_column("image", datasets.Image(decode=False))
    rows = [(r["video_id"], r["frame_index"], r["pts_us"], r["shot"]) for r in table]
    del table
    gc.collect()  # here, where the file is let go without a word, and not in a test to come
    assert sorted(rows) == [f[:4] for f in frames]


def test_datasets_reads_the_parquet(index, frames, tmp_path):
    datasets = pytest.importorskip("datasets", reason="reads the Parquet")
    out = export_shards(index, HuggingFaceExporter(), tmp_path / "out").out
    table = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))["train"]
    assert isinstance(table.features["image"], datasets.Image)
    raw = table.cast_column("image", datasets.Image(decode=False))
    assert [
        (r["video_id"], r["frame_index"], r["pts_us"], r["shot"], r["image"]["bytes"]) for r in raw
    ] == frames
    assert np.array_equal(np.asarray(table[3]["image"]).shape, (48, 64, 3))
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: unknown\n")


def test_lerobot_has_an_episode_for_each_stretch_of_a_shot(index, frames, tmp_path):
    out = export_shards(index, LeRobotExporter(clip_seconds=3), tmp_path / "out").out
    info = json.loads((out / "meta" / "info.json").read_text())
    assert (info["fps"], info["total_episodes"], info["total_frames"]) == (1, 8, 18)
    assert info["features"]["observation.image"]["shape"] == [48, 64, 3]
    assert info["features"]["timestamp"]["dtype"] == "float32"
    tasks = pandas.read_parquet(out / "meta" / "tasks.parquet")
    assert [tasks.iloc[n].name for n in tasks["task_index"]] == ["oslo", "rome"]
    episodes = pq.read_table(out / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [one["length"] for one in episodes] == [3, 2, 3, 1] * 2
    rows = []
    for one in episodes:
        file = f"data/chunk-000/file-{one['data/file_index']:03d}.parquet"
        found = pq.read_table(out / file).to_pylist()
        assert [row["index"] for row in found] == [
            *range(one["dataset_from_index"], one["dataset_to_index"])
        ]
        assert [row["timestamp"] for row in found] == [*range(one["length"])]
        rows += [(one["tasks"], row["pts_us"], row["observation.image"]["bytes"]) for row in found]
    assert rows == [([video_id], pts_us, jpeg) for video_id, _, pts_us, _, jpeg in frames]
    statistics = json.loads((out / "meta" / "stats.json").read_text())["observation.image"]
    pixels = np.stack([simplejpeg.decode_jpeg(frame[-1]) / 255 for frame in frames])
    np.testing.assert_allclose(np.ravel(statistics["mean"]), pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(np.ravel(statistics["std"]), pixels.std((0, 1, 2)), rtol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_lerobot_reads_its_episodes(index, frames, tmp_path):
    module = pytest.importorskip(
        "lerobot.datasets.lerobot_dataset", reason="reads the folder", exc_type=ImportError
    )
    out = export_shards(index, LeRobotExporter(clip_seconds=3), tmp_path / "out").out
    delta = {"observation.image": [0.0, 1.0]}
    read = module.LeRobotDataset("wtours/walks", root=out, delta_timestamps=delta)
    assert (len(read), read.num_episodes) == (18, 8)
    for row, (video_id, _, pts_us, _, jpeg) in enumerate(frames):
        item = read[row]
        assert (item["task"], item["pts_us"].item()) == (video_id, pts_us)
        pixels = (item["observation.image"][0] * 255).round().byte().permute(1, 2, 0).numpy()
        expected = simplejpeg.decode_jpeg(jpeg)
        assert np.abs(pixels.astype(int) - expected).max() <= 3  # Pillow's decoder
        is_last = row % 9 in (2, 4, 7, 8)
        assert item["observation.image_is_pad"].tolist() == [False, is_last]
    mean = read.meta.stats["observation.image"]["mean"]
    assert mean.shape == (3, 1, 1)


def test_videos_of_two_rates_are_no_dataset_of_lerobot(tmp_path):
    folder = write_shard_set(tmp_path / "set", num_frames=3, videos=("a", "b"))
    dataset = json.loads((folder / "dataset.json").read_text())
    dataset["videos"][1]["frame_rate"] = "1/2"
    (folder / "dataset.json").write_text(json.dumps(dataset))
    said = r"has one size and frame rate, and a and b differ .64 x 48 at 1/s and 64 x 48 at 0\.5/s"
    with pytest.raises(UsageError, match=said):
        export_shards(ShardIndex.open(folder), LeRobotExporter(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_parquet_is_to_the_byte_what_pyarrow_writes_of_lists(tmp_path):
    folder = write_shard_set(tmp_path / "set", num_frames=150, size=(16, 16), interval_us=100_000)
    index = ShardIndex.open(folder)
    index.shot[10:90] = -1
    out = export_shards(index, HuggingFaceExporter(), tmp_path / "out").out
    rows: list[dict[str, Any]] = [
        {
            "image": {"bytes": jpeg, "path": f"{sample_key(ref.video_id, ref.frame_index)}.jpg"},
            "video_id": ref.video_id,
            "frame_index": ref.frame_index,
            "pts_us": ref.pts_us,
            "shot": None if 10 <= ref.frame_index < 90 else 0,
        }
        for ref, jpeg in zip(index.frames(range(150)), index.read_jpegs(range(150)), strict=True)
    ]
    with parquet_writer(tmp_path / "plain.parquet") as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=HF_SCHEMA), row_group_size=64)
    (written,) = (out / "data").iterdir()
    assert written.read_bytes() == (tmp_path / "plain.parquet").read_bytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_lance_reads_the_table(index, frames, tmp_path):
    lance = pytest.importorskip("lance", reason="Lance is read and written by pylance")
    out = export_shards(index, LanceExporter(), tmp_path / "out").out
    table = lance.dataset(str(out / "frames.lance"))
    rows = table.take([17, 0, 9]).to_pylist()
    assert [
        (r["video_id"], r["frame_index"], r["pts_us"], r["shot"], r["image"]) for r in rows
    ] == [frames[n] for n in (17, 0, 9)]
    assert table.count_rows() == 18


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_lance_table_that_was_killed_before_its_first_version_is_begun_again(index, tmp_path):
    lance = pytest.importorskip("lance", reason="Lance is read and written by pylance")
    out = export_shards(index, LanceExporter(), tmp_path / "out").out
    shutil.rmtree(out / "frames.lance" / "_versions")
    assert export_shards(index, LanceExporter(), out).kept == 0
    assert lance.dataset(str(out / "frames.lance")).count_rows() == 18
    assert len(list((out / "frames.lance" / "data").iterdir())) == 2  # nothing is left over


def test_mds_is_laid_out_as_its_library_has_it(index, frames, tmp_path):
    out = export_shards(index, MdsExporter(), tmp_path / "out").out
    try:
        from streaming.base.format import reader_from_json
    except Exception as error:  # the library's imports break with newer packages
        pytest.skip(f"mosaicml-streaming does not import here ({type(error).__name__}: {error})")
    listing = json.loads((out / "index.json").read_text())
    read = []
    for shard in listing["shards"]:
        reader = reader_from_json(str(out), None, shard)
        reader.validate(False)
        for number in range(reader.size):
            raw = reader.decode_sample(reader.get_sample_data(number))
            jpeg = reader.get_sample_data(number)
            read.append((raw["video_id"], raw["frame_index"], raw["pts_us"], raw["shot"]))
            expected = frames[len(read) - 1][-1]
            assert expected in jpeg
            assert raw["image"].size == (64, 48)
    assert read == [f[:4] for f in frames]


def test_a_tar_is_not_held_in_memory_to_be_written_as_mds(tmp_path):
    folder = write_shard_set(tmp_path / "set", num_frames=320, size=(192, 256), interval_us=100_000)
    index, exporter = ShardIndex.open(folder), MdsExporter()
    (unit,) = exporter.units(index)
    tracemalloc.start()
    try:
        exporter.write(index, unit, tmp_path / "out")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < index.size.sum() / 2


def test_davis_sequences_end_at_cuts_and_their_images_are_those_of_the_shards(
    index, frames, tmp_path
):
    out = export_shards(index, DavisExporter(clip_seconds=3), tmp_path / "out").out
    names = (out / "ImageSets" / "2017" / "train.txt").read_text().split()
    folders = [out / "JPEGImages" / "480p" / name for name in names]
    # 5 s and 4 s of each video, in stretches of at most 3 s.
    assert [len(list(folder.iterdir())) for folder in folders] == [3, 2, 3, 1] * 2
    jpegs = [path.read_bytes() for folder in folders for path in sorted(folder.iterdir())]
    assert jpegs == [f[-1] for f in frames]


def test_an_export_that_was_killed_before_it_said_what_it_is_of_is_begun_again(index, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in (".wtours-export.lock", ".tmp-1-0a-wtours-export.json"):
        (out / name).write_bytes(b"")
    export_shards(index, ImageFolderExporter(), out)
    assert [path.name for path in out.glob(".*")] == [".wtours-export.lock"]


def test_what_a_killed_davis_export_was_writing_is_removed(index, tmp_path):
    out = export_shards(index, DavisExporter(clip_seconds=3), tmp_path / "out").out
    whole = contents(out)
    for name in ("ImageSets/2017/.tmp-1-0a-train.txt", "JPEGImages/480p/.tmp-1-0a-x"):
        (out / name).write_bytes(b"half")
    assert export_shards(index, DavisExporter(clip_seconds=3), out).kept == 8
    assert contents(out) == whole


def test_clips_are_read_by_pyav_and_torchcodec_and_listed_for_v_jepa(index, frames, tmp_path):
    import av

    out = export_shards(index, VJepaExporter(clip_seconds=3), tmp_path / "out").out
    with (out / "clips.csv").open() as file:
        clips = list(csv.DictReader(file))
    lines = (out / "vjepa.csv").read_text().splitlines()
    assert [line.split(" ")[0] for line in lines] == [str(out / c["file_name"]) for c in clips]
    assert [line.split(" ")[1] for line in lines] == ["0"] * 4 + ["1"] * 4
    number = 0
    for clip in clips:
        with av.open(str(out / clip["file_name"])) as container:
            pictures = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
            rate = container.streams.video[0].average_rate
        assert rate == 1
        assert len(pictures) == int(clip["frames"])
        assert int(clip["start_us"]) == frames[number][2]
        for picture in pictures:
            original = simplejpeg.decode_jpeg(frames[number][-1])
            assert np.abs(picture.astype(int) - original).mean() < 12
            number += 1
    assert number == 18
    try:
        from torchcodec.decoders import VideoDecoder

        decoder = VideoDecoder(str(out / clips[0]["file_name"]))
    except (ImportError, RuntimeError) as error:
        # It loads FFmpeg's shared libraries, which may not be there, some versions at first use.
        if isinstance(error, RuntimeError) and "load libtorchcodec" not in str(error):
            raise
        pytest.skip(f"torchcodec does not load here ({type(error).__name__})")
    assert len(decoder) == 3


def shown_us(path):
    """Return when each frame of a video is shown."""
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        return [round((frame.time or 0) * 1_000_000) for frame in video.decode(stream)]


def test_mp4_shows_frames_of_a_changing_rate_at_their_own_times(tmp_path):
    folder = write_shard_set(tmp_path / "set", num_frames=40, interval_us=40_000)
    index = ShardIndex.open(folder)
    # 25 a second, then 10, of a video that says 1 a second: as the average of a longer one may be.
    index.pts_us[:] = np.cumsum([0, *[40_000] * 19, *[100_000] * 20])
    out = export_shards(index, Mp4Exporter(clip_seconds=60), tmp_path / "out").out
    (clip,) = out.rglob("*.mp4")
    assert shown_us(clip) == index.pts_us.tolist()
    again = export_shards(index, Mp4Exporter(clip_seconds=60), tmp_path / "again").out
    assert next(again.rglob("*.mp4")).read_bytes() == clip.read_bytes()


def test_mp4_of_a_steady_rate_keeps_it(index, tmp_path):
    out = export_shards(index, Mp4Exporter(clip_seconds=3), tmp_path / "out").out
    assert shown_us(sorted(out.rglob("*.mp4"))[0]) == [0, 1_000_000, 2_000_000]


def test_mp4_of_equal_sets_is_equal_and_v_jepa_reads_a_path_with_a_space(index, tmp_path):
    one = export_shards(index, Mp4Exporter(clip_seconds=3), tmp_path / "one").out
    two = export_shards(index, Mp4Exporter(clip_seconds=3), tmp_path / "two").out
    assert contents(one).keys() == contents(two).keys()
    for name, data in contents(one).items():
        assert name.startswith(".") or contents(two)[name] == data
    out = export_shards(index, VJepaExporter(clip_seconds=3), tmp_path / 'a "b" c').out
    listed = pandas.read_csv(out / "vjepa.csv", header=None, delimiter=" ")  # as V-JEPA does
    assert sorted(listed[0]) == sorted(map(str, out.rglob("*.mp4")))
    assert listed[1].tolist() == [0] * 4 + [1] * 4
    with pytest.raises(UsageError, match="--clip-seconds"):
        clip_units(index, 0.5)


def test_a_clip_ends_where_a_tick_has_no_frame_not_where_the_rates_do_not_divide(tmp_path):
    index = ShardIndex.open(write_shard_set(tmp_path / "set", num_frames=24, size=(16, 16)))
    index.pts_us[:] = 1_001_000 * np.arange(24)  # as 59.94 frames a second sampled at 30
    assert [len(unit.rows) for unit in clip_units(index, 10.0)] == [10, 10, 4]
    dataset = ClipDataset(
        index, clip_length=3, frame_interval_seconds=IntervalRange(min=2.0, max=4.0)
    )
    assert len(dataset) == 16
    index.pts_us[6:] += 1_001_000
    index.frame_index[6:] += 1
    assert [len(unit.rows) for unit in clip_units(index, 10.0)] == [6, 10, 8]


@pytest.mark.parametrize("fps", ["native", "30"])
def test_a_recording_of_varying_rate_is_not_cut_at_its_slower_frames(data_dir, tmp_path, fps):
    layout = Layout(tmp_path)
    recording = shutil.copy(data_dir / "cases" / "mediarecorder.webm", tmp_path)
    publish_video(layout, "walk", Path(recording))  # 46 to 88 ms from frame to frame
    params = ShardParams(frames_per_second=fps, short_side=16)
    index = ShardIndex.open(build_shards(layout, ["walk"], params=params).directory)
    assert [len(unit.rows) for unit in clip_units(index, 10.0)] == [150, 30]


def test_a_damaged_image_is_written_again_and_a_damaged_shard_is_named(index, frames, tmp_path):
    exporter = ImageFolderExporter()
    out = export_shards(index, exporter, tmp_path / "out").out
    image = out / "oslo" / "oslo-00000003.jpg"
    image.write_bytes(b"short")
    assert export_shards(index, exporter, out).kept == 1
    assert image.read_bytes() == frames[3][-1]
    copy = tmp_path / "walks"
    shutil.copytree(index.directory, copy)
    opened = ShardIndex.open(copy)
    data = bytearray((copy / "rome-00000.tar").read_bytes())
    data[int(opened.offset[9]) : int(opened.offset[9]) + 2] = b"??"
    (copy / "rome-00000.tar").write_bytes(data)
    with pytest.raises(ShardError, match="rome-00000000 is damaged"):
        export_shards(opened, exporter, tmp_path / "another")
