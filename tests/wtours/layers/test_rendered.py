"""Layers of a rendered walk are its drawn truth, frame by frame, also after repair and sync."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg
import torch
from torchvision.models.optical_flow import raft_small

from tests.support.command_line import run_here
from tests.support.sharded_videos import files_of, publish_video
from wtours.analyze.pipeline import analyze_videos
from wtours.errors import AnalysisError, ShardError, UsageError
from wtours.exporting.units import shard_units
from wtours.layers.detections import DetectionSource
from wtours.layers.external import external_source
from wtours.layers.flow import FlowSource
from wtours.layers.make import make_layer
from wtours.layers.verify import verify_layer
from wtours.lockfile.lock import lock_shards, read_lock
from wtours.lockfile.sync import sync_shards
from wtours.sharding.build import build_shards
from wtours.shards import ClipDataset, ShardIndex
from wtours.shards.layers.layer import Layer
from wtours.shards.params import ShardParams
from wtours.synthetic import WalkSpec, load_truth
from wtours.synthetic.truth_files import publish_truth_files
from wtours.workspace.layout import Layout

SPEC = WalkSpec(seconds=6, width=160, height=96, frame_rate=10, seed=4, cut_seconds=(3,))
MANIFEST = """
format = 1
name = "walks"
[[video]]
id = "walk"
title = "A walk"
sources = ["file:walk.mp4"]
rendered = { seconds = 6, width = 160, height = 96, frame_rate = 10, seed = 4, cut_seconds = [3] }
"""
PARAMS = ShardParams(frames_per_second="5", shard_seconds=2)
pytestmark = pytest.mark.medium


def render(layout, *options):
    """Run `wtours render` on the manifest beside the root."""
    manifest = layout.root.parent / "walks.toml"
    manifest.write_text(MANIFEST)
    done = run_here("render", "--manifest", manifest, "--root", layout.root, *options)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Return the workspace of a sharded and analyzed rendered walk, and its truth."""
    layout = Layout(tmp_path_factory.mktemp("walk") / "root")
    folder, truth = layout.rendered_dir, layout.rendered_dir / "truth" / "walk"
    render(layout)
    publish_video(layout, "walk", folder / "walk.mp4")
    detector = f"file:{truth / 'detections.parquet'}"
    report = analyze_videos(layout, ["walk"], detector=detector, detect_fps="5")
    assert report.done == ["walk"], report
    build_shards(layout, ["walk"], name="default", params=PARAMS)
    return layout, load_truth(truth), folder


@pytest.fixture(scope="module")
def files(walk):
    """Return the files of the truth that `wtours render --shards` writes, with flow over 0.4 s."""
    layout, _, _ = walk
    before = files_of(layout.rendered_dir)
    render(layout, "--shards", "default", "--interval", "0.4")
    folder = layout.rendered_dir / "layers"
    after = files_of(layout.rendered_dir)
    assert {path: data for path, data in after.items() if path in before} == before
    return folder


def number_of(pts_us):
    return round(pts_us * SPEC.frame_rate / 1_000_000)


def make_external(layout, name, path, *options):
    made = run_here(
        *("layer", "make", name, "--from", f"external:{path}", "--root", layout.root), *options
    )
    assert made.returncode == 0, made.stderr


def untrue_rows(index, truth):
    """Return the rows at which a clip's layers are not the truth, by the layer's name."""
    names = ["depth", "flow", "masks", "pose"]
    # The clips whose pairs the flow is of.
    clips = ClipDataset(index, clip_length=2, frame_interval_seconds=0.4, layers=names)
    found: dict[str, set[int]] = {name: set() for name in names}
    for number in range(len(clips)):
        clip = clips[number]
        rows = clips.clip_rows(number)
        start, end = (number_of(int(pts)) for pts in clip.pts_us)
        expected = {
            "depth": [truth.depth(start), truth.depth(end)],
            "flow": [truth.flow(start, end)],
            "masks": [truth.instances(start), truth.instances(end)],
            "pose": [truth.pose(start)[:3].ravel(), truth.pose(end)[:3].ravel()],
        }
        for name, values in expected.items():
            for row, value, read in zip(rows, values, clip.layers[name], strict=False):
                assert read is not None
                if not np.array_equal(value, read, equal_nan=name == "flow"):
                    found[name].add(row)
    assert len(clips) == 27
    return found


