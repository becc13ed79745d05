"""The modes of a network, in which stochastic depth and batch norm differ."""

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Hold a network in evaluation mode, and put it back into its own, whatever happens."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
