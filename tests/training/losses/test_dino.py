import math

import pytest
import torch

from training.losses.dino import (
    combine,
    entropy,
    teacher_probabilities,
    update_center,
    weights_of_objects,
)


def loss_as_released(masked, local):
    """The loops of the released code: the sum over frames is not set back between objects."""
    num_objects, clip_length = masked.shape
    total = frame_loss = torch.zeros(())
    for number in range(num_objects):
        for frame in range(clip_length):
            frame_loss = frame_loss + 0.5 * (masked[number, frame] + local[:, frame].mean())
        frame_loss = frame_loss / clip_length
        total = total + frame_loss
    return total / num_objects


@pytest.mark.parametrize("num_objects", [1, 2, 3, 6])
def test_carried_weights_are_those_of_a_sum_that_is_not_set_back(num_objects):
    masked, local = torch.rand(num_objects, 8), torch.rand(5, 8)
    expected = loss_as_released(masked, local)
    torch.testing.assert_close(combine(masked, local), expected)


def test_carried_weights_at_8_frames_favor_the_first_object():
    weights = weights_of_objects(3, 8, "carry")
    expected = torch.tensor([1 + 1 / 8 + 1 / 64, 1 + 1 / 8, 1.0]) / 3
    torch.testing.assert_close(weights, expected)
    assert weights.sum().item() == pytest.approx(1.0885, abs=1e-4)


def test_equal_cross_entropies_give_9_of_them_by_the_papers_sums():
    # Per global view: 3 objects and 6 local crops.
    total = combine(torch.full((3, 8), 2.0), torch.full((6, 8), 2.0), reduction="sum")
    assert total.item() == pytest.approx(18.0)


def test_without_local_crops_the_masked_clips_are_the_loss():
    masked = torch.rand(3, 4)
    total = combine(masked, torch.zeros(0, 4), object_weights="mean")
    torch.testing.assert_close(total, masked.mean())


def test_center_is_a_moving_mean_over_all_ranks():
    logits = torch.tensor([[[1.0, 3.0], [3.0, 5.0]]])
    center = update_center(torch.tensor([10.0, 10.0]), logits, momentum=0.9)
    torch.testing.assert_close(center, torch.tensor([9.2, 9.4]))
    # The other rank's mean is (4, 6): the mean of both is (3, 5).
    both = update_center(
        torch.zeros(2),
        logits,
        momentum=0.0,
        all_mean=lambda mean: (mean + torch.tensor([4.0, 6.0])) / 2,
    )
    torch.testing.assert_close(both, torch.tensor([3.0, 5.0]))


def test_teacher_is_centered_before_it_is_sharpened():
    probabilities = teacher_probabilities(
        torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0 - 0.04 * math.log(3)]), temp=0.04
    )
    torch.testing.assert_close(probabilities, torch.tensor([0.25, 0.75]))


def test_entropy_is_log_k_when_uniform_and_0_when_certain():
    rows = torch.tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(entropy(rows), torch.tensor([math.log(4), 0.0]))
