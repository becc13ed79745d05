"""The spine of `wtours pretrain`: DORA on the clips of a shard set, resumable at any step.

`torchrun --nproc-per-node N -m training.pretrain SHARDS_DIR --run-dir DIR` runs it on N processes.
"""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.checkpoint import DataIdentity, TrainState, checkpoint_dir
from training.config import TrainConfig
from training.data import ClipViews, batches, open_clips, steps_in_epoch
from training.distributed import World, barrier, joined_world
from training.metrics import StepClock
from training.networks import build_network
from training.optim import build_optimizer
from training.presets import PRESETS, resolve_config
from training.randomness import derived_seed
from training.run import Resume, opened_run
from training.schedules import Schedules
from training.step import apply_gradients, compute_gradients
from training.stopping import StopSignals, agreed
from training.teacher import make_teacher
from wtours.errors import WtoursError
from wtours.progress import Progress, no_progress
from wtours.shards import ClipDataset, ClipSampler

LOG = logging.getLogger(__name__)
_LOG_EVERY_SECONDS = 10.0


@dataclass(frozen=True)
class PretrainReport:
    """How a run stands when `pretrain` returns."""

    checkpoint: Path
    """Of the last step."""
    started_at_step: int
    """0, or the step that was resumed from; equal to `steps` where there was nothing to do."""
    steps: int
    """Steps done, over all parts of the run."""

    def describe(self) -> str:
        """Return one line for a person."""
        if self.started_at_step == self.steps:
            return f"nothing to do, all {self.steps} steps are done: {self.checkpoint}"
        start = f"from step {self.started_at_step} " if self.started_at_step else ""
        return f"trained {start}to step {self.steps}: {self.checkpoint}"


def pretrain(
    config: TrainConfig,
    *,
    shards_dir: Path,
    run_dir: Path,
    world: World,
    resume: Resume = "auto",
    on_progress: Progress = no_progress,
) -> PretrainReport:
    """Train to the end of the config's schedule, going on from the run's newest checkpoint.

    SIGINT and SIGTERM end the step, save a checkpoint, and are then passed on.

    Args:
        config: Of the run.
        shards_dir: A finished shard set.
        run_dir: The run's folder, made if absent; every rank sees the same one.
        world: This process.
        resume: "auto": go on where the run stopped, if the config is the same; "never": refuse a
            run that has a checkpoint; "force": go on with another config or other data.
        on_progress: Called after each step, in steps.

    Raises:
        ShardError: a shard set that is missing or damaged.
        UsageError: a config that does not fit the model or the number of ranks.
        CheckpointError: the run was made with another config or other data.
        TrainingError: too few clips for a batch, or a loss that is not finite.
    """
    views = build_views(open_clips(shards_dir, config.data), config)
    schedules = build_schedules(config, num_clips=len(views.clips))
    state, clock = build_state(config, world), StepClock(config.optim.global_batch_size)
    with opened_run(run_dir, config, identity_of(views.clips), world) as run, StopSignals() as stop:
        run.restore(state, resume)
        started_at, stopped_by = state.step, None
        replica = replicate(state.student, world)
        for batch in clock.waiting(batches(views, world, config, state.step, schedules.steps)):
            now = schedules.at(state.step)
            gradients = compute_gradients(state, replica, batch, now, config=config, world=world)
            finite, stopped_by = agreed(gradients.is_finite(), stop.noted, world)
            if not finite:  # all ranks leave together, before the optimizer moves
                raise run.non_finite(state.step + 1, gradients.metrics(), views)
            apply_gradients(state, gradients, now)
            run.log(state.step, gradients.metrics(), now, clock.lap())
            if stopped_by or is_due(state.step, schedules.steps, config.checkpoint.every_steps):
                run.save(state)
            on_progress(run_dir.name, state.step, schedules.steps)
            if stopped_by:
                break
        barrier()  # no rank leaves while rank 0 still writes
    if stopped_by:
        signal.raise_signal(stopped_by)
    return PretrainReport(checkpoint_dir(run_dir, state.step), started_at, state.step)


def build_views(clips: ClipDataset, config: TrainConfig) -> ClipViews:
    """Return the stream of clips in the order of the config's seed."""
    if not config.data.across_cuts and not clips.index.shots_known:
        LOG.warning("some videos are not analysed: their clips may go over cuts")
    sampler = ClipSampler(len(clips), seed=config.seed, clips_per_epoch=config.data.clips_per_epoch)
    return ClipViews(clips, sampler, data=config.data, augment=config.augment, seed=config.seed)


