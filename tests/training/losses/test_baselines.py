"""SimCLR's, SwAV's, VICReg's and iBOT's losses: against loops, over two ranks, at the limits."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.support import plain_losses
from tests.support.two_ranks import on_two_ranks
from training.losses.cross_entropy import cross_entropies
from training.losses.ibot import patch_loss
from training.losses.simclr import nt_xent
from training.losses.swav import (
    balanced_codes,
    enqueue,
    is_full,
    part_of_rank,
    swapped_prediction,
)
from training.losses.vicreg import vicreg_terms

SEEDS = st.integers(0, 2**32 - 1)
few_examples = settings(max_examples=25)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(views: int, clips: int, frames: int) -> tuple[Tensor, Tensor]:
    images = torch.arange(clips * frames).repeat(views)
    return images, images // frames


@few_examples
@given(SEEDS, st.integers(2, 4), st.integers(2, 3), st.integers(1, 3), st.floats(0.05, 1))
@pytest.mark.parametrize("siblings", ["exclude", "negative", "positive"])
def test_nt_xent_is_the_loops(siblings, seed, views, clips, frames, temperature):
    images, of_clip = labels(views, clips, frames)
    z = normal(seed, len(images), 6)
    loss = nt_xent(z, images, of_clip, temperature=temperature, siblings=siblings)
    expected = plain_losses.nt_xent(
        z.double().numpy(),
        images.tolist(),
        of_clip.tolist(),
        temperature=temperature,
        siblings=siblings,
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_frames_of_one_clip_alone_are_no_negatives_of_each_other():
    images, clips = labels(2, 1, 3)
    z = normal(0, len(images), 4)
    assert nt_xent(z, images, clips, temperature=0.2).item() == pytest.approx(0, abs=1e-6)
    assert nt_xent(z, images, clips, temperature=0.2, siblings="negative").item() > 0.1


def test_nt_xent_at_a_small_temperature_is_finite():
    images, clips = labels(2, 3, 1)
    z = normal(0, 6, 4).requires_grad_()
    loss = nt_xent(z, images, clips, temperature=1e-3)
    loss.backward()
    assert loss.isfinite()
    assert z.grad is not None
    assert z.grad.isfinite().all()


@few_examples
@given(SEEDS, st.integers(1, 12), st.integers(2, 8), st.sampled_from([0.03, 0.05, 0.5]))
@pytest.mark.parametrize("iterations", [1, 3])
def test_codes_are_those_of_the_loops(iterations, seed, rows, prototypes, epsilon):
    logits = normal(seed, rows + 4, prototypes).tanh()
    codes = balanced_codes(logits[4:], logits[:4], epsilon=epsilon, iterations=iterations)
    expected = plain_losses.balanced(
        logits.double().numpy(), epsilon=epsilon, iterations=iterations
    )[4:]
    np.testing.assert_allclose(codes.numpy(), expected, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(codes.sum(1), torch.ones(rows))


@few_examples
@given(SEEDS, st.integers(2, 5), st.integers(1, 5), st.integers(1, 2))
def test_swapped_prediction_is_the_loops(seed, views, rows, global_views):
    logits = normal(seed, views, rows, 7)
    codes = normal(seed + 1, global_views, rows, 7).softmax(-1)
    loss = swapped_prediction(logits, codes, temperature=0.1)
    expected = plain_losses.swapped(
        logits.double().numpy(), codes.double().numpy(), temperature=0.1
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_swapped_prediction_of_a_collapse_is_log_k():
    codes = balanced_codes(torch.ones(6, 5), epsilon=0.05, iterations=3)
    loss = swapped_prediction(torch.ones(3, 6, 5), codes.expand(2, 6, 5), temperature=0.1)
    assert loss.item() == pytest.approx(math.log(5))


def test_a_queue_is_first_in_first_out_and_full_once_its_last_row_is():
    queue, batches = torch.zeros(2, 4, 3), [normal(i, 2, 2, 3) for i in range(3)]
    queue = enqueue(queue, batches[0])
    assert not is_full(queue)
    queue = enqueue(queue, batches[1])
    assert is_full(queue)
    queue = enqueue(queue, batches[2])
    torch.testing.assert_close(queue, torch.cat([batches[2], batches[1]], dim=1))


@few_examples
@given(SEEDS, st.integers(2, 9), st.integers(2, 5), st.floats(0.1, 2))
def test_vicreg_is_the_loops(seed, rows, width, scale):
    x, y = scale * normal(seed, rows, width), scale * normal(seed + 1, rows, width)
    terms = vicreg_terms(x, y)
    expected = plain_losses.vicreg(x.double().numpy(), y.double().numpy())
    ours = (terms.invariance.item(), terms.variance.item(), terms.covariance.item())
    assert ours == pytest.approx(expected, rel=1e-4, abs=1e-6)


@few_examples
@given(SEEDS, st.integers(1, 4), st.floats(0, 1))
def test_the_patch_loss_is_the_loops(seed, num_images, masked):
    student, targets = (
        normal(seed, num_images, 6, 5),
        normal(seed + 1, num_images, 6, 5).softmax(-1),
    )
    masks = torch.rand(num_images, 6, generator=torch.Generator().manual_seed(seed)) < masked
    (rows,) = cross_entropies(
        [student[masks][None]], torch.eye(5), torch.ones(5, 1), [targets[masks]], student_temp=0.1
    )
    expected = plain_losses.ibot_patch(
        student.double().numpy(), targets.double().numpy(), masks.numpy(), temp=0.1
    )
    assert patch_loss(rows[0], masks, masks.flatten().nonzero()[:, 0]).item() == pytest.approx(
        expected, rel=1e-5
    )


def test_an_image_without_a_mask_stays_in_the_mean():
    masks = torch.tensor([[True, True, False], [False, False, False]])
    assert patch_loss(torch.tensor([1.0, 3.0]), masks, torch.tensor([0, 1])).item() == 1.0


# Two ranks against one: each rank has its half of the images, in every view.

IMAGES, VIEWS, WIDTH = 6, 3, 5


def simclr_of(z: Tensor, images: Tensor) -> Tensor:
    return nt_xent(
        z.flatten(0, 1), images.repeat(VIEWS), images.repeat(VIEWS) // 2, temperature=0.2
    )


def vicreg_of(z: Tensor, images: Tensor) -> Tensor:
    terms = vicreg_terms(z[0], z[1])
    return 25 * terms.invariance + 25 * terms.variance + terms.covariance


def swav_of(z: Tensor, images: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(z, dim=-1)
    prototypes = torch.nn.functional.normalize(normal(5, 4, WIDTH), dim=-1)
    old = torch.nn.functional.normalize(normal(6, 2, 7, WIDTH), dim=-1)
    queue = part_of_rank(enqueue(old, unit[:2]))
    codes = [
        balanced_codes(view @ prototypes.T, queued @ prototypes.T, epsilon=0.05, iterations=3)
        for view, queued in zip(unit[:2], queue, strict=True)
    ]
    return swapped_prediction(unit @ prototypes.T, torch.stack(codes), temperature=0.1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "simclr": simclr_of,
    "vicreg": vicreg_of,
    "swav": swav_of,
}


def losses_and_gradients(z: Tensor, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    results = {}
    for name, loss_of in LOSSES.items():
        leaf = z.clone().requires_grad_()
        loss = loss_of(leaf, images)
        loss.backward()
        assert leaf.grad is not None
        results[name] = (loss.detach(), leaf.grad)
    return results


def on_a_rank(rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    half = slice(rank * IMAGES // 2, (rank + 1) * IMAGES // 2)
    z, images = normal(0, VIEWS, IMAGES, WIDTH), torch.arange(IMAGES)
    return losses_and_gradients(z[:, half], images[half])


@pytest.mark.medium
def test_two_ranks_compute_what_one_does(tmp_path):
    ranks = on_two_ranks(on_a_rank, tmp_path)
    expected = losses_and_gradients(normal(0, VIEWS, IMAGES, WIDTH), torch.arange(IMAGES))
    for name, (loss, gradient) in expected.items():
        torch.testing.assert_close((ranks[0][name][0] + ranks[1][name][0]) / 2, loss)
        # DDP averages: each rank's gradient counts half.
        found = torch.cat([ranks[0][name][1], ranks[1][name][1]], dim=1) / 2
        torch.testing.assert_close(found, gradient)
