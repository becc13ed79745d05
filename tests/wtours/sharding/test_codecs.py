"""Shards without a loss: the very pixels come back to all readers; JPEG sets are as before."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.support.sharded_videos import publish_video
from tests.support.video_clips import write_clip
from wtours.cli.app import app
from wtours.comparison.attest import attest
from wtours.errors import ShardError, UsageError
from wtours.exporting.export import export_shards
from wtours.exporting.images import DavisExporter, ImageFolderExporter
from wtours.exporting.mds import MdsExporter
from wtours.exporting.tables import HuggingFaceExporter
from wtours.exporting.videos import Mp4Exporter
from wtours.media.image import rgb_of
from wtours.media.reader import open_video
from wtours.sharding.build import build_shards
from wtours.sharding.estimate import estimate
from wtours.sharding.plan import VideoPlan, VideoWork
from wtours.shards import ClipDataset, ShardIndex, stream_clips
from wtours.shards.params import ShardParams
from wtours.shards.schema import read_dataset
from wtours.shards.verify import verify_shards
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium
CODECS = ("jpeg", "webp-lossless", "png")
LOSSLESS = CODECS[1:]
MANIFEST = """
format = 1
name = "mine"
[[video]]
id = "walk"
title = "A walk"
sources = ["file:walk.mp4"]
domain = "Test"
license_claimed = "CC0"
"""


def params(codec, **more):
    return ShardParams(frames_per_second="5", shard_seconds=1, short_side=35, codec=codec, **more)


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    root = tmp_path_factory.mktemp("codecs")
    # Reduced to 35 x 53 pixels: odd both ways, and chroma of another size than half.
    clip = write_clip(root / "clip.mp4", source="testsrc2=size=106x70:rate=10:duration=2")
    layout = Layout(root / "root")
    publish_video(layout, "walk", clip)
    for codec in CODECS:
        build_shards(layout, ["walk"], name=codec, params=params(codec))
    return layout


@pytest.fixture(scope="module")
def expected(layout):
    """Return the reduced frames as they are before anything is encoded, by pts."""
    with open_video(layout.video_dir("walk") / "walk.mp4") as reader:
        return {frame.pts_us: rgb_of(frame.to_jpeg_planes(35)) for frame in reader.frames()}


def clips_of(layout, codec):
    index = ShardIndex.open(layout.shards_dir(codec))
    dataset = ClipDataset(index, clip_length=1, frame_interval_seconds=1)
    return [dataset[number] for number in range(len(dataset))]


@pytest.mark.parametrize("codec", LOSSLESS)
def test_the_very_pixels_come_back_from_the_index_and_from_a_stream(layout, expected, codec):
    directory = layout.shards_dir(codec)
    assert verify_shards(directory).ok
    streamed = stream_clips(str(directory), clip_length=1, frame_interval_seconds=1)
    for clips in (clips_of(layout, codec), list(streamed)):
        assert len(clips) == 11
        for clip in clips:
            (pixels,) = clip.decode()
            assert pixels.shape == (35, 53, 3)
            np.testing.assert_array_equal(pixels, expected[clip.pts_us[0]])


@pytest.mark.parametrize("ycc", [(16, 128, 128), (130, 90, 200), (200, 40, 110), (255, 128, 128)])
def test_rgb_is_what_the_formula_of_jfif_gives(ycc):
    y, cb, cr = ycc
    half = (18, 27)  # of 35 x 53
    blue_chroma, red_chroma = np.full(half, cb, np.uint8), np.full(half, cr, np.uint8)
    planes = (np.full((35, 53), y, np.uint8), blue_chroma, red_chroma)
    red, blue = y + 1.402 * (cr - 128), y + 1.772 * (cb - 128)
    green = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
    exact = np.clip([red, green, blue], 0, 255)
    assert np.abs(rgb_of(planes) - exact).max() <= 3


def test_a_set_of_jpegs_says_nothing_that_is_newer(layout):
    directory = layout.shards_dir("jpeg")
    written = json.loads((directory / "dataset.json").read_text())
    assert written["params"].keys() == {
        *("frames_per_second", "short_side", "quality", "shard_seconds", "blur", "match")
    }
    receipt = json.loads((directory / "receipts" / "walk-00000.json").read_text())
    assert receipt["params"].keys() == {
        *("format", "subsampling", "pixels", "frames_per_second"),
        *("short_side", "quality", "shard_seconds"),
    }
    assert receipt["versions"].keys() >= {"av", "simplejpeg"}


@pytest.mark.parametrize("codec", LOSSLESS)
def test_a_set_without_loss_records_its_codec_and_no_quality(layout, codec):
    directory = layout.shards_dir(codec)
    assert read_dataset(directory).params == params(codec)
    receipt = json.loads((directory / "receipts" / "walk-00000.json").read_text())
    assert receipt["params"]["codec"] == codec
    assert not receipt["params"].keys() & {"quality", "subsampling"}
    assert ShardParams.from_recorded(receipt["params"]) == params(codec)
    assert "without a loss" in (directory / "ATTRIBUTION.md").read_text()


def test_two_codecs_without_a_loss_have_the_same_pixels(layout):
    directories = [layout.shards_dir(codec) for codec in LOSSLESS]
    (video,) = attest(*directories).videos
    assert (video.same_bytes, video.same_pixels, video.different) == (0, 11, 0)


@pytest.mark.parametrize("codec", LOSSLESS)
def test_a_byte_that_changed_is_found(layout, codec, tmp_path):
    directory = tmp_path / "set"
    build_shards(layout, ["walk"], name="damaged", params=params(codec))
    layout.shards_dir("damaged").rename(directory)
    index = ShardIndex.open(directory)
    ref = index.frame(3)
    tar = directory / f"{ref.shard}.tar"
    data = bytearray(tar.read_bytes())
    data[ref.offset] ^= 0xFF
    tar.write_bytes(data)
    (problem, *_) = verify_shards(directory).problems
    assert problem.file == tar.name
    with pytest.raises(ShardError, match=r"is damaged \(it is not a whole"):
        index.read_jpegs([3])


@pytest.mark.parametrize("codec", LOSSLESS)
def test_exports_hold_the_same_images(layout, expected, codec, tmp_path):
    datasets = pytest.importorskip("datasets")
    index = ShardIndex.open(layout.shards_dir(codec))
    suffix = {"webp-lossless": "webp", "png": "png"}[codec]
    export_shards(index, ImageFolderExporter(), tmp_path / "images")
    paths = sorted((tmp_path / "images" / "walk").glob(f"*.{suffix}"))
    export_shards(index, HuggingFaceExporter(), tmp_path / "hf")
    read = datasets.load_dataset(str(tmp_path / "hf"), split="train", cache_dir=str(tmp_path / "c"))
    assert len(paths) == read.num_rows == 11
    for path, row in zip(paths, read, strict=True):
        for image in (Image.open(path), row["image"]):
            np.testing.assert_array_equal(np.asarray(image), expected[row["pts_us"]])
    export_shards(index, MdsExporter(), tmp_path / "mds")
    described = json.loads((tmp_path / "mds" / "index.json").read_text())["shards"][0]
    encodings = dict(zip(described["column_names"], described["column_encodings"], strict=True))
    assert encodings["image"] == {"webp-lossless": "bytes", "png": "png"}[codec]
    with pytest.raises(UsageError, match="--to davis holds JPEGs"):
        export_shards(index, DavisExporter(), tmp_path / "davis")
    assert export_shards(index, Mp4Exporter(), tmp_path / "mp4").frames == 11


def test_sizes_are_said_before_and_the_order_is_as_it_turns_out(layout):
    works = {}
    for codec in CODECS:
        facts = read_dataset(layout.shards_dir(codec)).videos[0]
        work = VideoWork(VideoPlan("walk", "0" * 64, facts), None, (), 0, 2.0)
        works[codec] = estimate([work], params(codec)).bytes
    found = {codec: read_dataset(layout.shards_dir(codec)).bytes for codec in CODECS}
    assert works["jpeg"] < works["webp-lossless"] < works["png"]
    assert found["jpeg"] < found["webp-lossless"]


def test_the_command_takes_native_and_refuses_what_makes_no_sense(layout, tmp_path):
    with pytest.raises(UsageError, match=r"--quality \(50\) must be left out: it is of JPEG alone"):
        params("png", quality=50)
    with pytest.raises(
        UsageError, match=r"--codec \(gif\) must be one of jpeg, webp-lossless, png"
    ):
        params("gif")
    manifest = tmp_path / "walks.toml"
    manifest.write_text(MANIFEST)
    words = ["shard", "--manifest", str(manifest), "--video", "walk", "--root", str(layout.root)]
    words += ["--name", "native", "--fps", "1", "--short-side", "native", "--quality", "100"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    index = ShardIndex.open(layout.shards_dir("native"))
    (pixels,) = ClipDataset(index, clip_length=1, frame_interval_seconds=1)[0].decode()
    assert pixels.shape == (70, 106, 3)
    assert asdict(index.dataset.params)["quality"] == 100
    result = CliRunner().invoke(app, [*words, "--short-side", "half"])
    assert "must be a number of pixels" in str(result.exception)