def test_depth_flow_masks_and_poses_come_back_as_the_drawn_truth(walk, files):
    layout, truth, _ = walk
    index = ShardIndex.open(layout.shards_dir("default"))
    make_external(layout, "depth", files / "depth")
    make_external(layout, "flow", files / "flow", "--allow-missing")
    make_external(layout, "masks", files / "instances")
    make_external(layout, "pose", files / "pose.parquet")
    nothing: dict[str, set[int]] = {"depth": set(), "flow": set(), "masks": set(), "pose": set()}
    assert untrue_rows(index, truth) == nothing
    flow = Layer.open(index, "flow").read(range(len(index)))
    # Where a shot has a frame 0.4 s later; the tick at 6 s has the frame at 5.9 s.
    assert [row for row, value in enumerate(flow) if value is not None] == [
        *range(13),
        *range(15, 29),
    ]
    for name in nothing:
        assert verify_layer(index, name) == []
        assert run_here("layer", "drop", name, "--root", layout.root).returncode == 0


def test_a_wrong_frame_a_shifted_time_and_a_missing_frame_are_found(walk, files, tmp_path):
    layout, truth, _ = walk
    index = ShardIndex.open(layout.shards_dir("default"))
    wrong = shutil.copytree(files, tmp_path / "wrong")
    for folder, suffix in (("depth", "npy"), ("flow", "npy"), ("instances", "png")):
        name = wrong / folder / f"walk-00000004.{suffix}"
        shutil.copy(wrong / folder / f"walk-00000005.{suffix}", name)
    table = pq.read_table(files / "pose.parquet")
    order = np.arange(len(index))
    order[4] = 5
    pose = table.take(order).set_column(1, "pts_us", table["pts_us"])
    pq.write_table(pose, wrong / "pose.parquet")
    make_external(layout, "depth", wrong / "depth")
    make_external(layout, "flow", wrong / "flow", "--allow-missing")
    make_external(layout, "masks", wrong / "instances")
    make_external(layout, "pose", wrong / "pose.parquet")
    # Values of another frame are seen beside the truth alone.
    assert untrue_rows(index, truth) == {name: {4} for name in ("depth", "flow", "masks", "pose")}
    for name in ("depth", "flow", "masks", "pose"):
        assert run_here("layer", "drop", name, "--root", layout.root).returncode == 0
    pts_us = table["pts_us"].to_numpy()
    for name, changed, said in (
        # By half a frame of the set and by a whole one, and a row that is not there.
        ("half", table.set_column(1, "pts_us", pa.array(pts_us + 100_000)), "has no frame"),
        ("whole", table.set_column(1, "pts_us", pa.array(pts_us + 200_000)), "has no frame"),
        ("row", table.slice(1), "1 of 31 frames have no value, the first walk at 0 s"),
    ):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(changed, path)
        make = ("layer", "make", "pose", "--from", f"external:{path}", "--root", layout.root)
        refused = run_here(*make)
        assert refused.returncode == 1
        assert said in refused.stderr, refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    (wrong / "depth" / "walk-00000007.npy").rename(wrong / "depth" / "walk-00000099.npy")
    with pytest.raises(ShardError, match=r"walk-00000099\.npy is of no frame"):
        external_source(index, wrong / "depth")
    (wrong / "depth" / "walk-00000099.npy").unlink()
    with pytest.raises(ShardError, match=r"1 of 31 frames have no value, .* walk at 1\.4 s"):
        external_source(index, wrong / "depth")
    assert not list(layout.shards_dir("default").glob("layers/*/layer.json"))


def test_masks_of_a_coco_file_are_the_drawn_ones(walk, tmp_path):
    layout, truth, _ = walk
    index = ShardIndex.open(layout.shards_dir("default"))
    frames = {number_of(int(index.pts_us[row])): index.frame(row) for row in range(len(index))}
    size = (truth.height, truth.width)

    def rle(mask):
        columns = mask.T.ravel().astype(int)
        edges = np.flatnonzero(np.diff(columns, prepend=0, append=0))  # 0 first, as COCO counts
        runs = np.diff(edges, prepend=0, append=columns.size)
        return {"size": size, "counts": runs.tolist()}

    coco = {
        "images": [
            {
                "id": number,
                "file_name": f"walk-{frame.frame_index:08d}.jpg",
                "height": size[0],
                "width": size[1],
            }
            for number, frame in frames.items()
        ],
        "annotations": [
            {
                "image_id": one["frame_index"],
                "track_id": one["track_id"],
                "segmentation": rle(truth.mask(one["frame_index"], one["track_id"])),
            }
            for one in truth.detections.select(["frame_index", "track_id"]).to_pylist()
            if one["frame_index"] in frames
        ],
    }
    (tmp_path / "masks.json").write_text(json.dumps(coco))
    make_external(layout, "coco", tmp_path / "masks.json")
    for number, value in zip(
        frames, Layer.open(index, "coco").read(range(len(index))), strict=True
    ):
        np.testing.assert_array_equal(value, truth.instances(number))
    assert len(coco["annotations"]) > 20
    assert run_here("layer", "drop", "coco", "--root", layout.root).returncode == 0


