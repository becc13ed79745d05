import pytest
import torch
import torch.nn.functional as F

from training.config.methods import TrackingConfig
from training.losses.sinkhorn import assignment
from training.methods.object_tracking import (
    apply_masks,
    draw_heads,
    mask_threshold,
    object_masks,
    object_prototypes,
    refined_prototypes,
    track,
    track_objects,
)
from training.models.vit import TokenFeatures


def random_maps(num_clips, num_objects=2, clip_length=3, num_patches=8):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(num_clips, num_objects, clip_length, num_patches, generator=generator)
    return (3 * scores).softmax(-1)


def random_features(num_frames, num_heads=3, num_patches=16, head_width=4):
    generator = torch.Generator().manual_seed(0)
    width = num_heads * head_width
    tokens = (num_frames, num_heads, 1 + num_patches, head_width)
    return TokenFeatures(
        cls_token=torch.randn(num_frames, width, generator=generator),
        patch_tokens=torch.randn(num_frames, num_patches, width, generator=generator),
        query=torch.randn(tokens, generator=generator),
        key=torch.randn(tokens, generator=generator),
        cls_attention=torch.rand(num_frames, num_heads, num_patches, generator=generator),
    )


def test_drawn_heads_differ_and_depend_on_the_seed_only():
    draws = {
        tuple(draw_heads(6, 3, torch.Generator().manual_seed(seed)).tolist()) for seed in range(50)
    }
    assert all(len(set(heads)) == 3 and set(heads) <= set(range(6)) for heads in draws)
    assert len(draws) > 10
    again = draw_heads(6, 3, torch.Generator().manual_seed(0))
    assert torch.equal(again, draw_heads(6, 3, torch.Generator().manual_seed(0)))


def test_object_prototypes_are_worked_by_hand():
    # One clip, two heads of width 1, two patches; query[head] = CLS, patch 0, patch 1.
    query = torch.tensor([[[[9.0], [1.0], [2.0]], [[9.0], [10.0], [20.0]]]])
    attention = torch.tensor([[[0.5, 0.25], [0.0, 1.0]]])
    prototypes = object_prototypes(attention, query, torch.tensor([1, 0]))
    assert prototypes.tolist() == [[[2.0, 20.0], [1.0, 10.0]]]


def test_maps_are_worked_by_hand():
    # D = 4 (two heads of width 2), so scores are halved; log 9 / 2 = log 3.
    key = torch.zeros(1, 1, 2, 3, 2)
    key[0, 0, 0, 2, 0] = 1.0
    prototypes = torch.tensor([[[torch.tensor(9.0).log().item(), 0.0, 0.0, 0.0], [0.0] * 4]])
    maps = track(prototypes, key)
    torch.testing.assert_close(maps[0, :, 0], torch.tensor([[0.25, 0.75], [0.5, 0.5]]))


def test_without_sinkhorn_the_prototypes_track_unrefined():
    features, heads = random_features(6), torch.tensor([2, 0])
    maps = track_objects(
        features,
        heads,
        clip_length=3,
        tracking=TrackingConfig(num_objects=2, sinkhorn=False),
    )
    prototypes = object_prototypes(features.cls_attention[::3], features.query[::3], heads)
    torch.testing.assert_close(maps, track(prototypes, features.key.reshape(2, 3, 3, 17, 4)))


def test_refined_prototypes_are_sums_of_the_assigned_patches():
    prototypes, patches = torch.randn(2, 3, 12), torch.randn(2, 16, 12)
    refined = refined_prototypes(prototypes, patches, TrackingConfig(patch_norm=False))
    plan = assignment(patches @ prototypes.mT, epsilon=0.05, iterations=30)
    for clip in range(2):
        for number in range(3):
            expected = sum(plan[clip, n, number] * patches[clip, n] for n in range(16))
            torch.testing.assert_close(refined[clip, number], expected)


def test_centered_patches_are_assigned_by_what_they_do_not_share():
    prototypes, patches = torch.randn(2, 3, 12), torch.randn(2, 16, 12)
    shared = 20 * torch.randn(2, 1, 12)
    settings = TrackingConfig(patch_center=True)
    refined = refined_prototypes(prototypes, patches, settings)
    torch.testing.assert_close(
        refined_prototypes(prototypes, patches + shared, settings), refined, rtol=1e-3, atol=1e-3
    )
    centered = F.normalize(patches - patches.mean(1, keepdim=True), dim=-1)
    torch.testing.assert_close(
        refined, refined_prototypes(prototypes, centered, TrackingConfig(patch_norm=False))
    )


def test_half_precision_features_are_tracked_in_float32():
    halves = {name: value.bfloat16() for name, value in vars(random_features(3)).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = track_objects(
            TokenFeatures(**halves),
            torch.tensor([0, 1, 2]),
            clip_length=3,
            tracking=TrackingConfig(),
        )
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps.sum(-1), torch.ones(1, 3, 3))


def test_for_one_clip_the_mask_is_what_is_above_uniform():
    maps = random_maps(1)
    assert torch.equal(object_masks(maps, mask="binary"), (maps > 1 / 8).float())


def test_the_threshold_is_the_mean_over_the_batch():
    # Unit-length maps: (1, 0, 0, 0) with mean 1/4, and (1, 1, 1, 1) / 2 with mean 1/2.
    maps = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25] * 4]).reshape(2, 1, 1, 4)
    assert mask_threshold(maps).item() == pytest.approx(0.375)
    masks = object_masks(maps, mask="binary").reshape(2, 4)
    assert masks.tolist() == [[1, 0, 0, 0], [1, 1, 1, 1]]


def test_masks_of_two_ranks_are_those_of_the_whole_batch():
    maps = random_maps(6)
    halves = maps.chunk(2)
    threshold = torch.stack([mask_threshold(half) for half in halves]).mean(0)
    masks = [object_masks(half, mask="binary", all_mean=lambda mean: threshold) for half in halves]
    assert torch.equal(torch.cat(masks), object_masks(maps, mask="binary"))
    alone = torch.cat([object_masks(half, mask="binary") for half in halves])
    assert not torch.equal(alone, object_masks(maps, mask="binary"))


def test_soft_masks_reach_1_and_literal_ones_sum_to_1():
    maps = random_maps(2)
    assert (object_masks(maps, mask="soft").amax(-1) == 1).all()
    torch.testing.assert_close(object_masks(maps, mask="literal").sum(-1), torch.ones(2, 2, 3))


def test_a_mask_multiplies_the_pixels_of_its_patch():
    clip = torch.arange(1.0, 9.0).reshape(1, 1, 1, 2, 4).expand(1, 1, 3, 2, 4)
    masks = torch.tensor([[1.0, 0.0], [0.0, 0.5]]).reshape(1, 2, 1, 2)  # patches of 2 x 2 pixels
    masked = apply_masks(clip, masks)
    assert masked.shape == (2, 1, 1, 3, 2, 4)
    assert masked[0, 0, 0, 0].tolist() == [[1, 2, 0, 0], [5, 6, 0, 0]]
    assert masked[1, 0, 0, 2].tolist() == [[0, 0, 1.5, 2], [0, 0, 3.5, 4]]
