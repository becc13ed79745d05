"""J, F and their statistics against the official evaluation's steps, done with OpenCV."""

import math

import cv2
import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import disk

from training.evaluation.metrics.davis import (
    boundary,
    boundary_accuracy,
    statistics,
)
from training.evaluation.metrics.segmentation import mask_iou


def blob(seed, shape=(120, 150)):
    noise = np.random.default_rng(seed).normal(size=shape)
    return ndimage.gaussian_filter(noise, 8) > 0


def rectangle(left, right, shape=(64, 128)):
    mask = np.zeros(shape, dtype=bool)
    mask[8:24, left:right] = True
    return mask


def opencvs_f(found, truth):
    """Boundary maps by slices, dilated with OpenCV and scikit-image's disk, as published."""

    def outline(mask):
        mask = mask.astype(np.uint8)
        right, below, across = (np.zeros_like(mask) for _ in range(3))
        right[:, :-1], below[:-1], across[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
        found = (mask ^ right) | (mask ^ below) | (mask ^ across)
        found[-1], found[:, -1] = mask[-1] ^ right[-1], mask[:, -1] ^ below[:, -1]
        found[-1, -1] = 0
        return found

    radius = math.ceil(0.008 * np.linalg.norm(found.shape))
    ours, theirs = outline(found), outline(truth)
    near_ours, near_theirs = (cv2.dilate(each, disk(radius)) for each in (ours, theirs))
    precision = (ours & near_theirs).sum() / ours.sum()
    recall = (theirs & near_ours).sum() / theirs.sum()
    return 2 * precision * recall / (precision + recall), ours


@pytest.mark.parametrize("seed", range(6))
def test_f_is_that_of_opencvs_dilation(seed):
    found, truth = blob(seed), ndimage.shift(blob(seed).astype(float), (1, 3), order=0) > 0.5
    expected, outline = opencvs_f(found, truth)
    assert (boundary(found) == outline.astype(bool)).all()
    assert boundary_accuracy(found, truth) == pytest.approx(expected)
    assert 0.3 < expected < 1


def test_a_shift_within_the_tolerance_costs_regions_and_no_boundary():
    # The diagonal is 143 pixels: 0.008 of it, rounded up, is 2.
    found, moved = rectangle(20, 36), rectangle(22, 38)
    assert mask_iou(found, moved) == 14 / 18
    assert boundary_accuracy(found, moved) == 1
    assert boundary_accuracy(found, rectangle(60, 76)) == 0
    assert mask_iou(found, rectangle(20, 28)) == 1 / 2


def test_masks_without_pixels():
    nothing, something = np.zeros((64, 128), dtype=bool), rectangle(20, 36)
    assert (mask_iou(nothing, nothing), boundary_accuracy(nothing, nothing)) == (1, 1)
    assert (mask_iou(nothing, something), boundary_accuracy(nothing, something)) == (0, 0)


def test_mean_recall_and_decay_of_eight_frames():
    values = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    found = statistics(values)
    assert found["mean"] == pytest.approx(0.55)
    assert found["recall"] == 4 / 8  # 0.5 itself is not above
    # The quarters begin at frames 1, 2.75, 4.5, 6.25 and end at 8; rounded 1, 3, 5, 6 (4.5 goes
    # up by the 1e-10), 8, ends included: 0.9 0.8 0.7 against 0.4 0.3 0.2.
    assert found["decay"] == pytest.approx(0.8 - 0.3)
    assert statistics(np.array([0.4]))["decay"] == 0