def test_an_interval_of_no_flow_is_refused(walk):
    refused = run_here("render", "--interval", "0.4", "--root", walk[0].root)
    assert refused.returncode == 2
    assert "--interval: without effect with walks alone (no --shards)" in refused.stderr


def test_truth_is_not_written_for_frames_of_another_video(walk, tmp_path):
    layout = Layout(shutil.copytree(walk[0].root, tmp_path / "root"))
    index = ShardIndex.open(layout.shards_dir("default"))
    rendered, out = layout.rendered_dir, tmp_path / "out"
    with pytest.raises(ShardError, match="no frames 9 s apart in one shot"):
        publish_truth_files(index, rendered, out, interval_seconds=9)
    receipt = rendered / "walk.receipt.json"
    sha256 = index.dataset.videos[0].source_sha256
    receipt.write_text(receipt.read_text().replace(sha256, "0" * 64))
    with pytest.raises(ShardError, match=r"walk of .* was made from another file than"):
        publish_truth_files(index, rendered, out, interval_seconds=1)
    receipt.unlink()
    with pytest.raises(ShardError, match=r"no video of .* is a rendered walk of"):
        publish_truth_files(index, rendered, out, interval_seconds=1)
    assert list(tmp_path.iterdir()) == [layout.root]


def test_instance_masks_are_those_of_the_frames_and_survive_sync(walk, files, tmp_path):
    layout, truth, folder = walk
    set_folder = layout.shards_dir("default")
    index = ShardIndex.open(set_folder)
    shutil.copytree(files / "instances", tmp_path / "masks")
    masks = [truth.instances(number_of(int(pts_us))) for pts_us in index.pts_us]
    assert max(mask.max() for mask in masks) > 1
    make = ("layer", "make", "masks", "--from", f"external:{tmp_path / 'masks'}")
    made = run_here(*make, "--root", layout.root)
    assert made.returncode == 0, made.stderr
    clips = ClipDataset(index, clip_length=3, frame_interval_seconds=0.4, layers=["masks"])
    for number in range(0, len(clips), 5):
        clip = clips[number]
        assert len({int(index.shot[row]) for row in clips.clip_rows(number)}) == 1
        for row, mask in zip(clips.clip_rows(number), clip.layers["masks"], strict=True):
            np.testing.assert_array_equal(mask, masks[row])
    # Frames made again from a lock: the copied layer is of the same set hash, and opens.
    lock_shards(layout, set_folder, tmp_path / "walk.lock")
    there = Layout(tmp_path / "there")
    report = sync_shards(there, read_lock(tmp_path / "walk.lock"), from_dir=folder)
    assert report.differences == {}
    (there.shards_dir("default") / "layers").symlink_to(set_folder / "layers")
    assert verify_layer(ShardIndex.open(there.shards_dir("default")), "masks") == []
    # Damaged frames do not touch the layer; repaired to the byte they still have it.
    layer = files_of(set_folder / "layers")
    tar = set_folder / "walk-00001.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    assert run_here("verify", "--repair", "--root", layout.root).returncode == 0
    assert files_of(set_folder / "layers") == layer
    checked = run_here("layer", "verify", "masks", "--json", "--root", layout.root)
    assert (checked.returncode, json.loads(checked.stdout)["problems"]) == (0, [])
    listed = run_here("layer", "list", "--json", "--root", layout.root)
    assert [layer["values"] for layer in json.loads(listed.stdout)] == [len(index)]
    everything = run_here("verify", "--all", "--root", layout.root)
    assert "1 layer, 0 checkpoints, " in everything.stdout
    (tmp_path / "masks" / "walk-00000003.png").unlink()
    refused = run_here(*make, "--root", layout.root)
    assert refused.returncode == 1
    assert "1 of 31 frames have no value, the first walk at 0.6 s" in refused.stderr
    assert verify_layer(index, "masks") == []  # what is refused changes nothing
    assert run_here("layer", "drop", "masks", "--root", layout.root).returncode == 0


