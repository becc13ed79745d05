"""What may look at a run while it trains; `training.monitors` has the implementations."""

from collections.abc import Mapping
from typing import Protocol

from PIL import Image

from training.engine.state import TrainState

Measured = Mapping[str, float | Image.Image]


class Monitor(Protocol):
    """Looks at a run after each of its steps; it changes nothing that is computed.

    One that rank 0 has alone lets the others wait at their next exchange; one that computes much is
    on all ranks, which share the work.
    """

    def after_step(self, state: TrainState, metrics: dict[str, float]) -> Measured:
        """Return what was measured after `state.step` steps, by name; {} for nothing.

        Numbers go into the step's line of metrics, images to TensorBoard.

        Args:
            state: After the step.
            metrics: Means over ranks of what the step computed.
        """
        ...
