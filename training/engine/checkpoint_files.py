"""The files of a run's checkpoints: which there are, whole or damaged. Nothing here needs torch.

<run>/checkpoints/step-00000100/
    model.safetensors       the method's state_dict: student.*, and e.g. teacher.*, center
    optimizer.safetensors   <parameter of the student>.exp_avg, .exp_avg_sq, .step; of LARS
                            .momentum_buffer
    state.json              step, config, and which data it was trained on
    receipt.json            bytes and sha256 of the three; written last

docs/reference/checkpoints.md lists every field.
"""

import logging
from pathlib import Path

from wtours.errors import CheckpointError, WtoursError
from wtours.storage.atomic import RECEIPT_FILE, TEMP_PREFIX, read_json, remove
from wtours.storage.hashing import sha256_file
from wtours.storage.os_errors import explain_os_errors
from wtours.storage.receipts import FileRecord

LOG = logging.getLogger(__name__)
FORMAT = 1
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
RECEIPT = RECEIPT_FILE
RANDOM = ",random"
"""Behind the name of a run: the network that it started from."""
INITIAL = "initial-random"
"""What results call that network."""


def checkpoint_dir(run_dir: Path, step: int) -> Path:
    """Return where the checkpoint after `step` steps is."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def newest_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest whole checkpoint of a run; damaged ones are skipped with a warning."""
    for path in step_dirs(run_dir):
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
    """Return the run that a checkpoint is of, or the checkpoint where it lies outside a run.

    It is printed as the checkpoint was given, relative to the current folder where that was; one
    without a name, of a folder above the current one, is absolute.
    """
    parent, run = checkpoint.absolute().parent, checkpoint.parent.parent
    if parent.name != "checkpoints":
        return checkpoint
    return run if run.name else parent.parent


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


def remove_old_checkpoints(run_dir: Path, *, keep_last: int, keep_every: int | None = None) -> None:
    """Remove a run's checkpoints but the newest ones and those of multiples of `keep_every`."""
    for old in step_dirs(run_dir)[keep_last:]:
        if keep_every is None or step_of(old) % keep_every:
            hidden = old.with_name(f"{TEMP_PREFIX}{old.name}")
            with explain_os_errors(old):
                old.replace(hidden)  # never half a checkpoint under a checkpoint's name
            remove(hidden)


def step_dirs(run_dir: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, newest first, whole or not."""
    found = (run_dir / "checkpoints").glob("step-*")
    numbered = (path for path in found if path.name.removeprefix("step-").isdecimal())
    return sorted(numbered, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """Return the steps done at the checkpoint of a run, by its name."""
    return int(checkpoint.name.removeprefix("step-"))
