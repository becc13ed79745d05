"""SwAV's swapped prediction of balanced codes, and its queue (Caron et al. 2020, section 3)."""

import torch
from torch import Tensor

from training.distributed.collectives import all_gather, num_ranks, own_rank
from training.losses.sinkhorn import sinkhorn_teacher
from training.transfer import send


@torch.no_grad()
def balanced_codes(
    logits: Tensor, queued: Tensor | None = None, *, epsilon: float, iterations: int
) -> Tensor:
    """Return the codes of a view, (M, K) float32: rows sum to 1, prototypes get equal shares.

    The shares are equal over the rows of all ranks and of the queue, whose codes are not used.

    Args:
        logits: (M, K) cosines of this rank's images and the prototypes.
        queued: (Q, K) the same of this rank's part of the queue; None: there is no full queue.
        epsilon: Strength of the entropy term, > 0; the smaller, the harder the codes.
        iterations: Of Sinkhorn-Knopp, >= 1.
    """
    rows = logits if queued is None else torch.cat([queued, logits])
    codes = sinkhorn_teacher(rows, temp=epsilon, iterations=iterations)
    return codes[-len(logits) :]


def swapped_prediction(logits: Tensor, codes: Tensor, *, temperature: float) -> Tensor:
    """Return the loss, a scalar: each view predicts the codes of the other views, nats.

    Args:
        logits: (V, M, K) cosines of all views and the prototypes, global views first.
        codes: (G, M, K) of the global views; without gradients.
        temperature: Softmax temperature of the predictions, > 0.
    """
    log_predictions = (logits.float() / temperature).log_softmax(dim=-1)
    # Entropies of all pairs of a code and a prediction: (G, V).
    entropies = -torch.einsum("gmk,vmk->gv", codes, log_predictions) / codes.shape[1]
    (others,) = send(
        [(~torch.eye(*entropies.shape, dtype=torch.bool)).flatten().nonzero()[:, 0]],
        entropies.device,
    )
    return entropies.flatten()[others].mean()


def enqueue(queue: Tensor, features: Tensor) -> Tensor:
    """Return the queue with the images of all ranks in front and as many of the oldest dropped.

    Args:
        queue: (G, Q, c), newest first, the same on every rank; zeros where nothing was yet.
        features: (G, M, c) of this rank's images, of unit length.
    """
    newest = all_gather(features.detach().float().transpose(0, 1)).transpose(0, 1)
    return torch.cat([newest, queue], dim=1)[:, : queue.shape[1]]


def is_full(queue: Tensor) -> bool:
    """Return whether no row is a zero of the beginning, whose code would mean nothing.

    Waits for the device.
    """
    return bool(queue[:, -1].any())


def part_of_rank(queue: Tensor) -> Tensor:
    """Return the rows (G, q, c) that this rank balances; each row is one rank's."""
    return queue[:, own_rank() :: num_ranks()]
