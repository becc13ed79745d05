"""Linear classifiers on frozen features, one for each learning rate, on the same batches."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from training.distributed.collectives import all_sum
from training.evaluation.knn import top_hits

INITIAL_STD = 0.01
MOMENTUM = 0.9


class LinearHeads:
    """DINO's linear classifier once for each learning rate, and their optimizers.

    Weights start as N(0, 0.01), the same for every head, biases at 0. SGD with momentum 0.9 and no
    weight decay; the learning rate falls as a cosine from its start to 0, once an epoch.

    Attributes:
        learning_rates: Of each head at epoch 0, as the optimizer takes them.
        heads: In the same order.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        learning_rates: Sequence[float],
        *,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        weight = torch.empty(num_classes, num_features).normal_(0, INITIAL_STD, generator=generator)
        self.learning_rates = tuple(learning_rates)
        linears = [nn.Linear(num_features, num_classes, device=device) for _ in learning_rates]
        with torch.no_grad():
            for linear in linears:
                linear.weight.copy_(weight)
                linear.bias.zero_()
        self.heads = nn.ModuleList(linears)
        self._optimizer = torch.optim.SGD(
            [
                {"params": list(head.parameters()), "lr": rate}
                for head, rate in zip(self.heads, learning_rates, strict=True)
            ],
            momentum=MOMENTUM,
            weight_decay=0.0,
        )

    def set_epoch(self, epoch: int, num_epochs: int) -> None:
        """Set the learning rates of an epoch, counted from 0."""
        fraction = (1 + math.cos(math.pi * epoch / num_epochs)) / 2
        for group, rate in zip(self._optimizer.param_groups, self.learning_rates, strict=True):
            group["lr"] = rate * fraction

    def step(self, features: Tensor, labels: Tensor, *, batch_size: int) -> Tensor:
        """Take one step on a batch; return each head's mean cross-entropy over it, (heads,).

        Args:
            features: (B, F) of this rank's part of the batch; B may be 0.
            labels: (B,) int64.
            batch_size: Images of the whole batch, over all ranks.
        """
        losses = [F.cross_entropy(head(features), labels, reduction="sum") for head in self.heads]
        whole = torch.stack(losses) / batch_size
        self._optimizer.zero_grad()
        torch.autograd.backward(whole.sum())
        gradients = [p.grad for p in self.heads.parameters() if p.grad is not None]
        vector_to_parameters(all_sum(parameters_to_vector(gradients)), gradients)
        self._optimizer.step()
        return all_sum(whole.detach())

    @torch.inference_mode()
    def hits(self, features: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Count right answers, over all ranks; ties go to the class that comes first.

        Args:
            features: (M, F) of this rank's images.
            labels: (M,) int64.

        Returns:
            (heads, 2) int64, the labels that each head ranks first, and among the first five; and
            the number of images.
        """
        counts = torch.zeros(len(self.heads), 2, dtype=torch.int64, device=features.device)
        for row, head in enumerate(self.heads):
            counts[row] = top_hits(head(features), labels)
        total = all_sum(torch.tensor(len(labels), device=features.device))
        return all_sum(counts).cpu(), int(total)

    def state(self) -> dict[str, Tensor]:
        """Return the weights and the momenta by name, for `load_state`."""
        tensors = {name: value.detach() for name, value in self.heads.named_parameters()}
        for name, parameter in self.heads.named_parameters():
            moment = self._optimizer.state.get(parameter, {}).get("momentum_buffer")
            if moment is not None:
                tensors[f"momentum.{name}"] = moment
        return {name: value.cpu().contiguous() for name, value in tensors.items()}

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        for name, parameter in self.heads.named_parameters():
            parameter.copy_(tensors[name])
            moment = tensors.get(f"momentum.{name}")
            if moment is not None:
                state = self._optimizer.state[parameter]
                state["momentum_buffer"] = moment.to(parameter.device)
