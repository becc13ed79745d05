"""What is set and changes nothing is said, and it changes nothing."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.shard_set import TINY, write_shard_set
from training.config.presets import PRESETS, resolve_config
from training.config.train import TrainConfig, flatten
from training.config.without_effect import _METHODS, _unused, without_effect
from training.distributed.world import World
from training.engine.checkpoint import load_network
from training.engine.checkpoint_files import checkpoint_dir
from training.engine.metrics import read_metrics
from training.pretrain import pretrain

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = ("optim.steps=2", "optim.epochs=2", "optim.global_batch_size=2", "data.local_crops=2")
METHODS = ("dora", "dino", "simclr", "swav", "vicreg", "attmask")
"""`dora_images` uses what dora does, ibot what attmask does but for its section."""
OTHERS = {
    "tracking.num_objects": "2",
    "tracking.num_heads": "6",
    "tracking.sinkhorn": "false",
    "tracking.epsilon": "0.2",
    "tracking.iterations": "2",
    "tracking.patch_center": "true",
    "tracking.patch_norm": "false",
    "tracking.marginals": "paper",
    "tracking.mask": "soft",
    "tracking.attention_scale": "width",
    "loss.student_temp": "0.2",
    "loss.teacher_temp": "0.03",
    "loss.warmup_teacher_temp": "0.05",
    "loss.warmup_teacher_temp_epochs": "7",
    "loss.center_momentum": "0.5",
    "loss.teacher_centering": "sinkhorn",
    "loss.sinkhorn_iterations": "5",
    "simclr.temperature": "0.7",
    "simclr.siblings": "positive",
    "simclr.output_dim": "24",
    "swav.temperature": "0.7",
    "swav.epsilon": "0.2",
    "swav.sinkhorn_iterations": "5",
    "swav.output_dim": "24",
    "swav.queue_length": "8",
    "swav.queue_start_epoch": "0.5",
    "vicreg.invariance_weight": "3",
    "vicreg.halve_variance": "true",
    "vicreg.output_dim": "24",
    "ibot.patch_weight": "2",
    "ibot.patch_temp": "0.2",
    "ibot.warmup_patch_temp": "0.1",
    "ibot.patch_center_momentum": "0.5",
    "ibot.mask_ratio": "[0.2, 0.3]",
    "ibot.masked_probability": "0.9",
    "attmask.kind": "low",
    "attmask.hint_share": "0.2",
    "model.num_prototypes": "48",
    "model.norm_last_layer": "true",
    "optim.momentum": "0.5",
    "optim.momentum_end": "0.6",
    "optim.freeze_last_layer_epochs": "0.5",
    "data.local_crop_scale": "[0.1, 0.2]",
    "augment.local_blur_probability": "0.9",
    "data.neighborhood_seconds": "3",
    "augment.hue": "0.4",
    "optim.lr_scaling": "sqrt",
    "optim.clip_grad_by": "global",
    "watch.knn_k": "3",
    "watch.overlay_clips": "3",
}
"""Another value of each field that some method, or a field beside it, leaves without effect."""
SWITCHED_OFF = {
    "dora": [
        *("tracking.mask=random_blocks", "loss.teacher_centering=sinkhorn", "data.local_crops=0"),
        *("augment.jitter_probability=0", "optim.clip_grad=null"),
    ],
    "dino": ["loss.warmup_teacher_temp_epochs=1"],
    "swav": ["swav.queue_length=0"],
}


def config_of(method: str, *overrides: str) -> TrainConfig:
    of_views = ["data.local_crops=0"] if method == "vicreg" else []
    fixed = [*TINY, *SHORT, "swav.queue_length=6", "swav.queue_start_epoch=0"]
    preset = "official" if method == "dora" else method
    switched_off = SWITCHED_OFF.get(method, [])
    return resolve_config(preset, None, [*fixed, *of_views, *switched_off, *overrides])


def trained(
    shards: Path, run: Path, config: TrainConfig
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Return the metrics of each step and the evaluated network of a short run."""
    pretrain(config, shards_dir=shards, run_dir=run, world=World(0, 1, 0, torch.device("cpu")))
    lines = [
        {name: value for name, value in line.items() if name != "time"}
        for line in read_metrics(run / "metrics.jsonl")
    ]
    return lines, load_network(checkpoint_dir(run, 2))[1].state_dict()


@pytest.mark.parametrize("method", METHODS)
def test_what_is_said_to_be_without_effect_changes_no_loss_and_no_weight(tmp_path, method):
    shards = write_shard_set(tmp_path / "shards")
    plain = config_of(method)
    unused = dict(_unused(plain, flatten(plain.model_dump())))
    overrides = [f"{key}={value}" for key, value in OTHERS.items() if key in unused]
    changed = config_of(method, *overrides)
    said = " ".join(without_effect(changed))
    assert all(f"{override.partition('=')[0]}=" in said for override in overrides)
    assert len(overrides) > 15  # each method leaves the sections of the others
    lines, weights = trained(shards, tmp_path / "plain", plain)
    same_lines, same_weights = trained(shards, tmp_path / "changed", changed)
    assert len(lines) == 2
    assert lines == same_lines
    assert all(torch.equal(weights[name], same_weights[name]) for name in weights)


@pytest.mark.parametrize("name", PRESETS)
def test_nothing_is_said_of_a_preset(name):
    assert without_effect(resolve_config(name, None, [])) == []


def test_what_has_no_effect_is_said_once_for_a_reason():
    config = resolve_config(
        "dino", None, ["tracking.mask=soft", "tracking.epsilon=0.1", "watch.knn_k=5"]
    )
    assert without_effect(config) == [
        "tracking.epsilon=0.1, tracking.mask=soft: without effect on training with method=dino",
        "watch.knn_k=5: without effect on training with watch.knn_train=null",
    ]


def test_what_has_an_effect_is_not_said():
    used = ["swav.queue_length=64", "swav.queue_start_epoch=1", "optim.freeze_last_layer_epochs=2"]
    assert without_effect(resolve_config("swav", None, used)) == []


def test_each_field_of_a_method_is_tried():
    fields = flatten(TrainConfig().model_dump())
    of_methods = {key for key in fields if key.partition(".")[0] in _METHODS or key in _METHODS}
    # `koleo_weight` is refused where it has none; the others go together with what is tried.
    together = {
        *("loss.koleo_weight", "loss.local_crops_skipped"),
        *("loss.object_weights", "loss.reduction"),
        *("vicreg.variance_weight", "vicreg.covariance_weight"),
    }
    assert of_methods - OTHERS.keys() == together


def test_a_run_says_it_before_it_trains(tmp_path, caplog):
    shards = write_shard_set(tmp_path / "shards")
    trained(shards, tmp_path / "run", config_of("simclr", "loss.teacher_temp=0.03"))
    (said,) = [line for line in caplog.text.splitlines() if "without effect" in line]
    assert "loss.teacher_temp=0.03, " in said
    assert said.endswith(": without effect on training with method=simclr")
