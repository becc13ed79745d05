"""The mutable state of a training run: everything that a checkpoint saves."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler

from training.methods.base import Method


@dataclass
class TrainState:
    """What training changes; the checkpoint of a run is this and the config."""

    method: Method[Any]
    optimizer: torch.optim.Optimizer
    """Of the method's student."""
    step: int
    """Steps done."""
    position: int = 0
    """Of the next step's first clip in the endless stream: the clips seen so far."""
    scaler: GradScaler = field(default_factory=lambda: GradScaler(enabled=False))
    """Of the gradients, with float16."""

    @property
    def device(self) -> torch.device:
        """Return where the networks are."""
        return next(self.method.parameters()).device
