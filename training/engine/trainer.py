"""The training loop: steps from where a run stands to the end of its schedule."""

import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from training.data.clips import ClipViews
from training.data.loader import batches
from training.distributed.collectives import barrier
from training.distributed.signals import StopSignals
from training.distributed.world import World
from training.engine.checkpoint_files import checkpoint_dir
from training.engine.metrics import StepStatus, ThroughputMeter
from training.engine.profiling import peak_tflops, profiled_steps
from training.engine.run_dir import Measured, Resume, Run
from training.engine.setup import replicate
from training.engine.state import TrainState
from training.engine.step import apply_gradients, compute_gradients
from training.flops import BackboneShape, clip_tflop
from training.schedules import Progress

OnStep = Callable[[StepStatus], None]


class Monitor(Protocol):
    """Looks at a run after each of its steps; it changes nothing that is computed.

    One that rank 0 has alone lets the others wait at their next exchange; one that computes much is
    on all ranks, which share the work. `training.monitors` has the implementations.
    """

    def after_step(self, state: TrainState, metrics: dict[str, float]) -> Measured:
        """Return what was measured after `state.step` steps, by name; {} for nothing.

        Numbers go into the step's line of metrics, images to TensorBoard. `metrics` are means over
        ranks of what the step computed.
        """
        ...


@dataclass(frozen=True)
class PretrainReport:
    """The state of a run when training returns."""

    checkpoint: Path
    """Of the last step."""
    started_at_step: int
    """0, or the step that was resumed from; equal to `steps` where there was nothing to do."""
    steps: int
    """Steps done, over all parts of the run."""
    stopped_by: signal.Signals | None = None
    """The signal that ended it before its last step; in that one a signal ends nothing."""

    def to_json(self) -> dict[str, str | int | None]:
        """Return the same for a program."""
        return {
            "checkpoint": str(self.checkpoint),
            "started_at_step": self.started_at_step,
            "steps": self.steps,
            "stopped_by": None if self.stopped_by is None else self.stopped_by.name,
        }

    def describe(self) -> str:
        """Return one line for a person."""
        if self.stopped_by is not None:
            return f"stopped at step {self.steps}, checkpoint saved; rerun to resume"
        if self.started_at_step == self.steps:
            done = "the 1 step is" if self.steps == 1 else f"all {self.steps} steps are"
            return f"nothing to do, {done} done: {self.checkpoint}"
        start = f"from step {self.started_at_step} " if self.started_at_step else ""
        return f"trained {start}to step {self.steps}: {self.checkpoint}"


def train(
    run: Run,
    state: TrainState,
    views: ClipViews,
    length: Progress,
    *,
    resume: Resume,
    monitors: Sequence[Monitor],
    stop: StopSignals,
    on_step: OnStep,
) -> PretrainReport:
    """Train to the end of the schedule, resuming from the run's newest checkpoint."""
    config, world = run.config, run.world
    run.restore(state, resume)
    meter = ThroughputMeter(
        config.optim.global_batch_size,
        world.device,
        peak_tflops=config.watch.peak_tflops or peak_tflops(world.device),
    )
    started_at, stopped_by = state.step, None
    replica = replicate(state, world)
    profiled = config.watch.profile_steps if world.is_main else None
    with profiled_steps(run.dir, profiled, world.device, steps_done=state.step) as step_traced:
        steps = max(length.steps - state.step, 0)
        stream = batches(views, world, config, position=state.position, steps=steps)
        for batch in meter.waiting(stream):
            now = length.at(state.step)
            gradients = compute_gradients(state, replica, batch, now, config=config, world=world)
            # One exchange for all of it: ranks leave together, before the optimizer moves.
            reading = gradients.read([*stop.flags(), run.clock_is_due()])
            if not reading.is_finite:
                raise run.non_finite(state, reading.metrics, views)
            scheduled = apply_gradients(state, now)
            run.watchdog.beat()
            step_traced()
            metrics = reading.metrics
            times = meter.lap(_step_tflop(state, metrics, world))
            values = asdict(scheduled) | state.method.scheduled(now)
            measured: dict[str, float | Image.Image] = {**metrics, **values}
            for monitor in monitors:
                measured |= monitor.after_step(state, metrics)
            run.log(state.step, measured, times)
            *stopped, by_clock = reading.flags
            stopped_by = stop.signal_of(stopped)
            if stopped_by or by_clock or run.save_is_due(state.step, length.steps):
                run.save(state)
            on_step(meter.status(run.dir.name, state.step, length.steps, metrics["loss"]))
            if stopped_by:
                break
    run.finish_saving()
    barrier()  # no rank leaves while rank 0 still writes
    if state.step == length.steps:  # all that was asked for is done, and nothing is to be resumed
        stopped_by = None
    return PretrainReport(checkpoint_dir(run.dir, state.step), started_at, state.step, stopped_by)


def _step_tflop(state: TrainState, metrics: dict[str, float], world: World) -> float:
    """Return the multiplications of a step in this process, 1e12, from what it measured."""
    config, backbone = state.method.config, state.method.student.backbone
    patch_size = backbone.patch_embed.patch_size[0]
    shape = BackboneShape(backbone.embed_dim, len(backbone.blocks), patch_size)
    visible = metrics.get("mask_coverage", 1.0)
    of_clip = clip_tflop(config, shape, as_computed=True, visible_share=visible)
    return of_clip * config.optim.global_batch_size / world.world_size
