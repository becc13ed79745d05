"""`watch.loggers`: W&B offline, MLflow in files; the same run when resumed; faults said once."""

import json
import threading

import pytest
from PIL import Image

from tests.support.tiny_run import tiny_config
from training.engine import loggers
from training.engine.loggers import BackgroundLogger, open_loggers
from training.engine.metrics import MetricsLog, read_metrics
from wtours.errors import UsageError

TIME = {"seconds": 0.5}


def log_steps(run_dir, first: int, last: int, *names) -> None:
    config = tiny_config()
    shown = open_loggers(names, run_dir, config, steps_done=first - 1)
    with MetricsLog(run_dir, steps_done=first - 1, loggers=shown) as log:
        for step in range(first, last + 1):
            image = {"attention/a": Image.new("RGB", (8, 8))}
            log.write(step, {"loss": 1 / step, **image}, time=TIME)
        log.sync()


@pytest.mark.medium
def test_a_resumed_run_is_the_same_run_of_mlflow(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    log_steps(tmp_path, 1, 2, "mlflow")
    log_steps(tmp_path, 2, 3, "mlflow")  # step 2 was undone by a crash
    client = MlflowClient(tracking_uri=(tmp_path / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("wtours")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")]
    assert sorted(set(steps)) == [1, 2, 3]
    assert (run.info.run_name, run.info.status) == (tmp_path.name, "FINISHED")
    assert run.data.params["model.num_prototypes"] == "16"
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.medium
def test_a_resumed_run_is_the_same_run_of_wandb(tmp_path, monkeypatch):
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    log_steps(tmp_path, 1, 2, "wandb")
    log_steps(tmp_path, 3, 3, "wandb")
    known = json.loads((tmp_path / "loggers" / "wandb.json").read_text())["id"]
    files = sorted(path.name for path in tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert files == [f"run-{known}.wandb"] * 2


@pytest.mark.medium
def test_a_service_that_cannot_be_reached_is_said_once_and_stops_nothing(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    log_steps(tmp_path, 1, 5, "mlflow", "tensorboard")
    said = [r.getMessage() for r in caplog.records if r.name == loggers.__name__]
    (line,) = said
    assert line.startswith("mlflow shows nothing more of this run")
    assert line.endswith("training goes on")
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 5
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_logger_that_hangs_holds_nothing_up(monkeypatch, caplog):
    monkeypatch.setattr(loggers, "_CLOSE_SECONDS", 0.1)
    never = threading.Event()

    def hang():
        never.wait()
        raise AssertionError

    logger = BackgroundLogger("slow", hang)
    logger.write(1, {"loss": 1.0})
    logger.close()
    assert "slow shows nothing more of this run (it did not end in" in caplog.text
    never.set()


def test_loggers_are_named_as_a_list_or_as_people_type_them():
    assert tiny_config().watch.loggers == ("tensorboard",)
    assert tiny_config("watch.loggers=wandb,mlflow").watch.loggers == ("wandb", "mlflow")
    assert tiny_config("watch.loggers=[]").watch.loggers == ()
    with pytest.raises(UsageError, match=r"watch\.loggers"):
        tiny_config("watch.loggers=comet")
