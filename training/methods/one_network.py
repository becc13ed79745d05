"""What SimCLR, SwAV and VICReg share: one network, no teacher, and a loss that couples a batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.losses.collapse_metrics import effective_rank, embedding_spread
from training.methods.base import Method, Network, Targets, Views
from training.models.vit import encode
from training.schedules import Progress


@dataclass(frozen=True)
class OneNetworkTargets(Targets):
    """What a step knows before its forward pass."""

    measures_rank: bool
    """Whether its metrics have the embeddings' `effective_rank`."""


class OneNetwork(Method[OneNetworkTargets]):
    """A method whose trained network is the one that is evaluated.

    Each image's loss depends on all images of the step, so micro-batches would compute another one.
    """

    additive = False

    def prepare(self, views: Views, now: Progress) -> OneNetworkTargets:
        """Return what is measured: the targets come from the other views, in `forward`."""
        return OneNetworkTargets(self.measures_rank(now))


def encode_views(network: Network, views: Views) -> Tensor:
    """Return CLS tokens (V, B * T, D): of the global views first, then of the local crops."""
    kinds = [kind for kind in (views.global_clips, views.local_crops) if len(kind)]
    width = network.backbone.embed_dim
    tokens = [
        encode(network.backbone, kind.flatten(0, -4)).reshape(len(kind), -1, width)
        for kind in kinds
    ]
    return torch.cat(tokens)


def embedding_metrics(tokens: Tensor, targets: OneNetworkTargets) -> dict[str, Tensor]:
    """Return how far apart the first global view's tokens lie, of CLS tokens (V, M, D)."""
    first = tokens[0].detach()
    metrics = {"embedding_spread": embedding_spread(first)}
    return metrics | ({"effective_rank": effective_rank(first)} if targets.measures_rank else {})
