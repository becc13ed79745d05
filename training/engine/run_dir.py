"""A run's folder: resuming from it, and writing to it (rank 0 alone), in the background too."""

import logging
import math
import shlex
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from training.config.train import TrainConfig, flatten, to_yaml
from training.data.clips import ClipViews
from training.data.source import DataIdentity
from training.distributed.collectives import broadcast
from training.distributed.sharding import is_sharded
from training.distributed.watchdog import Watchdog
from training.distributed.world import World
from training.engine.checkpoint import load_state, publish_snapshot, read_state, take_snapshot
from training.engine.checkpoint_files import (
    checkpoint_dir,
    newest_checkpoint,
    remove_old_checkpoints,
)
from training.engine.loggers import open_loggers
from training.engine.metrics import MetricsLog
from training.engine.state import TrainState
from wtours.errors import CheckpointError, TrainingError
from wtours.storage.atomic import sweep, write_bytes, write_json
from wtours.storage.locks import lock
from wtours.text import counted

LOG = logging.getLogger(__name__)


class BackgroundWriter:
    """Runs one write at a time in a thread; a context manager that waits for it at its end.

    What a write raised is raised by the next call, whichever that is: no error is lost. While this
    waits for a write to end, `while_waiting` is called once a second.
    """

    def __init__(self, while_waiting: Callable[[], None] = lambda: None) -> None:
        self._while_waiting = while_waiting
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.in_flight: Future[None] | None = None

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.finish()
        except Exception as error:
            if kind is None:
                raise
            LOG.warning("and in the background: %s", error)  # beside the error under way
        finally:
            self._thread.shutdown()

    def start(self, write: Callable[[], None]) -> None:
        """Start a write, after the one before has ended."""
        self.finish()
        self.in_flight = self._thread.submit(write)

    def check(self) -> None:
        """Raise what the last write raised, if it has ended; do not wait for it."""
        if self.in_flight is not None and self.in_flight.done():
            self.finish()

    def finish(self) -> None:
        """Wait for the last write, and raise what it raised."""
        if self.in_flight is not None:
            in_flight, self.in_flight = self.in_flight, None
            while not wait([in_flight], timeout=1).done:
                self._while_waiting()
            in_flight.result()


LOG = logging.getLogger(__name__)
Resume = Literal["auto", "never", "force"]
CONFIG_FILE = "config.yaml"
# What may differ when a run is resumed, since it changes nothing that is computed.
_FREE = ("data.num_workers", "optim.parallel", "checkpoint.", "faults.", "watch.")
_SHOWN_CHANGES = 5
Measured = Mapping[str, float | Image.Image]


