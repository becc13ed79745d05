"""`wtours pretrain`: where data, method, monitors and the training loop are put together."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from training.config.presets import GpuMemory
from training.config.sections import WatchConfig
from training.config.train import TrainConfig
from training.config.without_effect import without_effect
from training.data.clips import ClipViews
from training.distributed.launch import joined_world
from training.distributed.signals import StopSignals
from training.distributed.watchdog import failure_guard
from training.distributed.world import World
from training.engine.checkpoint_files import newest_checkpoint
from training.engine.metrics import StepStatus
from training.engine.optim import out_of_reach
from training.engine.precision import describe_numerics, for_device, numerics
from training.engine.run_dir import Resume, Run
from training.engine.setup import build_state, open_views, run_length
from training.engine.trainer import Monitor, OnStep, PretrainReport, train
from training.gpu_memory import fit_memory
from training.monitors.attention_overlay import AttentionOverlay
from training.monitors.collapse import CollapseMonitor
from training.monitors.knn_probe import KnnProbe
from training.schedules import Progress
from training.weights.initialize import initialize_backbones
from wtours.storage.atomic import write_json
from wtours.text import counted

ORIGIN_FILE = "init.json"
"""In a run's folder: the weights that its backbone started from, where model.init names some."""

LOG = logging.getLogger(__name__)


def _ignore(status: StepStatus) -> None:
    pass


def build_monitors(
    config: TrainConfig,
    run_dir: Path,
    views: ClipViews,
    world: World,
    on_progress: Callable[[], None],
) -> list[Monitor]:
    """Return what this process is to watch: of other ranks, what all do together.

    It is what the config's section `watch` asks for, and the warnings of a collapse.
    """
    watch = config.watch
    monitors: list[Monitor] = [CollapseMonitor(config)] if world.is_main else []
    if watch.overlay_every_steps is not None and world.is_main:
        monitors.append(AttentionOverlay(config, run_dir, views.source, on_progress))
    if watch.knn_train is not None:
        monitors.append(KnnProbe(config, world, on_progress))
    return monitors


def _never_watched(watch: WatchConfig, run: Progress) -> list[str]:
    """Return what was asked for and comes to no step of a run, a line each."""
    asked = {
        "knn_every_steps": watch.knn_every_steps if watch.knn_train is not None else None,
        "overlay_every_steps": watch.overlay_every_steps,
        "profile_steps": None if watch.profile_steps is None else watch.profile_steps[0],
    }
    return [
        f"watch.{name}={steps} never comes: the run has {counted(run.steps, 'step')}; set it lower"
        for name, steps in asked.items()
        if steps is not None and steps > run.steps
    ]


def pretrain(
    config: TrainConfig,
    *,
    shards_dir: Path | str,
    run_dir: Path,
    world: World,
    resume: Resume = "auto",
    on_step: OnStep = _ignore,
) -> PretrainReport:
    """Train to the end of the config's schedule, resuming from the run's newest checkpoint.

    On SIGINT or SIGTERM it finishes the step, saves a checkpoint and returns.

    Args:
        shards_dir: A finished shard set (its folder or URL), or a folder or tar of images, as
            the method takes them.
        run_dir: The run's folder, made if absent; every rank sees the same one.
        resume: "auto": resume where the run stopped, if the config is the same; "never": refuse a
            run that has a checkpoint; "force": resume with another config or other data.

    Raises:
        ShardError: a shard set that is missing or damaged.
        UsageError: a config that does not fit the model or the number of ranks.
        CheckpointError: the run was made with another config or other data, or the weights of
            model.init are absent or do not fit.
        TrainingError: too few clips for a batch, or a loss that is not finite.
    """
    config = for_device(config, world.device)
    if world.is_main:
        LOG.info("%s", describe_numerics(config, world.device))
    with ExitStack() as stack:
        stack.enter_context(numerics(config.optim, world.device))
        # Outermost: when another rank is lost, torchrun says SIGTERM before this one has said why.
        stop = stack.enter_context(StopSignals())
        watchdog = stack.enter_context(failure_guard(world, config.faults))
        views = open_views(shards_dir, config)
        length, state = run_length(config, views), build_state(config, world)
        if world.is_main:
            unreached = out_of_reach(config.optim, length) + state.method.out_of_reach(length)
            unused = without_effect(config)
            for line in unused + unreached + _never_watched(config.watch, length):
                LOG.warning("%s", line)
        monitors = build_monitors(config, run_dir, views, world, watchdog.beat)
        run = stack.enter_context(Run(run_dir, config, views.source.identity, world, watchdog))
        if config.model.init is not None and newest_checkpoint(run_dir) is None:
            origin = initialize_backbones(
                state.method, config.model.init, lambda name: run_dir.parent / name
            )
            if world.is_main:
                write_json(run_dir / ORIGIN_FILE, origin)
        return train(
            run,
            state,
            views,
            length,
            resume=resume,
            monitors=monitors,
            stop=stop,
            on_step=on_step,
        )


def run_pretraining(
    config: TrainConfig,
    *,
    shards_dir: Path | str,
    run_dir: Path,
    resume: Resume = "auto",
    gpu_memory: GpuMemory | None = None,
    on_step: OnStep = _ignore,
) -> PretrainReport:
    """Join torchrun's processes, if it started this one, and `pretrain`.

    With `gpu_memory` the config is first made to fit it (`training.gpu_memory`), and said so.
    """
    with joined_world(config.faults.first_step_seconds) as world:
        if gpu_memory is not None:
            fit = fit_memory(
                config, gpu_memory, shards_dir=shards_dir, world=world, processes=world.world_size
            )
            LOG.info("%s", fit.describe())
            config = fit.config
        return pretrain(
            config,
            shards_dir=shards_dir,
            run_dir=run_dir,
            world=world,
            resume=resume,
            on_step=on_step if world.is_main else _ignore,
        )
