"""The mutable state of a training run: everything that a checkpoint saves."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from training.methods.student_teacher import Network


@dataclass
class TrainState:
    """What training changes; the checkpoint of a run is this and the config."""

    student: Network
    teacher: Network
    optimizer: torch.optim.Optimizer
    center: Tensor
    """(K,) float32: the moving mean of the teacher's logits."""
    step: int
    """Steps done."""
    scaler: GradScaler = field(default_factory=lambda: GradScaler(enabled=False))
    """Of the gradients, with float16."""
