"""Checkpoints of a run: whole or absent, checked before they are used, without pickle.

`checkpoint_files` says what lies where; docs/reference/checkpoints.md lists every field.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.config.train import TrainConfig, parse_config
from training.data.source import DataIdentity
from training.distributed.collectives import own_rank
from training.distributed.sharding import whole
from training.engine.checkpoint_files import (
    FORMAT,
    MODEL,
    OPTIMIZER,
    RECEIPT,
    STATE,
    checkpoint_dir,
    remove_old_checkpoints,
    run_dir_of,
)
from training.engine.optim import moment_device, moments_of
from training.engine.state import TrainState
from training.methods.base import Network
from training.methods.registry import method_class
from training.models.loading import build_with, read_safetensors
from wtours.errors import CheckpointError, UsageError
from wtours.storage.atomic import atomic_path, read_json, remove
from wtours.storage.hashing import canonical_json, sha256_file, unchanged
from wtours.storage.receipts import record_file
from wtours.storage.tensor_files import safetensors_bytes
from wtours.text import plain

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """What the checkpoint of a step will hold, apart from the state that trains on."""

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    facts: dict[str, Any]
    """The content of state.json."""


def take_snapshot(state: TrainState, *, config: TrainConfig, data: DataIdentity) -> Snapshot:
    """Return a copy of the state in the memory of the CPU.

    Where it is divided over the ranks, all of them call it, and rank 0 gets the copy.
    """
    return Snapshot(
        step=state.step,
        model=_for_disk(state.method.state_dict()),
        optimizer=_for_disk(moments_of(state.optimizer, state.method.student)),
        facts={
            "format": FORMAT,
            "step": state.step,
            "next_position": state.position,
            "config": config.model_dump(mode="json"),
            "data": data.recorded(),
            "versions": {"torch": torch.__version__},
            **({"scaler": scaler} if (scaler := state.scaler.state_dict()) else {}),
        },
    )


def publish_snapshot(snapshot: Snapshot, target: Path) -> None:
    """Write a checkpoint as the folder `target`, whole or not at all."""
    remove(target)  # only a damaged one can be there: a whole one would have been resumed from
    with atomic_path(target) as temp:
        temp.mkdir()
        # Not by save_file, which hides why a disk refuses.
        (temp / MODEL).write_bytes(safetensors_bytes(snapshot.model))
        (temp / OPTIMIZER).write_bytes(safetensors_bytes(snapshot.optimizer))
        (temp / STATE).write_bytes(canonical_json(snapshot.facts))
        files = [
            record_file(temp / name, relative_to=temp).model_dump()
            for name in (MODEL, OPTIMIZER, STATE)
        ]
        (temp / RECEIPT).write_bytes(canonical_json({"format": FORMAT, "files": files}))


def save_checkpoint(
    run_dir: Path, state: TrainState, *, config: TrainConfig, data: DataIdentity, keep_last: int
) -> Path:
    """Publish the checkpoint of `state.step`, then remove all but the `keep_last` newest ones."""
    target = checkpoint_dir(run_dir, state.step)
    publish_snapshot(take_snapshot(state, config=config, data=data), target)
    remove_old_checkpoints(run_dir, keep_last=keep_last)
    return target


def read_state(checkpoint: Path) -> tuple[int, TrainConfig, DataIdentity]:
    """Return step, config and data of a whole checkpoint.

    Raises:
        CheckpointError: its config has fields that this version does not know, or it is damaged.
    """
    try:
        state: dict[str, Any] = read_json(checkpoint / STATE)
        config = parse_config(state["config"])
        step, data = state["step"], DataIdentity(**state["data"])
    except UsageError as error:
        raise CheckpointError(f"{checkpoint} is of another version of wtours ({error})") from error
    except (KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{checkpoint / STATE} is damaged ({type(error).__name__}: {error}); use another "
            f"checkpoint of the run"
        ) from error
    if type(step) is not int:
        raise CheckpointError(f"{checkpoint / STATE} is damaged (step {step!r})")
    if not isinstance(data.set_sha256, str | None):
        raise CheckpointError(f"{checkpoint / STATE} is damaged (data.set_sha256)")
    return step, config, data


def load_state(checkpoint: Path, state: TrainState) -> None:
    """Set `state` to what a whole checkpoint holds, of the same config or one with as large parts.

    Raises:
        CheckpointError: weights of another size than the state's, or it is damaged.
    """
    device, refusal = str(state.device), f"{checkpoint} does not hold a state of its config"
    step, config, _ = read_state(checkpoint)
    weights = read_safetensors(checkpoint / MODEL, device)
    _require_sizes(checkpoint, weights, state)
    _load_moments(checkpoint, state, config.optim.name)
    try:
        state.method.load_state_dict(weights)
        facts = read_json(checkpoint / STATE)
        state.position = int(facts["next_position"])
        if scaler := facts.get("scaler"):
            state.scaler.load_state_dict(scaler)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = plain(error)[:300]  # torch's has a line for each kind of key
        raise CheckpointError(f"{refusal} ({reason})") from error
    state.step = step


def _require_sizes(checkpoint: Path, weights: dict[str, Tensor], state: TrainState) -> None:
    for name, value in state.method.state_dict().items():
        if name in weights and weights[name].shape != value.shape:
            sizes = " and ".join(str(tuple(v.shape)) for v in (weights[name], value))
            run = run_dir_of(checkpoint)
            raise CheckpointError(
                f"{checkpoint} has another {name} than the config asks for ({sizes}): use the "
                f"run's own sizes, or begin another run with --set model.init={run}"
            )


def _load_moments(checkpoint: Path, state: TrainState, name: str) -> None:
    """Set the optimizer's moments to those of an optimizer of the name; another's are of no use."""
    if name != (wanted := state.method.config.optim.name):
        LOG.warning("the moments of %s are of no use to %s, which begins without", name, wanted)
        return
    parameters = dict(state.method.student.named_parameters())
    for key, value in read_safetensors(checkpoint / OPTIMIZER, str(state.device)).items():
        of, _, moment = key.rpartition(".")
        parameter = parameters.get(of)
        if parameter is None or (value.numel() != 1 and value.shape != parameter.shape):
            raise CheckpointError(
                f"{checkpoint} does not hold a state of its config ({OPTIMIZER}: {key[:100]!r})"
            )
        device = moment_device(state.optimizer, parameter, moment)
        state.optimizer.state[parameter][moment] = value.to(device)


def load_network(checkpoint: Path, which: str | None = None) -> tuple[TrainConfig, Network]:
    """Return the config and a trained network, on the CPU, in evaluation mode, without gradients.

    Args:
        which: "student" or "teacher"; None: the one that the method has evaluated.

    Raises:
        CheckpointError: damaged files, or a config of another network than the weights.
    """
    _, config, _ = read_state(checkpoint)
    method = method_class(config)
    prefix = f"{which or method.evaluated}."
    tensors = read_safetensors(checkpoint / MODEL)
    weights = {
        name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)
    }
    refusal = f"{checkpoint} does not hold the network its {STATE} tells of"
    if (config.model.depth or 0) > len(weights):
        raise CheckpointError(f"{refusal} ({config.model.depth} blocks)")
    network = build_with(lambda: method.build_network(config), weights, refusal)
    return config, network.requires_grad_(False).eval()


@dataclass(frozen=True)
class Trained:
    """A trained network, and what is recorded of it beside numbers and pictures."""

    config: TrainConfig
    network: Network
    step: int
    data: DataIdentity
    sha256: str
    """Of its model.safetensors."""


def load_trained(checkpoint: Path) -> Trained:
    """Return the network that the method has evaluated, as `load_network`, and its facts.

    Raises:
        CheckpointError: as `load_network`.
        StorageError: the checkpoint was replaced meanwhile, as where a run is trained again.
    """
    with unchanged(checkpoint / MODEL):
        config, network = load_network(checkpoint)
        step, _, data = read_state(checkpoint)
        return Trained(config, network, step, data, sha256_file(checkpoint / MODEL))


def _for_disk(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies: the tensors themselves may change while these are written."""
    copies = {}
    for name, tensor in tensors.items():
        found = whole(tensor.detach())
        if own_rank() == 0:
            copies[name] = found.to("cpu", copy=True).contiguous()
    return copies
