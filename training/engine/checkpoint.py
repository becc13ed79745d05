"""Checkpoints of a run: whole or absent, checked before they are used, without pickle.

<run>/checkpoints/step-00000100/
    model.safetensors       the method's state_dict: student.*, and e.g. teacher.*, center
    optimizer.safetensors   <parameter of the student>.exp_avg, .exp_avg_sq, .step; of LARS
                            .momentum_buffer
    state.json              step, config, and which data it was trained on
    receipt.json            bytes and sha256 of the three; written last

docs/reference/checkpoints.md lists every field.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.config.train import TrainConfig, parse_config
from training.data.source import DataIdentity
from training.distributed.collectives import own_rank
from training.distributed.sharding import whole
from training.engine.state import TrainState
from training.methods.base import Network
from training.methods.registry import method_class
from training.models.loading import read_safetensors, require_weights
from wtours.errors import CheckpointError, UsageError, WtoursError
from wtours.storage.atomic import TEMP_PREFIX, atomic_path, read_json, remove
from wtours.storage.hashing import canonical_json, sha256_file
from wtours.storage.os_errors import explain_os_errors
from wtours.storage.receipts import FileRecord, record_file
from wtours.storage.tensor_files import safetensors_bytes
from wtours.text import plain

LOG = logging.getLogger(__name__)
FORMAT = 1
MODEL, OPTIMIZER, STATE, RECEIPT = (
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "receipt.json",
)


def checkpoint_dir(run_dir: Path, step: int) -> Path:
    """Return where the checkpoint after `step` steps is."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


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
        optimizer=_moments(state),
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
        for name, tensors in ((MODEL, snapshot.model), (OPTIMIZER, snapshot.optimizer)):
            (temp / name).write_bytes(
                safetensors_bytes(tensors)
            )  # save_file hides why a disk refuses
        (temp / STATE).write_bytes(canonical_json(snapshot.facts))
        files = [
            record_file(temp / name, relative_to=temp).model_dump()
            for name in (MODEL, OPTIMIZER, STATE)
        ]
        (temp / RECEIPT).write_bytes(canonical_json({"format": FORMAT, "files": files}))


def remove_old_checkpoints(run_dir: Path, *, keep_last: int, keep_every: int | None = None) -> None:
    """Remove a run's checkpoints but the newest ones and those of multiples of `keep_every`."""
    for old in _step_dirs(run_dir)[keep_last:]:
        if keep_every is None or _step_of(old) % keep_every:
            hidden = old.with_name(f"{TEMP_PREFIX}{old.name}")
            with explain_os_errors(old):
                old.replace(hidden)  # never half a checkpoint under a checkpoint's name
            remove(hidden)


def save_checkpoint(
    run_dir: Path, state: TrainState, *, config: TrainConfig, data: DataIdentity, keep_last: int
) -> Path:
    """Publish the checkpoint of `state.step`, then remove all but the `keep_last` newest ones."""
    target = checkpoint_dir(run_dir, state.step)
    publish_snapshot(take_snapshot(state, config=config, data=data), target)
    remove_old_checkpoints(run_dir, keep_last=keep_last)
    return target


def newest_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest whole checkpoint of a run; damaged ones are skipped with a warning."""
    for path in _step_dirs(run_dir):
        problem = find_damage(path)
        if problem is None:
            return path
        LOG.warning("checkpoint %s is skipped: %s", path, problem)
    return None


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint at `path`: itself, or the newest whole one of the run there.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path} is not there; give a run's folder or one of its checkpoints")
    if (path / RECEIPT).is_file() or path.name.startswith("step-"):
        problem = find_damage(path)
        if problem is not None:
            raise CheckpointError(
                f"checkpoint {path} is damaged ({problem}); use another of the run"
            )
        return path
    newest = newest_checkpoint(path)
    if newest is None:
        raise CheckpointError(
            f"{path} has no whole checkpoint; `wtours pretrain` writes one every "
            f"checkpoint.every_steps steps"
        )
    return newest


def run_dir_of(checkpoint: Path) -> Path:
    """Return the run that a checkpoint is of, or the checkpoint where it lies outside a run."""
    parent = checkpoint.absolute().parent
    return parent.parent if parent.name == "checkpoints" else checkpoint


def find_damage(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint's files, or None: sizes and sha256 are compared."""
    try:
        receipt = read_json(checkpoint / RECEIPT)
        if receipt["format"] != FORMAT:
            return f"format {receipt['format']}, this version reads {FORMAT}"
        records = {record["path"]: FileRecord(**record) for record in receipt["files"]}
        for name in (MODEL, OPTIMIZER, STATE):
            path, record = checkpoint / name, records[name]
            if path.stat().st_size != record.bytes:
                return f"{name} has {path.stat().st_size} bytes instead of {record.bytes}"
            if sha256_file(path) != record.sha256:
                return f"{name} is not what was written (sha256 differs)"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (WtoursError, KeyError, TypeError, ValueError):
        return f"{RECEIPT} cannot be read"
    return None


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
        # AdamW keeps its count on the CPU.
        state.optimizer.state[parameter][moment] = value.cpu() if moment == "step" else value


def load_network(checkpoint: Path, which: str | None = None) -> tuple[TrainConfig, Network]:
    """Return the config and a trained network, on the CPU, in evaluation mode, without gradients.

    Args:
        checkpoint: From `find_checkpoint`.
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
    with torch.device("meta"):  # no memory, whatever sizes a config claims
        require_weights(method.build_network(config), weights, refusal)
    network = method.build_network(config)
    network.load_state_dict(weights)
    return config, network.requires_grad_(False).eval()


def _moments(state: TrainState) -> dict[str, Tensor]:
    return _for_disk(
        {
            f"{name}.{key}": value
            for name, parameter in state.method.student.named_parameters()
            for key, value in state.optimizer.state.get(parameter, {}).items()
        }
    )


def _for_disk(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies: the tensors themselves may change while these are written."""
    copies = {}
    for name, tensor in tensors.items():
        found = whole(tensor.detach())
        if own_rank() == 0:
            copies[name] = found.to("cpu", copy=True).contiguous()
    return copies


def _step_dirs(run_dir: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, newest first, whole or not."""

    def found() -> Iterator[Path]:
        for path in (run_dir / "checkpoints").glob("step-*"):
            if path.name.removeprefix("step-").isdecimal():
                yield path

    return sorted(found(), key=_step_of, reverse=True)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))
