"""Counted multiplications against those that torch counts in a real step."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.support.shard_set import TINY
from tests.support.steps_on_device import make_batch
from training.config.methods import REQUIRED
from training.config.presets import resolve_config
from training.distributed.world import World
from training.engine.setup import build_state
from training.engine.step import compute_gradients
from training.flops import BackboneShape, clip_tflop
from training.schedules import Progress

LARGER = (
    *("model.depth=4", "model.embed_dim=96", "model.num_prototypes=512"),
    *("data.global_crop_pixels=64", "data.frame_crop_pixels=64", "data.local_crop_pixels=32"),
    *("data.clip_length=2", "optim.global_batch_size=2"),
    *("model.head_hidden_dim=64", "vicreg.output_dim=64"),  # heads' MLPs are not counted
    "optim.precision=bfloat16",  # whose attention on a CPU torch counts
)


@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        *((preset, ()) for preset in ("official", "dino", "images", "simclr", "vicreg", "swav")),
        ("official", ("data.local_crops=0",)),  # of which one would be skipped
        ("official", ("model.drop_hidden_patches=true", "data.local_crops=0")),
        ("swav", ("swav.output_dim=512", "model.num_prototypes=8192")),
        # Many masked patches, and a local crop that the loss skips.
        ("ibot", ("model.num_prototypes=8192", "loss.local_crops_skipped=1")),
        ("attmask", ("model.num_prototypes=8192",)),
    ],
)
def test_a_step_does_what_is_counted(preset, overrides):
    fixed = REQUIRED[resolve_config(preset, None, []).method]
    pairs = [pair for pair in (*TINY, *LARGER) if pair.partition("=")[0] not in fixed]
    config = resolve_config(preset, None, [*pairs, *overrides])
    world = World(0, 1, 0, torch.device("cpu"))
    state, batch = build_state(config, world), make_batch(config, 0)
    with FlopCounterMode(display=False) as flops:
        gradients = compute_gradients(
            state, state.method, batch, Progress(0, 12, 3), config=config, world=world
        )
    seen = gradients.targets.metrics().get("mask_coverage", torch.ones(())).item()
    shape = BackboneShape(96, 4, 8)
    counted = clip_tflop(config, shape, as_computed=True, visible_share=seen) * 2e12
    # Beside it torch counts the head's MLP and its loss, and two orders below, the tracker.
    assert counted == pytest.approx(flops.get_total_flops(), rel=0.06)


def test_a_last_block_read_for_its_cls_token_takes_a_sixth():
    shape = BackboneShape(width=384, depth=12, patch_size=16)
    saved = shape.forward_gmac(224) - shape.forward_gmac(224, cls_alone=True)
    block = 12 * 197 * 384**2 + 2 * 197**2 * 384
    assert saved * 1e9 == pytest.approx(block - (2 * 197 + 10) * 384**2 - 2 * 197 * 384)
    assert saved * 1e9 / block == pytest.approx(5 / 6, rel=0.02)
