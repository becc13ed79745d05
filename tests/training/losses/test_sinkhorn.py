import math
import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from training.losses.sinkhorn import assignment, sinkhorn_teacher


def plain_sinkhorn(scores: np.ndarray, iterations: int) -> np.ndarray:
    """Alternate scaling of exp(scores) in float64: columns to equal sums, then rows to 1."""
    plan: np.ndarray = np.exp(scores.astype(np.float64) - scores.max())
    for _ in range(iterations):
        plan = plan / plan.sum(0, keepdims=True)
        plan = plan / plan.sum(1, keepdims=True)
    return plan


@pytest.mark.parametrize("iterations", [1, 3, 30])
def test_assignment_is_that_of_a_plain_float64_version(iterations):
    logits = torch.randn(2, 49, 3, generator=torch.Generator().manual_seed(0))
    ours = assignment(logits, epsilon=0.2, iterations=iterations)
    for clip in range(2):
        expected = plain_sinkhorn(logits[clip].numpy() / 0.2, iterations)
        np.testing.assert_allclose(ours[clip].numpy(), expected, atol=1e-5)


def test_marginals_are_reached_to_1e_5_in_float32():
    logits = torch.randn(2, 60, 3, generator=torch.Generator().manual_seed(0))
    plan = assignment(logits, epsilon=0.5, iterations=200)
    assert plan.dtype == torch.float32
    torch.testing.assert_close(plan.sum(2), torch.ones(2, 60), rtol=1e-5, atol=0)
    torch.testing.assert_close(plan.sum(1), torch.full((2, 3), 20.0), rtol=1e-5, atol=0)


def test_marginals_of_the_paper_are_those_of_a_joint_probability():
    logits = torch.randn(1, 60, 3, generator=torch.Generator().manual_seed(0))
    plan = assignment(logits, epsilon=0.5, iterations=200, marginals="paper")
    torch.testing.assert_close(plan.sum(2), torch.full((1, 60), 1 / 60), rtol=1e-5, atol=0)
    torch.testing.assert_close(plan.sum(1), torch.full((1, 3), 1 / 3), rtol=1e-5, atol=0)


@pytest.mark.medium
@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_assignment_converges_to_the_plan_of_python_optimal_transport(epsilon):
    logits = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    plan = assignment(logits[None], epsilon=epsilon, iterations=2000, marginals="paper")[0]
    cost = -logits.double().numpy()  # what is similar is near
    ot = pytest.importorskip("ot")
    expected = ot.bregman.sinkhorn_log(
        np.full(60, 1 / 60), np.full(3, 1 / 3), cost, epsilon, numItermax=20_000, stopThr=1e-12
    )
    np.testing.assert_allclose(plan.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(plan.sum(0), 1 / 3, rtol=1e-5)
    np.testing.assert_allclose(plan.sum(1), 1 / 60, rtol=1e-5)


def test_symmetric_two_by_two_is_worked_by_hand():
    # exp of [[a, 0], [0, a]] / eps has equal column sums: one pair of steps gives the logistic.
    plan = assignment(torch.tensor([[[0.1, 0.0], [0.0, 0.1]]]), epsilon=0.05, iterations=1)
    likely = 1 / (1 + math.exp(-2))
    torch.testing.assert_close(plan[0], torch.tensor([[likely, 1 - likely], [1 - likely, likely]]))


@pytest.mark.parametrize("epsilon", [1e-2, 1e-5, 1e-8])
def test_no_epsilon_overflows(epsilon):
    logits = 10 * torch.randn(2, 49, 3, generator=torch.Generator().manual_seed(0))
    plan = assignment(logits, epsilon=epsilon, iterations=30)
    assert torch.isfinite(plan).all()
    torch.testing.assert_close(plan.sum(2), torch.ones(2, 49))


def test_half_precision_logits_are_assigned_in_float32():
    plan = assignment(torch.randn(1, 9, 3).bfloat16(), epsilon=0.05, iterations=30)
    assert plan.dtype == torch.float32


def test_balanced_teacher_is_that_of_a_plain_float64_version():
    logits = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    ours = sinkhorn_teacher(logits, temp=0.5, iterations=3)
    np.testing.assert_allclose(ours.numpy(), plain_sinkhorn(logits.numpy() / 0.5, 3), atol=1e-5)


def test_balanced_teacher_gives_each_prototype_the_same_share():
    logits = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    probabilities = sinkhorn_teacher(logits, temp=0.5, iterations=200)
    torch.testing.assert_close(probabilities.sum(0), torch.full((8,), 5.0), rtol=1e-5, atol=0)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(40))


def test_a_prototype_that_nobody_is_near_does_not_break_the_balance():
    logits = torch.zeros(6, 3)
    logits[:, 2] = -1000.0
    probabilities = sinkhorn_teacher(logits, temp=0.04, iterations=3)
    torch.testing.assert_close(probabilities, torch.full((6, 3), 1 / 3))


class TwoRanks:
    """Two threads that exchange tensors at a barrier."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)
        self.held: dict[int, Tensor] = {}

    def exchange(self, rank: int, value: Tensor) -> Tensor:
        self.held[rank] = value
        self.barrier.wait()
        both = torch.stack([self.held[0], self.held[1]])
        self.barrier.wait()
        return both


def test_balanced_teacher_of_two_ranks_is_that_of_the_whole_batch():
    logits = 5 * torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    ranks, results = TwoRanks(), {}

    def run(rank: int) -> None:
        results[rank] = sinkhorn_teacher(
            logits[rank * 5 : rank * 5 + 5],
            temp=0.1,
            iterations=3,
            all_sum=lambda value: ranks.exchange(rank, value).sum(0),
            all_max=lambda value: ranks.exchange(rank, value).amax(0),
        )

    threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = sinkhorn_teacher(logits, temp=0.1, iterations=3)
    torch.testing.assert_close(torch.cat([results[0], results[1]]), whole)
