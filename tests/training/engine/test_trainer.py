import dataclasses
import json
import re
import shutil
import signal
import threading

import pytest
import torch

from tests.support.command_line import exit_code_of
from tests.support.object_stores import OF_S3_CLIENTS, copy_into
from tests.support.shard_set import TINY, write_shard_set
from training.config.presets import resolve_config
from training.distributed.world import World
from training.engine.checkpoint import read_state
from training.engine.checkpoint_files import checkpoint_dir
from training.engine.metrics import MetricsLog, read_metrics
from training.nan_replay import replay
from training.pretrain import pretrain
from wtours.errors import CheckpointError, TrainingError, UsageError, WtoursError
from wtours.shards import ShardIndex
from wtours.shards.schema import set_sha256
from wtours.storage.locks import lock
from wtours.storage.receipts import record_file

WORLD = World(0, 1, 0, torch.device("cpu"))
pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shard_set(tmp_path_factory.mktemp("pretrain") / "shards")


def train(shards, run_dir, *overrides, **options):
    config = resolve_config("official", None, [*TINY, *overrides])
    return pretrain(config, shards_dir=shards, run_dir=run_dir, world=WORLD, **options)


def computed(run_dir):
    """The metrics without what the clock gave."""
    return [
        {name: value for name, value in line.items() if name != "time"}
        for line in read_metrics(run_dir / "metrics.jsonl")
    ]


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(shards, run_dir)
    return run_dir


def test_a_run_leaves_its_config_a_line_a_step_and_the_newest_checkpoints(undisturbed):
    lines = computed(undisturbed)
    assert [line["step"] for line in lines] == list(range(1, 13))
    for line in lines:  # 4 clips of 3 frames, width 48
        assert 0 < line["embedding_spread"] < 1
        assert 0 <= line["mask_overlap"] <= 1
    assert [line["step"] for line in lines if "effective_rank" in line] == [10]
    assert 1 <= lines[9]["effective_rank"] <= 12
    names = {path.name for path in (undisturbed / "checkpoints").iterdir()}
    assert names == {"step-00000008", "step-00000012"}
    config = resolve_config("official", undisturbed / "config.yaml", [])
    assert config == resolve_config("official", None, [*TINY, "optim.precision=float32"])
    assert read_state(checkpoint_dir(undisturbed, 12))[0] == 12
    assert list((undisturbed / "tensorboard").glob("events.*"))


class Interrupted(Exception):
    pass


def stop_at(step):
    def interrupt(status):
        if status.step == step:
            raise Interrupted

    return interrupt


def test_a_run_that_dies_between_checkpoints_ends_as_if_it_had_not(shards, undisturbed, tmp_path):
    run_dir = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(shards, run_dir, on_step=stop_at(6))
    assert [line["step"] for line in computed(run_dir)] == [1, 2, 3, 4, 5, 6]
    report = train(shards, run_dir)
    assert (report.started_at_step, report.steps) == (4, 12)
    assert computed(run_dir) == computed(undisturbed)
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        ours, theirs = (checkpoint_dir(run, 12) / name for run in (run_dir, undisturbed))
        assert ours.read_bytes() == theirs.read_bytes()


def test_resuming_passes_over_a_damaged_checkpoint_and_still_ends_the_same(
    shards, undisturbed, tmp_path, caplog
):
    run_dir = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(shards, run_dir, on_step=stop_at(9))
    model = checkpoint_dir(run_dir, 8) / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    report = train(shards, run_dir)
    assert report.started_at_step == 4
    assert "step-00000008 is skipped: model.safetensors has" in caplog.text
    assert computed(run_dir) == computed(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.SIG_DFL])  # ignored: `cmd &` in a script
def test_a_signal_ends_the_step_and_saves(shards, undisturbed, tmp_path, number, before):
    run_dir = tmp_path / "run"
    before = signal.signal(number, before)
    try:
        report = train(
            shards, run_dir,
            on_step=lambda now: signal.raise_signal(number) if now.step == 5 else None,
        )  # fmt: skip
    finally:
        signal.signal(number, before)
    assert report.stopped_by == number
    assert report.steps == 6
    assert report.describe() == "stopped at step 6, checkpoint saved; rerun to resume"
    assert report.checkpoint.is_dir()
    train(shards, run_dir)
    assert computed(run_dir) == computed(undisturbed)


def test_a_signal_in_the_last_step_leaves_a_run_that_is_done(shards, tmp_path):
    report = train(
        shards, tmp_path / "run", "optim.steps=2",
        on_step=lambda now: signal.raise_signal(signal.SIGTERM) if now.step == 1 else None,
    )  # fmt: skip
    assert (report.stopped_by, report.steps) == (None, 2)
    assert report.describe() == f"trained to step 2: {report.checkpoint}"


