"""A past step is what was trained on, found again from its position; spikes are ranked."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch

from tests.support.command_line import run_here
from tests.support.shard_set import TINY, write_shard_set
from training.config.presets import resolve_config
from training.data.loader import batches
from training.distributed.world import World
from training.engine.setup import open_views
from training.pretrain import pretrain
from training.rewind import largest_spikes, rewind, signs_of_collapse
from wtours.cli.runs import _set_of_run
from wtours.errors import CheckpointError, UsageError

WORLD = World(0, 1, 0, torch.device("cpu"))
pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shard_set(tmp_path_factory.mktemp("rewind") / "shards", videos=("oslo", "venice"))


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "walk"
    config = resolve_config("official", None, [*TINY, "checkpoint.keep_every=4"])
    pretrain(config, shards_dir=shards, run_dir=run_dir, world=WORLD)
    return run_dir


def test_the_clips_and_boxes_are_those_that_the_step_was_trained_on(shards, run):
    config = resolve_config("official", run / "config.yaml", [])
    views = open_views(shards, config)
    (batch,) = batches(views, WORLD, config, position=24, steps=1)
    found = rewind(run, shards, 7, num_clips=99, rank_clips=False, world=WORLD)
    facts = [clip.facts for clip in found.clips]
    assert [one["position"] for one in facts] == batch.positions.tolist()
    assert [one["global_crops"] for one in facts] == batch.draws.global_boxes.tolist()
    assert [one["local_crops"] for one in facts] == batch.draws.local_boxes.tolist()
    assert [one["flipped"] for one in facts] == batch.draws.flips.tolist()
    for one, frames in zip(facts, batch.frames, strict=True):
        assert len(one["pts_us"]) == config.data.clip_length
        clip = views.source[views.sampler.key_at(one["position"])]
        assert list(clip.pts_us) == one["pts_us"]
        top, left, height, width = one["frame_crop"]
        cut = [frame[top : top + height, left : left + width] for frame in clip.decode()]
        assert np.abs(np.mean(cut[0]) - frames[0].float().mean().item()) < 25
    assert found.metrics is not None
    assert found.metrics["step"] == 7
    assert found.checkpoint.name == "step-00000004"  # as near as 8; the earlier one
    side = config.data.frame_crop_pixels
    scale = math.ceil(224 / side)
    assert found.clips[0].crops.size == (scale * side * config.data.clip_length, scale * side)
    # The yellow of the global crop is where its box says.
    top, left, *_ = facts[0]["global_crops"][0]
    assert found.clips[0].crops.getpixel((scale * left, scale * top)) == (255, 204, 0)


def test_the_mean_loss_of_the_clips_is_the_loss_that_was_logged(shards, run):
    # The state after step 4 is kept, and step 5 began with it.
    found = rewind(run, shards, 5, num_clips=99, rank_clips=True, world=WORLD)
    assert found.checkpoint.name == "step-00000004"
    losses = [clip.facts["loss"] for clip in found.clips]
    assert losses == sorted(losses, reverse=True)
    assert max(losses) > min(losses)
    assert found.metrics is not None
    assert np.mean(losses) == pytest.approx(found.metrics["loss"], rel=1e-5)


def test_spikes_are_ranked_by_their_rise_above_the_steps_before(tmp_path):
    losses = {step: 5.0 - 0.01 * step for step in range(1, 60)} | {30: 9.0, 31: 8.0, 50: 6.0}
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step, loss in losses.items():
            file.write(json.dumps({"step": step, "loss": loss, "lr": 1}) + "\n")
        file.write('{"step": 60, "loss": nonsense')
    spikes = largest_spikes(tmp_path, 3)
    assert [spike.step for spike in spikes] == [30, 31, 50]
    assert spikes[0].before == pytest.approx(5 - 0.01 * 19.5)
    assert spikes[0].jump == pytest.approx(9 - 5 + 0.195)
    with pytest.raises(CheckpointError, match=r"has no metrics\.jsonl"):
        largest_spikes(tmp_path / "none", 3)


def test_the_command_writes_a_page_and_json(shards, run, tmp_path):
    page = tmp_path / "page.html"
    root = tmp_path / "root"
    shutil.copytree(shards, root / "shards" / "named_otherwise")  # it is found by its set hash
    words = ("rewind", run, "--root", root, "--step", "3", "--clips", "2")
    result = run_here(*words, "--out", page, "--json")
    assert result.returncode == 0, result.stderr
    content = json.loads(result.stdout)
    assert [clip["position"] for clip in content["clips"]] == [8, 9]
    assert content["clips_of_step"] == 4
    html = page.read_text()
    assert html.count("data:image/webp;base64,") == 4  # crops and masks of two clips
    assert "https://" not in html
    listed = run_here("rewind", run, "--json")
    assert [spike["step"] for spike in json.loads(listed.stdout)["spikes"]] == [
        spike.step for spike in largest_spikes(run, 10)
    ]
    said = run_here(*words, "--out", page).stdout.splitlines()
    assert re.match(r"step 3: loss \d\.\d{4}; 4 clips, masks by ", said[0])
    assert re.fullmatch(r"  \w+ at \d+\.\d\d s, .* s \(position 8\)", said[1])
    assert said[-1] == page.as_uri()
    drawn = run_here("visualize", run, "--root", root, "--clips", "1", "--json")
    assert drawn.returncode == 0, drawn.stderr
    assert len(json.loads(drawn.stdout)["files"]) == 2
    before = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    second = json.loads((run / "metrics.jsonl").read_text().splitlines()[1])["loss"]
    assert content["before"]["loss"] == pytest.approx((before + second) / 2)
    other = run_here("rewind", run, "--root", root, "--step", "3", "--shards", "default")
    assert "beside it: named_otherwise" in other.stderr


def test_signs_of_collapse_are_found_again_in_the_metrics(shards, run, tmp_path):
    collapsed = shutil.copytree(run, tmp_path / "collapsed")
    (collapsed / "metrics.jsonl").write_text(
        "".join(
            json.dumps({"step": step, "loss": 5.0, "mask_overlap": 0.99, "time": {}}) + "\n"
            for step in range(1, 61)
        )
    )
    (sign,) = json.loads(run_here("rewind", collapsed, "--json").stdout)["collapse"]
    assert sign.startswith("step 50: mask_overlap is 0.99 over 50 steps: the objects are almost")
    assert f"sign of collapse: {sign}" in run_here("rewind", collapsed).stdout
    page = tmp_path / "page.html"
    words = ("--step", "3", "--clips", "1", "--shards", shards, "--out", page)
    assert run_here("rewind", collapsed, *words).returncode == 0
    assert "Signs of collapse" in page.read_text()
    assert signs_of_collapse(run) == []


def test_a_run_whose_set_has_grown_finds_the_one_of_its_name(run, tmp_path):
    write_shard_set(tmp_path / "shards" / "others", num_frames=3)
    refused = run_here("visualize", run, "--root", tmp_path)
    assert refused.returncode == 1
    assert f"{run} was trained on: name one by --shards: others" in refused.stderr
    grown = write_shard_set(tmp_path / "shards" / run.name, num_frames=9)
    assert _set_of_run(run, None, tmp_path) == grown


def test_a_loss_that_compares_the_clips_of_a_step_is_not_given_to_each(shards, tmp_path):
    config = resolve_config("official", None, [*TINY, "optim.steps=1", "loss.koleo_weight=0.1"])
    pretrain(config, shards_dir=shards, run_dir=tmp_path, world=WORLD)
    with pytest.raises(UsageError, match="is not one of a single clip"):
        rewind(tmp_path, shards, 1, num_clips=1, rank_clips=True, world=WORLD)


def test_what_cannot_be_rewound_is_one_line(shards, run, tmp_path):
    for step in (0, -1, 13):
        with pytest.raises(UsageError, match="--step"):
            rewind(run, shards, step, num_clips=1, rank_clips=False, world=WORLD)
    other = write_shard_set(tmp_path / "other", num_frames=20, videos=("oslo", "venice"))
    with pytest.raises(CheckpointError, match="is not the shard set that"):
        rewind(run, other, 3, num_clips=1, rank_clips=False, world=WORLD)
    with pytest.raises(CheckpointError, match="has no whole checkpoint"):
        rewind(tmp_path, shards, 3, num_clips=1, rank_clips=False, world=WORLD)