def identity_of(clips: ClipDataset) -> DataIdentity:
    """Return what a checkpoint records of the data."""
    return DataIdentity(clips.index.dataset.index.sha256, len(clips))


def build_schedules(config: TrainConfig, *, num_clips: int) -> Schedules:
    """Return the schedules of a run on `num_clips` clips.

    Raises:
        TrainingError: too few clips for a batch.
    """
    optim, loss = config.optim, config.loss
    steps_per_epoch: float = steps_in_epoch(
        num_clips, config.data, global_batch_size=optim.global_batch_size
    )
    steps = optim.steps or round(optim.epochs * steps_per_epoch)
    if optim.steps:
        steps_per_epoch = optim.steps / optim.epochs
    scale = optim.global_batch_size / optim.lr_clips if optim.lr_clips else 1.0
    return Schedules(
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        lr=optim.lr * scale,
        min_lr=optim.min_lr,
        warmup_epochs=optim.warmup_epochs,
        weight_decay=optim.weight_decay,
        weight_decay_end=optim.weight_decay_end,
        momentum=optim.momentum,
        momentum_end=optim.momentum_end,
        teacher_temp=loss.teacher_temp,
        warmup_teacher_temp=loss.warmup_teacher_temp,
        warmup_teacher_temp_epochs=loss.warmup_teacher_temp_epochs,
        freeze_last_layer_epochs=optim.freeze_last_layer_epochs,
    )


def build_state(config: TrainConfig, world: World) -> TrainState:
    """Return untrained networks, the same on every rank, and their optimiser."""
    torch.manual_seed(derived_seed(config.seed, "weights"))
    student = build_network(config).to(world.device)
    return TrainState(
        student=student,
        teacher=make_teacher(student),
        optimizer=build_optimizer(student, config.optim.name),
        center=torch.zeros(config.model.num_prototypes, device=world.device),
        step=0,
    )


def replicate(student: nn.Module, world: World) -> nn.Module:
    """Return what averages the student's gradients over ranks: DDP, or the student itself."""
    if world.world_size == 1:
        return student
    device_ids = [world.device] if world.device.type == "cuda" else None
    # The buffers are batch norm's statistics, which are those of all ranks already.
    return DistributedDataParallel(student, device_ids=device_ids, broadcast_buffers=False)


def is_due(step: int, last_step: int, every_steps: int) -> bool:
    """Return whether a checkpoint is to be written after step `step`."""
    return step == last_step or step % every_steps == 0


def run_pretraining(
    config: TrainConfig,
    *,
    shards_dir: Path,
    run_dir: Path,
    resume: Resume = "auto",
    on_progress: Progress = no_progress,
) -> PretrainReport:
    """Join torchrun's processes, if it started this one, and `pretrain`."""
    with joined_world() as world:
        return pretrain(
            config,
            shards_dir=shards_dir,
            run_dir=run_dir,
            world=world,
            resume=resume,
            on_progress=on_progress if world.is_main else no_progress,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m training.pretrain`; return the exit code."""
    parser = argparse.ArgumentParser(prog="training.pretrain", description=pretrain.__doc__)
    parser.add_argument("shards_dir", type=Path)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--preset", default="official", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--config", type=Path, help="YAML file over the preset")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--resume", choices=("auto", "never", "force"), default="auto")
    options = parser.parse_args(arguments)
    is_main = os.environ.get("RANK", "0") == "0"  # torchrun's; one process says what all do
    logging.basicConfig(level=logging.INFO if is_main else logging.ERROR, format="%(message)s")
    try:
        report = run_pretraining(
            resolve_config(options.preset, options.config, options.overrides),
            shards_dir=options.shards_dir,
            run_dir=options.run_dir,
            resume=options.resume,
            on_progress=_progress_to_log(),
        )
    except WtoursError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    LOG.info("%s: %s", options.run_dir, report.describe())
    return 0


def _progress_to_log() -> Progress:
    last = -_LOG_EVERY_SECONDS

    def log(run: str, done: float, total: float | None) -> None:
        nonlocal last
        if time.monotonic() - last >= _LOG_EVERY_SECONDS:
            last = time.monotonic()
            LOG.info("%s: step %d of %d", run, done, total)

    return log


if __name__ == "__main__":
    sys.exit(main())