def checkpoints_of(run_dir):
    return [int(path.name.removeprefix("step-")) for path in (run_dir / "checkpoints").iterdir()]


def test_checkpoints_also_come_by_the_clock_and_some_are_kept_for_good(shards, tmp_path):
    by_steps = ("optim.steps=8", "checkpoint.every_steps=1000", "checkpoint.keep_last=2")
    train(shards, tmp_path / "clock", *by_steps, "checkpoint.every_minutes=1e-9")
    assert sorted(checkpoints_of(tmp_path / "clock")) == [7, 8]
    train(shards, tmp_path / "kept", *by_steps, "checkpoint.keep_every=3")
    assert sorted(checkpoints_of(tmp_path / "kept")) == [3, 6, 8]
    train(shards, tmp_path / "steps", *by_steps, "checkpoint.every_minutes=null")
    assert checkpoints_of(tmp_path / "steps") == [8]


def test_running_a_finished_run_again_does_nothing_and_says_so(shards, undisturbed):
    before = {p: p.stat().st_mtime_ns for p in (undisturbed / "checkpoints").rglob("*")}
    report = train(shards, undisturbed)
    assert report.describe().startswith("nothing to do, all 12 steps are done")
    assert before == {p: p.stat().st_mtime_ns for p in (undisturbed / "checkpoints").rglob("*")}


def test_another_config_is_refused_by_name_unless_forced(shards, undisturbed, caplog):
    with pytest.raises(CheckpointError, match=r"local_crops was 3, now 4; optim.lr was 0.001, now"):
        train(shards, undisturbed, "optim.lr=0.5", "data.local_crops=4")
    many = [f"loss.{name}=0.5" for name in ("student_temp", "center_momentum")]
    many += [f"optim.{name}=0.5" for name in ("lr", "weight_decay", "momentum", "clip_grad")]
    with pytest.raises(CheckpointError) as refused:
        train(shards, undisturbed, *many)
    assert len(re.findall(r"\w was [^;]+, now ", str(refused.value))) == 5
    assert "; and 1 more. Use the same ones, choose another name with --run" in str(refused.value)
    with pytest.raises(CheckpointError, match="is a run at step 12; choose another run"):
        train(shards, undisturbed, resume="never")
    assert train(shards, undisturbed, "optim.lr=0.5", resume="force").started_at_step == 12
    free = ("data.num_workers=1", "checkpoint.keep_last=5")
    assert train(shards, undisturbed, *free).started_at_step == 12


def copy_at(undisturbed, folder, step):
    """Return a copy of the run as it was after a step that it has a checkpoint of."""
    run = folder / "run"
    shutil.copytree(undisturbed, run)
    for path in (run / "checkpoints").iterdir():
        if path != checkpoint_dir(run, step):
            shutil.rmtree(path)
    return run


def test_another_batch_goes_on_in_the_stream_where_the_run_stood(shards, undisturbed, tmp_path):
    run = copy_at(undisturbed, tmp_path, 8)
    train(shards, run, "optim.global_batch_size=2", "optim.steps=11", resume="force")
    state = json.loads((checkpoint_dir(run, 11) / "state.json").read_text())
    assert state["next_position"] == 8 * 4 + 3 * 2
    broken = copy_at(undisturbed, tmp_path / "broken", 8)
    overflow = ("optim.global_batch_size=2", "optim.lr=1e30", "optim.warmup_epochs=0")
    with pytest.raises(TrainingError, match="not finite at step 10"):
        train(shards, broken, *overflow, resume="force")
    listed = json.loads((broken / "nonfinite-step-10.json").read_text())
    assert [clip["position"] for clip in listed["clips"]] == [34, 35]


def test_another_optimizer_begins_without_moments(shards, tmp_path, caplog):
    run, by_lars = tmp_path / "run", ("optim.name=lars", "optim.steps=2")
    train(shards, run, *by_lars)
    report = train(shards, run, "optim.steps=4", resume="force")
    assert (report.started_at_step, report.steps) == (2, 4)
    assert "the moments of lars are of no use to adamw, which begins without" in caplog.text
    assert all(line["gradient_norm"] > 0 for line in computed(run))


@pytest.mark.parametrize(("lr", "is_said"), [("5e-4", True), ("1e-3", False)])
def test_a_peak_below_the_rate_of_the_end_is_said(shards, tmp_path, caplog, lr, is_said):
    overrides = ("optim.steps=1", "optim.lr_clips=256", f"optim.lr={lr}")  # for 4 clips a step
    train(shards, tmp_path / "run", *overrides)
    said = "rises from its peak of 7.8e-06, for 4 clips in a step, to optim.min_lr, 1e-05"
    assert (said in caplog.text) == is_said


def test_a_run_of_no_step_is_refused_and_not_taken_for_a_finished_one(shards, tmp_path):
    overrides = ("optim.steps=null", "optim.epochs=0.05", "optim.warmup_epochs=0")
    with pytest.raises(TrainingError, match="is less than a step, of which an epoch has"):
        train(shards, tmp_path / "run", *overrides)


