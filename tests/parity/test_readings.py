"""What each reading of an equation does to the recorded clips (docs/explanation/parity.md)."""

import pytest
import torch

from training.config.methods import TrackingConfig
from training.losses.dino import combine, entropy
from training.losses.sinkhorn import assignment
from training.methods.object_tracking import (
    object_masks,
    refined_prototypes,
    track,
)
from training.models.vit import build_backbone, encode

UNIFORM = 5.2781  # log 196, the entropy of a flat map


@pytest.fixture(scope="session")
def maps_of(recorded):
    key = recorded["key"].transpose(0, 1)

    def build(**settings):
        prototypes = recorded["P"]
        if settings.pop("sinkhorn", True):
            prototypes = refined_prototypes(
                prototypes, recorded["teacher_patches_f0"], TrackingConfig(**settings)
            )
        return track(prototypes, key)

    return build


def mean_overlap(masks):
    """Mean intersection over union of the masks of two objects."""
    on = masks.bool()
    pairs = [(on[:, i], on[:, j]) for i in range(3) for j in range(i)]
    return sum(((a & b).sum() / (a | b).sum()).item() for a, b in pairs) / len(pairs)


@pytest.mark.parametrize(("divisor", "expected"), [(64, 4.53), (192, 5.00)])
def test_cls_attention_is_flatter_when_scaled_by_the_width(recorded, divisor, expected):
    query, key = recorded["query_f0"][:, :, :1], recorded["key"][0]
    row = (query @ key.mT * divisor**-0.5).softmax(-1)[:, :, 0, 1:]
    assert 0.99 < row.sum(-1).min() < row.sum(-1).max() < 1
    row = row / row.sum(-1, keepdim=True)
    assert entropy(row).mean().item() == pytest.approx(expected, abs=0.01)


def test_thirty_iterations_leave_an_object_one_percent_off_its_share(recorded):
    shares = recorded["M"].sum(1) / (196 / 3)
    assert (shares - 1).abs().max().item() == pytest.approx(0.009, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "map_entropy", "visible"),
    [
        ({}, 4.210, 0.250),
        ({"marginals": "paper"}, UNIFORM, 0.495),
        ({"patch_norm": False}, 0.335, 0.013),
        ({"patch_norm": False, "marginals": "paper"}, 5.272, 0.474),
        ({"sinkhorn": False}, 5.126, 0.404),
        ({"patch_center": True}, 4.246, 0.246),
    ],
)
def test_readings_of_equations_4_and_5(maps_of, settings, map_entropy, visible):
    maps = maps_of(**settings)
    assert entropy(maps).mean().item() == pytest.approx(map_entropy, abs=1e-3)
    assert object_masks(maps, mask="binary").mean().item() == pytest.approx(visible, abs=1e-3)


def test_refined_prototypes_give_masks_that_overlap_less(maps_of):
    refined, unrefined, centered = (
        mean_overlap(object_masks(maps_of(**settings), mask="binary"))
        for settings in ({}, {"sinkhorn": False}, {"patch_center": True})
    )
    assert refined == pytest.approx(0.066, abs=1e-3)
    assert unrefined == pytest.approx(0.367, abs=1e-3)
    assert centered == pytest.approx(0.040, abs=1e-3)


def test_raw_patch_tokens_need_the_log_domain(recorded):
    logits = recorded["teacher_patches_f0"] @ recorded["P"].mT
    plan = (logits / 0.05 - (logits / 0.05).max()).exp()
    for _ in range(30):
        plan = plan / plan.sum(1, keepdim=True)
        plan = plan / plan.sum(2, keepdim=True)
    assert plan.isnan().any()
    assert assignment(logits, epsilon=0.05, iterations=30).isfinite().all()


@pytest.mark.parametrize(("mask", "mean"), [("soft", 0.068), ("literal", 1 / 196)])
def test_soft_masks_darken_the_frames(maps_of, mask, mean):
    masks = object_masks(maps_of(), mask=mask)
    assert masks.mean().item() == pytest.approx(mean, abs=1e-3)


def test_a_threshold_of_one_clip_instead_of_two_turns_4_percent_of_the_patches(maps_of, recorded):
    alone = torch.cat([object_masks(maps, mask="binary") for maps in maps_of().chunk(2)])
    together = recorded["binary_masks"].permute(2, 0, 1, 3)
    assert (alone != together).float().mean().item() == pytest.approx(0.038, abs=1e-3)


def test_carried_object_weights_raise_the_recorded_loss(recorded):
    local = recorded["L_local"][None]
    carried = combine(recorded["L_obj"], local)
    plain = combine(recorded["L_obj"], local, object_weights="mean")
    assert carried.item() == pytest.approx(8.0587, abs=1e-4)
    assert plain.item() == pytest.approx(6.7819, abs=1e-4)


def test_position_embedding_as_timm_interpolates_it_gives_another_cls_token(weights, recorded):
    backbone = build_backbone("vit_tiny_patch16_224")
    state = weights["student"]
    backbone.load_state_dict(
        {name[9:]: value for name, value in state.items() if name.startswith("backbone.")}
    )
    crops = recorded["local_crops"][0, 0].float()
    with torch.no_grad():
        ours, timms = encode(backbone, crops), backbone.forward_features(crops)[:, 0]
    assert ((timms - ours).norm() / ours.norm()).item() == pytest.approx(0.0076, abs=5e-4)
