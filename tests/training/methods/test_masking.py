import numpy as np
import torch

from training.methods.masking import HIDDEN_SHARE, block_masks, draw_blocks
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