@pytest.mark.parametrize("is_said", [True, False])
def test_what_comes_to_no_step_of_a_short_run_is_said(shards, tmp_path, caplog, is_said):
    overrides = (
        f"optim.warmup_epochs={4 if is_said else 2}",
        f"optim.freeze_last_layer_epochs={4 if is_said else 2}",
        f"watch.overlay_every_steps={3 if is_said else 2}",
        f"watch.profile_steps=[{3 if is_said else 2}, 9]",
    )
    train(shards, tmp_path / "run", "optim.steps=2", "watch.overlay_clips=1", *overrides)
    for said in (
        "the learning rate only rises: its warm-up (optim.warmup_epochs=4) takes all of the run's 2"
        " steps (4 epochs)",
        "the head's last layer is never trained: optim.freeze_last_layer_epochs=4 takes all of",
        "watch.overlay_every_steps=3 never comes",
        "watch.profile_steps=3 never comes",
    ):
        assert (said in caplog.text) == is_said


def test_a_head_of_another_size_is_one_line_that_says_what_would_do(shards, undisturbed, tmp_path):
    run = copy_at(undisturbed, tmp_path, 8)
    with pytest.raises(CheckpointError) as refusal:
        train(shards, run, "model.num_prototypes=32", resume="force")
    assert "(64, 256) and (32, 256)" in str(refusal.value) or "(64,) and (32,)" in str(
        refusal.value
    )
    assert f"begin another run with --set model.init={run}" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_another_shard_set_is_refused_by_its_hash(shards, undisturbed, tmp_path):
    other = write_shard_set(tmp_path / "other", num_frames=20)
    sets = [set_sha256(ShardIndex.open(place).dataset.shards) for place in (shards, other)]
    with pytest.raises(CheckpointError, match=f"set hash {sets[0]}, now {sets[1]}"):
        train(other, undisturbed)


def test_a_checkpoint_older_than_the_set_hash_resumes_and_is_held_to_its_index(
    shards, undisturbed, tmp_path
):
    run_dir = tmp_path / "older"
    shutil.copytree(undisturbed, run_dir)
    checkpoint = checkpoint_dir(run_dir, 12)
    state = json.loads((checkpoint / "state.json").read_text())
    del state["data"]["set_sha256"]
    (checkpoint / "state.json").write_text(json.dumps(state))
    names = ("model.safetensors", "optimizer.safetensors", "state.json")
    files = [record_file(checkpoint / name, relative_to=checkpoint).model_dump() for name in names]
    (checkpoint / "receipt.json").write_text(json.dumps({"format": 1, "files": files}))
    assert train(shards, run_dir).started_at_step == 12
    other = write_shard_set(tmp_path / "other", num_frames=20)
    with pytest.raises(CheckpointError, match=r"another index \(22 clips, now 18\)"):
        train(other, run_dir)


def test_a_run_in_use_is_refused(shards, undisturbed):
    with (
        lock(undisturbed / ".lock", what="the run"),
        pytest.raises(WtoursError, match="is in use by process"),
    ):
        train(shards, undisturbed)


def test_a_loss_that_is_not_finite_stops_before_a_weight_moves_and_is_replayed(
    shards, tmp_path, capsys, monkeypatch
):
    run_dir = tmp_path / "run"
    overflow = ("optim.lr=1e30", "optim.warmup_epochs=0", "checkpoint.every_steps=1")
    with pytest.raises(TrainingError, match=r"not finite at step 2 .*no weight was changed"):
        train(shards, run_dir, *overflow)
    listing = run_dir / "nonfinite-step-2.json"
    listed = json.loads(listing.read_text())
    assert [clip["position"] for clip in listed["clips"]] == [4, 5, 6, 7]
    assert listed["clips"][0]["video_id"] == "street"
    assert (listed["seed"], listed["world_size"]) == (0, 1)
    assert [line["step"] for line in computed(run_dir)] == [1]
    assert read_state(checkpoint_dir(run_dir, 1))[0] == 1
    assert not checkpoint_dir(run_dir, 2).exists()

    again = replay(listing, shards, WORLD)
    assert again.step == 2
    for name, value in listed["metrics"].items():
        assert str(again.metrics[name]) == str(value), name
    # Weights of some 1e30 overflow in the first product.
    assert again.first == "the output of teacher.backbone.blocks.0.norm1"
    for command in (
        ["replay", listing, "--shards", shards],
        ["pretrain", shards, "--replay", listing],
    ):
        assert exit_code_of(monkeypatch, *command) == 0
        assert "step 2 again: loss nan (it was nan)" in capsys.readouterr().out
    assert exit_code_of(monkeypatch, "replay", run_dir / "nonfinite-step-9.json") == 1


