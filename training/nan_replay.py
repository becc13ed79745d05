"""A step whose loss was not finite, computed once more: `wtours replay`."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from training.data.loader import batches
from training.distributed.world import World
from training.engine.checkpoint import load_state, read_state
from training.engine.checkpoint_files import RECEIPT, find_damage
from training.engine.precision import numerics
from training.engine.setup import build_state, open_views, replicate, run_length
from training.engine.state import TrainState
from training.engine.step import compute_gradients
from wtours.errors import CheckpointError
from wtours.storage.atomic import read_json


@dataclass(frozen=True)
class Replay:
    """What came of a step."""

    step: int
    metrics: dict[str, float]
    before: dict[str, Any]
    """Loss and gradient norm in the file."""
    first: str | None
    """The first module whose output, else the first parameter whose gradient, is not finite."""

    def describe(self) -> str:
        """Return lines for a person."""
        loss, norm = self.metrics["loss"], self.metrics["gradient_norm"]
        return (
            f"step {self.step} again: loss {loss:g} (it was {self.before['loss']}), gradient norm "
            f"{norm:g} (it was {self.before['gradient_norm']})\n"
            f"first that is not finite: {self.first or 'nothing'}"
        )


def replay(listing: Path, shards_dir: Path | str, world: World) -> Replay:
    """Compute the step of a `nonfinite-step-N.json` again; nothing is written.

    The state that the step began with is in the folder beside the file; its clips, crops and heads
    follow from the seed and the step.

    Raises:
        CheckpointError: a damaged file, no state beside it, or another shard set.
    """
    try:
        metrics = read_json(listing)["metrics"]
        before = {name: metrics[name] for name in ("loss", "gradient_norm")}
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{listing} is damaged: it has no metrics of a step") from error
    checkpoint = listing.with_suffix("")
    problem = find_damage(checkpoint)
    if problem is not None:
        raise CheckpointError(f"the state beside {listing} cannot be used ({RECEIPT}: {problem})")
    _, config, data = read_state(checkpoint)
    views = open_views(shards_dir, config)
    if not views.source.identity.is_of(data):
        raise CheckpointError(f"{shards_dir} is not the shard set that {listing} is of")
    state = build_state(config, world)
    load_state(checkpoint, state)
    now = run_length(config, views).at(state.step)
    found = _watch_outputs(state)
    with numerics(config.optim, world.device):
        (batch,) = batches(views, world, config, position=state.position, steps=1)
        replica = replicate(state, world)
        gradients = compute_gradients(state, replica, batch, now, config=config, world=world)
    first = found or [
        f"the gradient of {name}"
        for name, parameter in state.method.student.named_parameters()
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]
    return Replay(state.step + 1, gradients.read().metrics, before, first[0] if first else None)


def _watch_outputs(state: TrainState) -> list[str]:
    """Return a list to which modules are added whose output is not finite, in their order."""
    found: list[str] = []

    def look(name: str, _: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not output.isfinite().all():
            found.append(f"the output of {name}")

    for name, module in state.method.named_modules():
        if not list(module.children()):
            module.register_forward_hook(functools.partial(look, name))
    return found
