import functools

import numpy as np
import pytest
import torch

from training.methods.masking import (
    HIDDEN_SHARE,
    attention_masks,
    block_masks,
    draw_blocks,
    draw_ibot_blocks,
    ibot_masks,
)
from training.rng import numpy_generator


def test_hidden_shares_are_those_of_ibot():
    draws = [draw_blocks(numpy_generator(0, "test", i), (14, 14)) for i in range(300)]
    shares = np.array([hidden.mean() for hidden in draws])
    assert shares.max() <= HIDDEN_SHARE[1]
    assert shares.min() > HIDDEN_SHARE[0] - 0.02
    assert abs(shares.mean() - 0.3) < 0.03


def test_what_is_hidden_is_blocks_and_not_single_patches():
    together = []
    for i in range(100):
        hidden = draw_blocks(numpy_generator(0, "test", i), (14, 14))
        neighbors = hidden[:, 1:] & hidden[:, :-1]
        together.append(neighbors.sum() / hidden.sum())
    assert np.mean(together) > 0.6  # patches drawn one by one: 0.3


def test_a_clips_masks_follow_from_its_position_alone():
    both = block_masks(7, torch.tensor([3, 4]), shape=(2, 3, 2), grid=(4, 4))
    alone = block_masks(7, torch.tensor([4]), shape=(2, 3, 2), grid=(4, 4))
    assert both.shape == (2, 2, 3, 2, 16)
    assert torch.equal(both[:, 1:], alone)
    assert not torch.equal(both[:, 0], both[:, 1])
    assert set(both.unique().tolist()) == {0.0, 1.0}


def test_ibots_masks_follow_from_a_clips_position_alone_and_every_frame_has_its_own():
    draw = functools.partial(ibot_masks, 7, shape=(2, 3), grid=(6, 6), ratios=(0.1, 0.5))
    both = draw(torch.tensor([3, 4]), masked_probability=0.9)
    assert both.shape == (2, 2, 3, 36)
    assert torch.equal(both[:, 1:], draw(torch.tensor([4]), masked_probability=0.9))
    assert len({tuple(mask) for mask in both.flatten(0, 2).tolist()}) > 6
    assert not draw(torch.tensor([3]), masked_probability=0.0).any()


def test_ibots_masks_never_have_more_than_was_asked_for():
    for number in range(200):
        masked = draw_ibot_blocks(numpy_generator(0, "test", number), (5, 7), ratio=0.33)
        assert masked.sum() <= 0.33 * 35


def test_a_grid_too_small_for_blocks_stays_without_a_mask():
    assert not draw_ibot_blocks(numpy_generator(0, "test", 0), (1, 1), ratio=0.9).any()


def test_attention_masks_are_worked_by_hand():
    attention = torch.tensor([[0.4, 0.1, 0.2, 0.05, 0.25], [0.0, 0.1, 0.2, 0.3, 0.4]])
    high = attention_masks(attention, ratio=0.5)  # two of five
    assert high.int().tolist() == [[1, 0, 0, 0, 1], [0, 0, 0, 1, 1]]
    low = attention_masks(attention, ratio=0.5, kind="low")
    assert low.int().tolist() == [[0, 1, 0, 1, 0], [1, 1, 0, 0, 0]]


def test_a_hint_shows_some_of_what_gets_most_attention():
    attention = torch.arange(30.0)[None]  # the three candidates are 29, 28 and 27
    order = torch.tensor([[0.5, 0.9, 0.1]])
    hint = attention_masks(attention, ratio=0.2, kind="hint", shown=0.07, order=order)
    assert hint[0].nonzero().flatten().tolist() == [24, 25, 26, 28]
    with pytest.raises(ValueError, match="needs the order"):
        attention_masks(attention, ratio=0.2, kind="hint", shown=0.07)
