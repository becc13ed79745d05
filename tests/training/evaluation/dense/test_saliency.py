"""Masks and boxes against independent implementations: loops, scikit-image, torchvision."""

import numpy as np
import pytest
import torch
from skimage import measure

from training.evaluation.dense.object_discovery import box_of, by_attention, by_lost, to_pixels
from training.evaluation.metrics.segmentation import mask_iou

GRID = (9, 13)
N = GRID[0] * GRID[1]


def smooth(count, seed):
    """Neighboring patches alike, so that there are parts of several patches."""
    noise = torch.randn(1, count, *GRID, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(noise, 3, 1, 1)[0].reshape(count, N)


@pytest.mark.parametrize("seed", range(8))
def test_the_attention_mask_is_that_of_a_loop_and_its_part_scikit_images(seed):
    attention = (4 * smooth(6, seed)).softmax(dim=1)
    found = by_attention(attention, GRID)

    weights = attention.double().mean(0).tolist()
    expected, dropped = [True] * N, 0.0
    for patch in sorted(range(N), key=lambda p: (weights[p], p)):
        dropped += weights[patch] / sum(weights)
        if dropped > 1 - 0.8:
            break
        expected[patch] = False
    assert found.mask.ravel().tolist() == expected
    assert sum(w for w, kept in zip(weights, expected, strict=True) if kept) >= 0.8 * sum(weights)

    parts = measure.regionprops(measure.label(found.mask, connectivity=1))
    largest = max(parts, key=lambda part: part.area)
    top, left, bottom, right = largest.bbox
    box = box_of(found.component, patch_pixels=16, size=(9 * 16 - 3, 13 * 16 - 5))
    assert box.tolist() == [left * 16, top * 16, min(right * 16, 203), min(bottom * 16, 141)]


@pytest.mark.parametrize("seed", range(8))
def test_losts_expansion_is_that_of_loops(seed):
    keys = smooth(24, seed).T.contiguous()
    found = by_lost(keys, GRID, num_seeds=20)

    products = keys.double().numpy() @ keys.double().numpy().T
    degree = [sum(products[p, q] > 0 for q in range(N) if q != p) for p in range(N)]
    ranked = sorted(range(N), key=lambda p: (degree[p], p))
    voters = [p for p in ranked[:20] if products[ranked[0], p] > 0]
    expected = np.array([sum(products[v, p] for v in voters) > 0 for p in range(N)]).reshape(GRID)
    assert (found.mask == expected).all()
    labels = measure.label(expected, connectivity=1)
    assert (found.component == (labels == labels.ravel()[ranked[0]])).all()
    assert len(voters) > 1


def test_equally_large_parts_the_first_by_rows_is_boxed():
    attention = torch.full((1, N), 1e-6)
    attention[0, [0, 13, 100, 101]] = 1.0  # two below each other, two beside each other
    box = box_of(by_attention(attention, GRID).component, patch_pixels=1, size=GRID)
    assert box.tolist() == [0, 0, 1, 2]


def test_a_patch_of_the_mask_covers_its_pixels_within_the_image():
    pixels = to_pixels(np.array([[True, False], [False, True]]), patch_pixels=2, size=(3, 4))
    assert pixels.astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]


def test_jaccard_leaves_out_void_and_is_one_when_both_are_empty():
    mask = np.array([True, True, False, False])
    objects = np.array([True, False, True, False])
    void = np.array([False, True, False, False])
    assert mask_iou(mask, objects, void) == 1 / 2
    assert mask_iou(mask & False, objects & False, void) == 1
