"""What SimCLR, SwAV and VICReg share: one network, no teacher, and a loss that couples a batch."""

import torch
from torch import Tensor

from training.losses.collapse_metrics import embedding_metrics
from training.methods.base import Method, Network, Targets, Views
from training.models.vit import encode
from training.schedules import Progress


class OneNetwork(Method[Targets]):
    """A method whose trained network is the one that is evaluated.

    Each image's loss depends on all images of the step, so micro-batches would compute another one.
    """

    additive = False

    def prepare(self, views: Views, now: Progress) -> Targets:
        """Return what is measured: the targets come from the other views, in `forward`."""
        return Targets(measures_rank=self.measures_rank(now))


def encode_views(network: Network, views: Views) -> Tensor:
    """Return CLS tokens (V, B * T, D): of the global views first, then of the local crops."""
    kinds = [kind for kind in (views.global_clips, views.local_crops) if len(kind)]
    width = network.backbone.embed_dim
    tokens = [
        encode(network.backbone, kind.flatten(0, -4)).reshape(len(kind), -1, width)
        for kind in kinds
    ]
    return torch.cat(tokens)


def token_metrics(tokens: Tensor, targets: Targets) -> dict[str, Tensor]:
    """Return how far apart the first global view's tokens lie, of CLS tokens (V, M, D)."""
    return embedding_metrics(tokens[0].detach(), with_rank=targets.measures_rank)
