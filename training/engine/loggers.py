"""Where a run's metrics are shown: TensorBoard, Weights & Biases, MLflow (`watch.loggers`).

What counts is `metrics.jsonl`; these are for looking. So each works in a thread of its own, and one
that fails or hangs is said once and left out: it never stops a run.
"""

import functools
import importlib
import logging
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from training.config.sections import LoggerName
from training.config.train import TrainConfig, flatten
from wtours.errors import MissingPackageError
from wtours.storage.atomic import read_json, write_json

LOG = logging.getLogger(__name__)
Values = Mapping[str, float | Image.Image]
_WAITING = 10_000
"""Steps that may wait for a slow logger; more are left out."""
_CLOSE_SECONDS = 60.0
"""For what is under way at the end of a run."""


class Logger(Protocol):
    """One place that shows metrics; every method may raise or take long."""

    def write(self, step: int, values: Values) -> None:
        """Show the numbers and images of a step, counted from 1."""

    def flush(self) -> None:
        """Bring to the disk what is held back; most hold nothing back."""

    def close(self) -> None:
        """End: the run is done, or stopped."""


class _TensorBoard(Logger):
    """Event files in the run's folder `tensorboard`."""

    def __init__(self, run_dir: Path, config: TrainConfig, steps_done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=steps_done + 1)

    def write(self, step: int, values: Values) -> None:
        for name, value in values.items():
            if isinstance(value, Image.Image):
                self._board.add_image(name, np.asarray(value), step, dataformats="HWC")
            else:
                self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        self._board.flush()

    def close(self) -> None:
        self._board.close()


class _WeightsAndBiases(Logger):
    """A run of W&B, the same one when training is resumed; WANDB_* choose project, entity, mode."""

    def __init__(self, run_dir: Path, config: TrainConfig, steps_done: int) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "wtours"),
            name=run_dir.name,
            id=_known_id(run_dir, "wandb", lambda: uuid.uuid4().hex[:8]),
            resume="allow",
            dir=str(run_dir),
            config=flatten(config.model_dump(mode="json")),
        )
        # By our own step: W&B's may not go back, and steps that a crash has undone come again.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Values) -> None:
        shown = {
            name: self._wandb.Image(value) if isinstance(value, Image.Image) else value
            for name, value in values.items()
        }
        self._run.log({"step": step, **shown})

    def close(self) -> None:
        self._run.finish()


class _MLflow(Logger):
    """A run of MLflow, the same one when training is resumed.

    MLFLOW_TRACKING_URI says where; without it, in files in the run's folder `mlflow`.
    """

    def __init__(self, run_dir: Path, config: TrainConfig, steps_done: int) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        where = os.environ.get("MLFLOW_TRACKING_URI")
        if where is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 asks for it
            where = (run_dir / "mlflow").absolute().as_uri()
        self._client = MlflowClient(tracking_uri=where)
        self._id = _known_id(run_dir, "mlflow", lambda: self._new_run(run_dir))
        self._client.update_run(self._id, status="RUNNING")
        known = self._client.get_run(self._id).data.params
        settings = flatten(config.model_dump(mode="json")).items()
        params = [Param(key, str(value)[:500]) for key, value in settings if key not in known]
        for start in range(0, len(params), 100):  # MLflow takes no more at once
            self._client.log_batch(self._id, params=params[start : start + 100])

    def _new_run(self, run_dir: Path) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "wtours")
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        return str(self._client.create_run(experiment, run_name=run_dir.name).info.run_id)

    def write(self, step: int, values: Values) -> None:
        now = int(time.time() * 1000)  # noqa: TID251 -- when it was, for MLflow
        metrics = []
        for name, value in values.items():
            if isinstance(value, Image.Image):
                self._client.log_image(self._id, value, key=name, step=step)
            else:
                metrics.append(self._metric(name, value, now, step))
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._id)


Open = Callable[[Path, TrainConfig, int], Logger]
LOGGERS: dict[LoggerName, tuple[Open, str, str]] = {
    "tensorboard": (_TensorBoard, "torch.utils.tensorboard", "train"),
    "wandb": (_WeightsAndBiases, "wandb", "wandb"),
    "mlflow": (_MLflow, "mlflow.tracking", "mlflow"),
}
"""Each with the module it needs and the extra that brings it."""


class BackgroundLogger:
    """A logger in a thread of its own, from its opening on; what it cannot do is said once."""

    def __init__(self, name: str, open_logger: Callable[[], Logger]) -> None:
        self._name = name
        self._open = open_logger
        self._asked: queue.Queue[Callable[[Logger], None] | None] = queue.Queue(_WAITING)
        self._is_broken = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"logger {name}", daemon=True)
        self._thread.start()

    def write(self, step: int, values: Values) -> None:
        """Have a step shown; returns at once."""
        self._ask(lambda logger: logger.write(step, values))

    def flush(self) -> None:
        """Have everything so far brought to the disk; returns at once."""
        self._ask(lambda logger: logger.flush())

    def close(self) -> None:
        """Wait, not for ever, until everything is shown, and end."""
        with suppress(queue.Full):
            self._asked.put_nowait(None)
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            self._give_up(f"it did not end in {_CLOSE_SECONDS:.0f} s")

    def _ask(self, what: Callable[[Logger], None]) -> None:
        if self._is_broken.is_set():
            return
        try:
            self._asked.put_nowait(what)
        except queue.Full:
            self._give_up(f"{_WAITING:,} steps wait for it")

    def _work(self) -> None:
        try:
            logger = self._open()
            while (what := self._asked.get()) is not None and not self._is_broken.is_set():
                what(logger)
            logger.close()
        except BaseException as error:  # W&B ends processes by SystemExit where it cannot go on
            self._give_up(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")

    def _give_up(self, why: str) -> None:
        if not self._is_broken.is_set():
            self._is_broken.set()
            LOG.warning("%s shows nothing more of this run (%s); training goes on", self._name, why)


def open_loggers(
    names: Sequence[LoggerName], run_dir: Path, config: TrainConfig, *, steps_done: int
) -> list[BackgroundLogger]:
    """Return the loggers, each in its thread.

    Their modules are imported here: workers that are forked while a thread imports would wait for
    the import for ever.

    Raises:
        MissingPackageError: one of them is not installed.
    """
    for name in names:
        _, module, extra = LOGGERS[name]
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise MissingPackageError(name, extra, f"watch.loggers={name}") from error
    return [
        BackgroundLogger(name, functools.partial(LOGGERS[name][0], run_dir, config, steps_done))
        for name in names
    ]


def _known_id(run_dir: Path, name: str, make: Callable[[], str]) -> str:
    """Return the id that a service knows the run by, written down when it was first opened."""
    path = run_dir / "loggers" / f"{name}.json"
    if path.is_file():
        return str(read_json(path)["id"])
    known = make()
    write_json(path, {"id": known})
    return known
