"""The ablations of the paper's Table 2 and the two methods, each a short run by --set alone."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.support.shard_set import TINY, write_shard_set
from training.config.presets import resolve_config
from training.distributed.world import World
from training.engine.checkpoint import load_network
from training.engine.checkpoint_files import checkpoint_dir
from training.engine.metrics import read_metrics
from training.pretrain import pretrain
from wtours.errors import UsageError
from wtours.storage.hashing import sha256_file

WORLD = World(0, 1, 0, torch.device("cpu"))
pytestmark = pytest.mark.medium
TWO_STEPS = ("optim.steps=2", "optim.warmup_epochs=0", "optim.freeze_last_layer_epochs=0")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shard_set(tmp_path_factory.mktemp("method") / "shards")


def train(shards, run_dir, *overrides, preset="official", **options):
    config = resolve_config(preset, None, [*TINY, *TWO_STEPS, *overrides])
    pretrain(config, shards_dir=shards, run_dir=run_dir, world=WORLD, **options)
    return [
        {name: value for name, value in line.items() if name != "time"}
        for line in read_metrics(run_dir / "metrics.jsonl")
    ]


@pytest.fixture(scope="module")
def plain(shards, tmp_path_factory):
    return train(shards, tmp_path_factory.mktemp("runs") / "plain")


@pytest.mark.parametrize(
    "overrides",
    [
        ["tracking.num_objects=1"],
        ["tracking.num_objects=2"],
        *([f"tracking.num_objects={k}", "model.num_heads=6"] for k in (3, 4, 5, 6)),
        ["tracking.num_heads=16", "tracking.num_objects=16"],
        ["model.embed_dim=96", "tracking.num_heads=32", "tracking.num_objects=32"],
        ["tracking.sinkhorn=false"],
        ["tracking.mask=random_blocks"],
        ["tracking.mask=random_blocks", "data.global_crops=2", "tracking.num_objects=5"],
        ["data.global_crops=2"],
        ["optim.name=lars"],
        ["method=dino", "data.global_crops=2"],
    ],
    ids=" ".join,
)
def test_a_setting_of_an_ablation_trains_and_is_not_the_default(shards, plain, tmp_path, overrides):
    lines = train(shards, tmp_path / "run", *overrides)
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[1]["loss"] != plain[1]["loss"]
    assert lines[0]["gradient_norm"] > 0


@pytest.mark.parametrize(
    ("name", "patch", "registers"),
    [
        ("vit_small_patch8_224", 8, 0),
        ("vit_tiny_patch16_224", 16, 0),
        ("vit_base_patch16_224", 16, 0),
        ("vit_large_patch16_224", 16, 0),
        ("vit_small_patch14_dinov2", 14, 0),  # layer scale
        ("vit_large_patch14_reg4_dinov2", 14, 4),
        ("vit_giant_patch14_reg4_dinov2", 14, 4),  # a gated MLP
        ("vit_base_patch32_clip_224", 32, 0),  # a norm before the first block
    ],
)
def test_a_vit_of_timm_takes_a_step_with_its_own_patches(shards, tmp_path, name, patch, registers):
    overrides = [
        *("optim.steps=1", f"model.backbone={name}", "model.patch_size=null"),
        *("data.frame_crop_pixels=96", f"data.global_crop_pixels={2 * patch}"),
        f"data.local_crop_pixels={patch}",
    ]
    (line,) = train(shards, tmp_path / "run", *overrides)
    assert 0 < line["mask_coverage"] < 1  # objects are found in 4 patches
    assert line["gradient_norm"] > 0
    _, network = load_network(checkpoint_dir(tmp_path / "run", 1))
    assert network.backbone.patch_embed.patch_size == (patch, patch)
    assert network.backbone.num_prefix_tokens == 1 + registers


def test_clips_over_cuts_are_trained_on_only_where_they_are_wanted(tmp_path):
    """Table 7b: a cut after the twelfth of 24 frames, 3 frames a clip."""
    shards = write_shard_set(tmp_path / "shards")
    table = pq.read_table(shards / "index.parquet")
    cut = pa.array([0] * 12 + [1] * 12, table.schema.field("shot").type)
    column = table.schema.get_field_index("shot")
    pq.write_table(table.set_column(column, "shot", cut), shards / "index.parquet")
    facts = json.loads((shards / "dataset.json").read_text())
    facts["index"]["bytes"] = (shards / "index.parquet").stat().st_size
    facts["index"]["sha256"] = sha256_file(shards / "index.parquet")
    (shards / "dataset.json").write_text(json.dumps(facts))
    epochs = {}
    for wanted in ("false", "true"):
        overrides = [f"data.across_cuts={wanted}", "optim.steps=null", "optim.epochs=1"]
        run = tmp_path / wanted
        epochs[wanted] = len(train(shards, run, *overrides, "optim.global_batch_size=2"))
    assert epochs == {"false": 10, "true": 11}  # of 2 x 10 and of 22 clips, 2 a step


def test_the_preset_dino_sees_all_of_its_views(shards, tmp_path):
    lines = train(shards, tmp_path / "run", preset="dino")
    assert [line["mask_coverage"] for line in lines] == [1, 1]


def test_the_preset_paper_sums_over_two_views_three_objects_and_all_crops(shards, tmp_path):
    for line in train(shards, tmp_path / "run", preset="paper"):
        by_sums = 2 * (3 * line["loss_masked"] + 3 * line["loss_local"])
        assert line["loss"] == pytest.approx(by_sums, rel=1e-5)


def test_activations_computed_twice_change_no_number(shards, tmp_path):
    overrides = ["model.drop_path_rate=0.3"]
    kept = train(shards, tmp_path / "kept", *overrides)
    again = train(shards, tmp_path / "again", *overrides, "model.activation_checkpointing=true")
    assert again == kept


def test_accumulated_steps_are_those_of_the_whole_batch(shards, plain, tmp_path):
    lines = train(shards, tmp_path / "run", "optim.accumulation_steps=4")
    for ours, theirs in zip(lines, plain, strict=True):
        assert ours["mask_coverage"] == theirs["mask_coverage"]
        for name in ("loss", "loss_masked", "loss_local", "teacher_entropy", "gradient_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name


class Interrupted(Exception):
    pass


def interrupt(status):
    if status.step == 1:
        raise Interrupted


def test_lars_goes_on_after_a_stop_as_if_there_had_been_none(shards, tmp_path):
    overrides = ["optim.name=lars", "optim.lr=10", "checkpoint.every_steps=1"]
    whole = train(shards, tmp_path / "whole", *overrides)
    with pytest.raises(Interrupted):
        train(shards, tmp_path / "stopped", *overrides, on_step=interrupt)
    assert train(shards, tmp_path / "stopped", *overrides) == whole
    for name in ("model.safetensors", "optimizer.safetensors"):
        ours, theirs = (checkpoint_dir(tmp_path / r, 2) / name for r in ("stopped", "whole"))
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tracking.num_heads=5"], r"num_heads \(5\) must divide the backbone's width \(48\)"),
        (["tracking.num_objects=4"], r"3 attention heads; tracking.num_heads splits"),
        (["method=dino"], "method=dino needs data.global_crops=2"),
        (["method=moco"], "method='moco': Input should be 'dora', 'dino', 'dora_images', 'simclr'"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(shards, tmp_path, overrides, message):
    with pytest.raises(UsageError, match=message):
        train(shards, tmp_path / "run", *overrides)
