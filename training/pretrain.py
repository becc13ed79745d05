"""The spine of `wtours pretrain`: DORA on the clips of a shard set, resumable at any step.

`torchrun --nproc-per-node N -m training.pretrain SHARDS_DIR --run-dir DIR` runs it on N processes.
"""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from training.config.presets import PRESETS, resolve_config
from training.config.train import TrainConfig
from training.data.clips import open_data
from training.data.loader import batches
from training.distributed.collectives import barrier
from training.distributed.failures import watched
from training.distributed.launch import joined_world
from training.distributed.signals import StopSignals, agreed
from training.distributed.world import World
from training.engine.checkpoint import checkpoint_dir
from training.engine.metrics import StepClock, StepStatus
from training.engine.precision import deterministic
from training.engine.run_dir import Resume, opened_run
from training.engine.setup import build_schedules, build_state, build_views, identity_of, replicate
from training.engine.step import apply_gradients, compute_gradients
from wtours.errors import WtoursError

LOG = logging.getLogger(__name__)
_LOG_EVERY_SECONDS = 10.0
OnStep = Callable[[StepStatus], None]


def _ignore(status: StepStatus) -> None:
    pass


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
    on_step: OnStep = _ignore,
) -> PretrainReport:
    """Train to the end of the config's schedule, going on from the run's newest checkpoint.

    SIGINT and SIGTERM end the step, save a checkpoint, and are then passed on.

    Args:
        config: Of the run.
        shards_dir: A finished shard set; for method "dora_images" a folder or tar of images.
        run_dir: The run's folder, made if absent; every rank sees the same one.
        world: This process.
        resume: "auto": go on where the run stopped, if the config is the same; "never": refuse a
            run that has a checkpoint; "force": go on with another config or other data.
        on_step: Called after each step.

    Raises:
        ShardError: a shard set that is missing or damaged.
        UsageError: a config that does not fit the model or the number of ranks.
        CheckpointError: the run was made with another config or other data.
        TrainingError: too few clips for a batch, or a loss that is not finite.
    """
    with ExitStack() as stack:
        stack.enter_context(deterministic(config.optim.deterministic))
        # Outermost: when another rank is lost, torchrun says SIGTERM before this one has said why.
        stop = stack.enter_context(StopSignals())
        heartbeat = stack.enter_context(watched(world, config.faults))
        views = build_views(open_data(shards_dir, config), config)
        schedules = build_schedules(config, num_clips=len(views.clips))
        state, clock = (
            build_state(config, world),
            StepClock(config.optim.global_batch_size, world.device),
        )
        identity = identity_of(views.clips)
        run = stack.enter_context(opened_run(run_dir, config, identity, world, heartbeat))

        run.restore(state, resume, views.clips)
        started_at, stopped_by = state.step, None
        replica = replicate(state.student, world)
        for batch in clock.waiting(batches(views, world, config, state.step, schedules.steps)):
            now = schedules.at(state.step)
            gradients = compute_gradients(state, replica, batch, now, config=config, world=world)
            finite, stopped_by = agreed(gradients.is_finite(), stop.noted, world)
            if not finite:  # all ranks leave together, before the optimizer moves
                raise run.non_finite(state, gradients.metrics(), views)
            apply_gradients(state, gradients, now)
            heartbeat.beat()
            metrics = gradients.metrics()
            run.log(state, metrics, now, clock.lap())
            if stopped_by or run.save_is_due(state.step, schedules.steps):
                run.save(state)
            on_step(clock.status(run_dir.name, state.step, schedules.steps, metrics["loss"]))
            if stopped_by:
                break
        run.finish_saving()
        barrier()  # no rank leaves while rank 0 still writes
    if stopped_by:
        signal.raise_signal(stopped_by)
    return PretrainReport(checkpoint_dir(run_dir, state.step), started_at, state.step)


def run_pretraining(
    config: TrainConfig,
    *,
    shards_dir: Path,
    run_dir: Path,
    resume: Resume = "auto",
    on_step: OnStep = _ignore,
) -> PretrainReport:
    """Join torchrun's processes, if it started this one, and `pretrain`."""
    with joined_world(config.faults.first_step_seconds) as world:
        return pretrain(
            config,
            shards_dir=shards_dir,
            run_dir=run_dir,
            world=world,
            resume=resume,
            on_step=on_step if world.is_main else _ignore,
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
            on_step=_log_now_and_then(),
        )
    except WtoursError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    LOG.info("%s: %s", options.run_dir, report.describe())
    return 0


def _log_now_and_then() -> OnStep:
    last = -_LOG_EVERY_SECONDS

    def log(now: StepStatus) -> None:
        nonlocal last
        if time.monotonic() - last >= _LOG_EVERY_SECONDS:
            last = time.monotonic()
            left = timedelta(seconds=round(now.seconds_left))
            LOG.info(
                "%s: step %d of %d · %s · %s left",
                *(now.run, now.step, now.steps, now.describe(), left),
            )

    return log


if __name__ == "__main__":
    sys.exit(main())