@dataclass(eq=False)
class Run:
    """A run's folder while it is trained in, locked by rank 0, which removes what a kill left."""

    dir: Path
    config: TrainConfig
    data: DataIdentity
    world: World
    watchdog: Watchdog

    def __post_init__(self) -> None:
        self._metrics: MetricsLog | None = None  # of rank 0, from `restore` on
        self._saved_at = time.monotonic()
        self._stack = ExitStack()  # of what is open: the lock, the writer, the metrics
        self._writer = BackgroundWriter(self.watchdog.beat)

    def __enter__(self) -> "Run":
        with ExitStack() as stack:
            if self.world.is_main:
                stack.enter_context(lock(self.dir / ".lock", what=f"the run {self.dir}"))
                sweep(self.dir)
                sweep(self.dir / "checkpoints")
            stack.enter_context(self._writer)
            self._stack = stack.pop_all()
        self.watchdog.before_exit = self.finish_saving
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()  # waits for the last checkpoint

    def restore(self, state: TrainState, resume: Resume) -> None:
        """Set `state` to the newest whole checkpoint, if there is one, and open the metrics.

        Raises:
            CheckpointError: the checkpoint is of another config or other data, or `resume` is
                "never" and there is one.
        """
        checkpoint = newest_checkpoint(self.dir) if self.world.is_main else None
        if checkpoint is not None:
            self._refuse_another(checkpoint, resume)
        text = broadcast("" if checkpoint is None else str(checkpoint), self.world)
        if text:
            load_state(Path(text), state)
            LOG.info("resumed from step %d (%s)", state.step, text)
        if self.world.is_main:
            write_bytes(self.dir / CONFIG_FILE, to_yaml(self.config).encode())
            loggers = open_loggers(
                self.config.watch.loggers, self.dir, self.config, steps_done=state.step
            )
            log = MetricsLog(self.dir, steps_done=state.step, loggers=loggers)
            self._metrics = self._stack.enter_context(log)

    def log(self, step: int, values: Measured, times: dict[str, float]) -> None:
        """Write the metrics of the step just done, on rank 0; `step` counts from 1."""
        if self._metrics is not None:
            self._metrics.write(step, values, time=times)

    def clock_is_due(self) -> bool:
        """Return whether rank 0's clock asks for a checkpoint; of other ranks False."""
        minutes = self.config.checkpoint.every_minutes
        elapsed = time.monotonic() - self._saved_at
        return self.world.is_main and minutes is not None and elapsed >= 60 * minutes

    def save_is_due(self, step: int, last_step: int) -> bool:
        """Return whether there is a checkpoint after step `step`; raise why the last save failed.

        Every rank answers alike.
        """
        self._writer.check()
        due = self.config.checkpoint
        return (
            step == last_step
            or step % due.every_steps == 0
            or (due.keep_every is not None and step % due.keep_every == 0)
        )

    def save(self, state: TrainState) -> None:
        """Copy the state, and write the checkpoint in the background, after the one before.

        All ranks call it: where weights are divided over them, rank 0 gets the others'.
        """
        if not (self.world.is_main or is_sharded(state.method)):
            return
        snapshot = take_snapshot(state, config=self.config, data=self.data)
        if self._metrics is None:
            return
        self._metrics.sync()  # the steps of a checkpoint have their lines
        self._saved_at = time.monotonic()
        due = self.config.checkpoint

        def write() -> None:
            publish_snapshot(snapshot, checkpoint_dir(self.dir, snapshot.step))
            remove_old_checkpoints(self.dir, keep_last=due.keep_last, keep_every=due.keep_every)

        self._writer.start(write)

    def finish_saving(self) -> None:
        """Wait until the last checkpoint is written; raise why it is not."""
        self._writer.finish()

    def non_finite(
        self, state: TrainState, values: dict[str, float], views: ClipViews
    ) -> TrainingError:
        """Return the error of the step after `state` whose loss or gradients are not finite.

        Its clips are listed, and the state that it began with is kept, for `training.nan_replay`.
        """
        step = state.step + 1
        path = self.dir / f"nonfinite-step-{step}.json"
        if self.world.is_main or is_sharded(state.method):
            snapshot = take_snapshot(state, config=self.config, data=self.data)
        if self.world.is_main:
            publish_snapshot(snapshot, path.with_suffix(""))
            last = state.position + self.config.optim.global_batch_size
            clips = [views.describe(position) for position in range(state.position, last)]
            shown = {
                name: value if math.isfinite(value) else str(value)
                for name, value in values.items()
            }
            facts = {"step": step, "seed": self.config.seed, "world_size": self.world.world_size}
            write_json(path, facts | {"metrics": shown, "clips": clips})
        what = "loss" if not math.isfinite(values["loss"]) else "gradient"
        return TrainingError(
            f"the {what} is not finite at step {step} (loss {values['loss']:g}); no weight was "
            f"changed by it, and `wtours replay {shlex.quote(str(path))}` computes it again: "
            f"lower optim.lr, or use optim.precision=float32"
        )

    def _refuse_another(self, checkpoint: Path, resume: Resume) -> None:
        step, config, data = read_state(checkpoint)
        if resume == "never":
            raise CheckpointError(
                f"{self.dir} is a run at step {step}; choose another run, or resume it"
            )
        if resume == "force":
            return
        before, after = flatten(config.model_dump()), flatten(self.config.model_dump())
        changes = [
            f"{key} was {before.get(key)}, now {after.get(key)}"
            for key in {**after, **before}
            if before.get(key) != after.get(key) and not key.startswith(_FREE)
        ]
        if not data.is_of(self.data):
            changes.insert(0, _difference(data, self.data))
        if changes:
            shown, hidden = changes[:_SHOWN_CHANGES], len(changes) - _SHOWN_CHANGES
            if hidden > 0:
                shown.append(f"and {hidden} more")
            raise CheckpointError(
                f"{self.dir} was trained with other settings: {'; '.join(shown)}. Use the same "
                f"ones, choose another name with --run, or resume all the same with --resume force"
            )


def _difference(before: DataIdentity, now: DataIdentity) -> str:
    """Return in what two data that are not the same differ."""
    if None not in (before.set_sha256, now.set_sha256) and before.set_sha256 != now.set_sha256:
        return f"the shard set had the set hash {before.set_sha256}, now {now.set_sha256}"
    if before.split_sha256 != now.split_sha256:
        return "the shard set has another split.json"
    clips = counted(before.num_clips, "clip")
    return f"the shard set has another index ({clips}, now {now.num_clips:,})"
