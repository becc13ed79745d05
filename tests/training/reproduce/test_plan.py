"""The plan of the paper's tables against the paper's own figures and a hand-made cost table."""

import pytest
import torch

from training.config.methods import REQUIRED
from training.config.presets import PRESETS, resolve_config
from training.methods.registry import build_method
from training.reproduce.cost import run_cost
from training.reproduce.plan import ALL_TABLES, load_plan
from wtours.errors import UsageError
from wtours.workspace.manifest import load_manifest


def paper_plan(tmp_path, **folders):
    return load_plan("paper", root=tmp_path, folders=folders)


def test_the_paper_takes_39_runs_and_every_row_has_one(tmp_path):
    plan = paper_plan(tmp_path)
    assert len(plan.file.runs) == len(plan.runs) == 39
    for table, runs in plan.rows:
        assert len(runs) == len(table.rows)
    assert [table.number for table in ALL_TABLES] == [
        "2a",
        "2b",
        "2c",
        "3",
        "4",
        "5",
        "7a",
        "7b",
        "8",
    ]


@pytest.mark.parametrize("name", ["paper", "tiny"])
def test_each_run_of_a_plan_can_be_trained(tmp_path, name):
    plan = load_plan(name, root=tmp_path, folders={})
    methods = {plan.config(run).method for run in plan.runs.values()}
    assert methods == set(REQUIRED)


def test_a_video_has_as_many_clips_as_the_paper_counts_frames(tmp_path):
    data = paper_plan(tmp_path).file.data
    videos = load_manifest(None).select(())
    for entry in videos:
        assert entry.published is not None
        thousands = entry.published.frames_thousands
        assert data[f"wt_{entry.id}"].clips == round(1000 * thousands)
        assert data[f"wt_{entry.id}"].shards == entry.id
    # The ten add up to 1,532.0 thousand frames.
    assert data["wt_all"].clips == sum(data[f"wt_{entry.id}"].clips for entry in videos)


@pytest.mark.parametrize(
    ("run", "steps", "hours"),
    [
        # Steps and A100 hours counted by hand for a ViT-S/16: 4.60 GMAC at 224 pixels, 1.10 at 112.
        ("dora-venice", 154_500, 139),
        ("dino-venice", 154_500, 125),
        ("dora-venice-k6", 154_500, 230),
        ("dora-venice-k16", 154_500, 535),
        ("simclr-venice", 154_500, 60),
        ("swav-venice", 154_500, 104),
        ("dora-wt-all", 1_196_800, 1075),
        ("dino-in1k", 1_000_900, 101),
        ("dora-in1k-60", 600_500, 67),
    ],
)
def test_a_run_costs_what_counting_by_hand_gives(tmp_path, run, steps, hours):
    plan = paper_plan(tmp_path)
    entry = plan.file.runs[run]
    cost = run_cost(plan.config(entry), clips=plan.file.data[entry.data].clips)
    assert cost.steps == pytest.approx(steps, abs=100)
    assert cost.gpu_hours == pytest.approx(hours, rel=0.03)


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"paper"}))  # LARS has one moment
def test_a_checkpoint_takes_what_its_tensors_do(preset):
    config = resolve_config(preset, None, [])
    with torch.device("meta"):
        method = build_method(config)
    weights = sum(value.numel() for value in method.state_dict().values())
    trained = sum(value.numel() for value in method.student.parameters())
    cost = run_cost(config, clips=1000)
    assert cost.disk_bytes == pytest.approx(4 * (weights + 2 * trained), rel=0.03)


def test_a_column_the_paper_leaves_open_is_not_evaluated_but_the_pictured_table_is(tmp_path):
    plan = paper_plan(tmp_path)
    assert plan.columns["dora-venice-no-sk"] == {"LP", "CorLoc"}
    assert plan.columns["simclr-venice"] == {"LP", "k-NN", "Jacc.", "CorLoc"}
    assert "k-NN" not in plan.columns["dora-amsterdam"]


def test_what_lacks_its_data_says_what_would_provide_it(tmp_path):
    (tmp_path / "VOC").mkdir()
    steps = {step.name: step for step in paper_plan(tmp_path, voc=tmp_path / "VOC").steps()}
    (shard,) = steps["dora-venice"].lacks
    assert shard == f"wtours prepare --video venice --shards venice --root {tmp_path}"
    whole = f"wtours prepare --video wt_all --shards wt_all --root {tmp_path}"
    assert steps["dora-wt-all"].lacks == (whole,)
    assert load_manifest().select(["wt_all"]) == load_manifest().videos
    assert steps["dora-in1k"].lacks == ("--imagenet DIR",)
    assert "Kinetics-400" in steps["dora-k400"].lacks[0]
    assert steps["dora-venice: linear"].lacks == (shard, "--imagenet DIR")
    assert steps["dora-venice: discover"].lacks == (shard,)
    assert "detectron2" in steps["dora-venice: coco"].lacks[0]
    (tmp_path / "shards" / "venice").mkdir(parents=True)
    (tmp_path / "shards" / "venice" / "dataset.json").write_text("{}")
    steps = {step.name: step for step in paper_plan(tmp_path, voc=tmp_path / "VOC").steps()}
    assert steps["dora-venice"].lacks == steps["dora-venice: discover"].lacks == ()
    assert steps["dora-venice: discover"].words[:3] == ("eval", "discover", "dora-venice")


def test_an_unknown_table_is_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"no table '6'.*2a, 2b"):
        load_plan("paper", root=tmp_path, tables=["6"], folders={})