def test_detections_are_the_drawn_boxes(walk):
    layout, truth, _ = walk
    index = ShardIndex.open(layout.shards_dir("default"))
    source = DetectionSource(index, layout)
    make_layer(index, "boxes", source, origin="detections")
    values = Layer.open(index, "boxes").read(range(len(index)))
    size = np.array([truth.width, truth.height] * 2)
    num_boxes = 0
    for row, boxes in enumerate(values):
        assert boxes is not None
        pts = int(index.pts_us[row])
        drawn = sorted(
            (one["label"], *(round(one[name]) for name in ("x0", "y0", "x1", "y1")))
            for one in truth.detections.to_pylist()
            if one["pts_us"] == pts
        )
        found = sorted(
            (source.labels[int(box[5])], *(round(x) for x in (box[:4] * size).tolist()))
            for box in boxes
        )
        assert found == drawn
        num_boxes += len(found)
    assert num_boxes > 20


def test_detections_are_not_copied_again_after_a_video_that_comes_before(walk, tmp_path):
    layout = Layout(shutil.copytree(walk[0].root, tmp_path / "root"))

    def inputs():
        index = ShardIndex.open(layout.shards_dir("default"))
        source = DetectionSource(index, layout)
        return [source.inputs(unit) for unit in shard_units(index) if unit.video_id == "walk"]

    alone = inputs()
    publish_video(layout, "first", walk[2] / "walk.mp4")
    assert build_shards(layout, ["first"], params=PARAMS).failed == {}
    assert inputs() == alone


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return a file of random weights for RAFT."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "raft.pth"
    torch.save(raft_small().state_dict(), path)
    return path


def test_flow_is_rafts_of_each_frame_and_the_one_an_interval_later(walk, weights):
    layout, _, _ = walk
    index = ShardIndex.open(layout.shards_dir("default"))
    source = FlowSource(index, interval_seconds=1.2, short_side=128, weights=weights)
    make_layer(index, "flow", source, origin="flow")
    values = Layer.open(index, "flow").read(range(len(index)))
    has = [row for row, value in enumerate(values) if value is not None]
    # 15 frames of each shot, 0.2 s apart; the last 6 have no frame 1.2 s later,
    # but the tick at 6 s has the frame at 5.9 s.
    assert has == [*range(9), *range(15, 25)]
    model = raft_small()
    model.load_state_dict(torch.load(weights, weights_only=True))

    def tensor(row):
        (jpeg,) = index.read_jpegs([row])
        image = torch.from_numpy(simplejpeg.decode_jpeg(jpeg, "RGB")).permute(2, 0, 1)[None]
        scaled = torch.nn.functional.interpolate(
            image.float(), (128, 216), mode="bilinear", antialias=True
        )
        return scaled / 127.5 - 1

    for row in (0, 8, 20):
        value = values[row]
        assert value is not None
        assert value.shape == (2, 128, 216)
        assert value.dtype == np.float16
        with torch.inference_mode():
            expected = model.eval()(tensor(row), tensor(row + 6))[-1][0].numpy()
            other = model(tensor(row), tensor(row + 5))[-1][0].numpy()
        near = np.abs(value - expected).max()
        assert near < 0.05 * np.abs(other - expected).max()
    again = make_layer(index, "flow", source, origin="flow")
    assert again.num_written == 0
    clip = ClipDataset(index, clip_length=2, frame_interval_seconds=1.2, layers=["flow"]).torch()[0]
    assert clip["flow"].shape == (2, 2, 128, 216)


def test_an_analysis_that_finds_a_cut_makes_the_flow_over_it_out_of_date(walk, weights):
    layout, _, _ = walk
    known, unknown = (ShardIndex.open(layout.shards_dir("default")) for _ in range(2))
    unknown.shot[:] = -1  # before the analysis
    inputs = []
    for index in (unknown, known):
        source = FlowSource(index, interval_seconds=0.4, short_side=128, weights=weights)
        inputs.append({unit.name: source.inputs(unit) for unit in shard_units(index)})
    before, after = inputs
    # The cut at 3 s is in the second of three shards; its frames alone had flow over it.
    assert [name for name in before if before[name] != after[name]] == ["walk-00001"]


def test_flow_refuses_weights_and_intervals_that_do_not_fit(walk, weights, tmp_path):
    layout, _, _ = walk
    index = ShardIndex.open(layout.shards_dir("default"))
    (tmp_path / "other.pth").write_bytes(b"no weights")
    for problem, said, options in (
        (AnalysisError, "does not fit", {"weights": tmp_path / "other.pth"}),
        (AnalysisError, "there is no file", {"weights": tmp_path / "none.pth"}),
        (ShardError, "has no frames 5 s apart", {"weights": weights, "interval_seconds": 5}),
        (UsageError, "--interval", {"weights": weights, "interval_seconds": float("nan")}),
        (UsageError, "--short-side", {"weights": weights, "short_side": 130}),
    ):
        with pytest.raises(problem, match=said):
            FlowSource(index, **{"interval_seconds": 1, **options})
