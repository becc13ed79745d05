"""What a run tracks, as a layer: the maps that `visualize` draws, of every frame."""

import json
import shutil

import numpy as np
import pytest
import torch

from tests.support.command_line import exit_code_of
from tests.support.shard_set import write_shard_set
from tests.support.tiny_run import CPU, make_run, tiny_config
from training.engine.checkpoint import load_network
from training.engine.checkpoint_files import find_checkpoint
from training.visualization.attention_maps import attend_between, crop_clip, shown_heads
from training.visualization.tracker import RunTracker
from wtours.errors import ShardError
from wtours.layers.make import make_layer
from wtours.layers.objects import ObjectSource
from wtours.layers.verify import repair_layer, verify_layer
from wtours.shards import Clip, ClipDataset, ShardIndex
from wtours.shards.layers.layer import Layer

FRAMES, CUT = 10, 6


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = tiny_config("data.clip_length=4", "data.frame_interval_seconds=1")
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", config)


@pytest.fixture
def frames(tmp_path):
    return write_shard_set(tmp_path / "set", num_frames=FRAMES, videos=("oslo", "rome"))


def opened(frames):
    index = ShardIndex.open(frames)
    index.shot[:] = np.tile(np.arange(FRAMES) >= CUT, 2)  # stretches of 4, 2 and 4 frames
    return index


def made(index, run):
    source = ObjectSource(index, RunTracker(run, device=CPU))
    return make_layer(index, "objects", source, origin=f"objects:{run}")


def drawn(run, index, first, stop):
    """Return the maps of a stretch as `visualize` computes them, (T, O, h, w)."""
    config, network = load_network(find_checkpoint(run))
    rows = list(range(first, stop))
    clip = Clip("rome", first, tuple(index.pts_us[rows].tolist()), index.read_jpegs(rows))
    _, inputs = crop_clip(clip, config.data.global_crop_pixels)
    heads = shown_heads(network.backbone, config)
    with torch.inference_mode():
        maps = attend_between(network.backbone, inputs, heads, config.tracking).refined
    return maps.transpose(0, 1).reshape(len(rows), len(heads), 4, 4).numpy()


def test_each_frame_has_the_maps_that_visualize_draws_from_the_first_of_its_stretch(frames, run):
    index = opened(frames)
    report = made(index, run)
    assert (report.file.values, report.num_written) == (2 * FRAMES, 2)
    values = np.array(Layer.open(index, "objects").read(range(2 * FRAMES)))
    assert values.dtype == np.float16
    np.testing.assert_allclose(values.sum(axis=(2, 3), dtype=float), 1, atol=2e-3)
    for video in (0, FRAMES):
        for first, stop in ((0, 4), (4, CUT), (CUT, FRAMES)):
            rows = slice(video + first, video + stop)
            expected = drawn(run, index, video + first, video + stop)
            np.testing.assert_allclose(values[rows], expected, atol=1e-4)
    assert np.abs(values[1] - values[FRAMES + 1]).max() > 1e-3  # maps are not all the same
    clip = ClipDataset(index, clip_length=2, frame_interval_seconds=1.0, layers=["objects"])[0]
    np.testing.assert_array_equal(clip.layers["objects"][1], values[1])


def test_it_is_kept_made_anew_for_other_weights_or_cuts_and_repaired(frames, run, tmp_path):
    index = opened(frames)
    made(index, run)
    assert made(index, run).num_kept == 2
    index.shot[FRAMES + 2 : FRAMES + CUT] = 2
    assert (made(index, run).num_written, made(index, run).num_kept) == (1, 2)
    tar = frames / "layers" / "objects" / "oslo-00000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:600] + b"?" + whole[601:])
    problems = verify_layer(index, "objects")
    source = ObjectSource(index, RunTracker(run, device=CPU))
    repair_layer(index, "objects", source, problems, origin=f"objects:{run}")
    assert tar.read_bytes() == whole
    other = make_run(tmp_path / "other", tiny_config("data.clip_length=4", "seed=5"))
    assert made(index, other).num_written == 2


def test_clips_shorter_than_two_frames_are_refused(frames, tmp_path):
    short = tiny_config("data.clip_length=2", "data.frame_interval_seconds=0.1")
    with pytest.raises(ShardError, match=r"a clip of the run has 0\.2 s, less than two frames of"):
        ObjectSource(opened(frames), RunTracker(make_run(tmp_path / "run", short), device=CPU))


def test_the_command_takes_a_run_by_its_name(frames, run, tmp_path, monkeypatch, capsys):
    shutil.copytree(run, tmp_path / "root" / "runs" / "tiny")
    words = ("--from", "objects:tiny", "--shards", frames, "--root", tmp_path / "root", "--json")
    assert exit_code_of(monkeypatch, "layer", "make", "objects", *words) in (0, None)
    said = json.loads(capsys.readouterr().out)
    assert (said["origin"], said["values"]) == ("objects:tiny", 2 * FRAMES)