def test_a_replay_wants_the_shards_and_the_state_of_the_run(shards, tmp_path):
    run_dir = tmp_path / "run"
    with pytest.raises(TrainingError, match="wtours replay"):
        train(shards, run_dir, "optim.lr=1e30", "optim.warmup_epochs=0")
    listing = run_dir / "nonfinite-step-2.json"
    other = write_shard_set(tmp_path / "other", num_frames=20)
    with pytest.raises(CheckpointError, match="is not the shard set"):
        replay(listing, other, WORLD)
    (run_dir / "nonfinite-step-2" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        replay(listing, shards, WORLD)


def test_drop_path_and_bfloat16_are_resumed_to_the_bit_too(shards, tmp_path):
    changes = (
        "model.drop_path_rate=0.3", "optim.precision=bfloat16", "optim.steps=6",
        "model.head_batch_norm=true", "loss.teacher_centering=sinkhorn",
    )  # fmt: skip
    train(shards, tmp_path / "a", *changes)
    with pytest.raises(Interrupted):
        train(shards, tmp_path / "b", *changes, on_step=stop_at(5))
    train(shards, tmp_path / "b", *changes)
    assert computed(tmp_path / "a") == computed(tmp_path / "b")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tracking.num_objects=4", r"num_objects \(4\) must not be above .* 3 attention heads"),
        ("data.local_crop_pixels=20", r"local_crop_pixels \(20\) must be a multiple .* \(8\)"),
        ("model.backbone=vit_huge_wrong", "timm has no model"),
    ],
)
def test_a_config_that_does_not_fit_the_model_is_a_usage_error(shards, tmp_path, override, message):
    with pytest.raises(UsageError, match=message):
        train(shards, tmp_path / "run", override)
    assert not (tmp_path / "run").exists()


def test_the_command_says_one_line_and_the_exit_code(shards, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WTOURS_PROGRESS_SECONDS", "0")
    pairs = [part for pair in (*TINY, "optim.steps=3") for part in ("--set", pair)]
    command = ["pretrain", shards, "--run", tmp_path / "run", *pairs]
    assert exit_code_of(monkeypatch, *command, "--set", "optim.step=5") == 2
    assert capsys.readouterr().err.startswith("error: unknown config key 'optim.step'; did you")
    assert exit_code_of(monkeypatch, *command, "--set", "optim.global_batch_size=99") == 1
    said = capsys.readouterr().err
    assert "does not fill a batch of 99: --set optim.global_batch_size=" in said
    assert "or less, --set data.clips_per_epoch=99 or more" in said
    assert exit_code_of(monkeypatch, *command) == 0
    said = capsys.readouterr()
    assert "trained to step 3" in said.out
    lines = [line for line in said.err.splitlines() if line.startswith("run: step ")]
    assert [line.partition(" · loss ")[0] for line in lines] == [
        f"run: step {step} of 3" for step in (1, 2, 3)
    ]


def test_metrics_after_the_resumed_step_and_a_torn_last_line_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "lo')
    with MetricsLog(tmp_path, steps_done=1) as log:
        log.write(2, {"loss": 2.5}, time={"seconds": 1.0})
        log.sync()
        log.write(3, {"loss": 2.4}, time={"seconds": 1.0})
    assert [line["loss"] for line in read_metrics(path)] == [3.0, 2.5, 2.4]
    assert [line.get("time", {}) for line in read_metrics(path)] == [
        *({}, {"seconds": 1.0, "resumed_from": 1}, {"seconds": 1.0}),
    ]


def test_it_runs_outside_the_main_thread(shards, tmp_path):
    reports = []
    thread = threading.Thread(
        target=lambda: reports.append(train(shards, tmp_path / "run", "optim.steps=1"))
    )
    thread.start()
    thread.join()
    assert dataclasses.asdict(reports[0]) == {
        "checkpoint": checkpoint_dir(tmp_path / "run", 1),
        "started_at_step": 0,
        "steps": 1,
        "stopped_by": None,
    }


def test_clips_that_may_cross_cuts_are_said(shards, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("wtours.shards.ShardIndex.shots_known", False)
    train(shards, tmp_path / "run", "optim.steps=1")
    assert "some videos are not analyzed: their clips may go over cuts" in caplog.text


@OF_S3_CLIENTS
def test_a_bucket_gives_the_very_run_that_the_disk_gives(
    undisturbed, shards, s3_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("WTOURS_SCRATCH", str(tmp_path / "scratch"))
    copy_into(s3_folder, shards)
    workers = "data.num_workers=2"
    with pytest.raises(Interrupted):
        train(s3_folder, tmp_path / "run", workers, on_step=stop_at(5))
    train(s3_folder, tmp_path / "run", workers)
    assert computed(tmp_path / "run") == computed(undisturbed)
