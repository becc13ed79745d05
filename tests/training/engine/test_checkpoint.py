import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.shard_set import TINY
from training.config.presets import resolve_config
from training.data.source import DataIdentity
from training.distributed.world import World
from training.engine.checkpoint import (
    load_network,
    load_state,
    publish_snapshot,
    read_state,
    save_checkpoint,
    take_snapshot,
)
from training.engine.checkpoint_files import (
    find_checkpoint,
    find_damage,
    newest_checkpoint,
    run_dir_of,
)
from training.engine.optim import moment_device
from training.engine.setup import build_state
from wtours.errors import CheckpointError

CONFIG = resolve_config("official", None, [*TINY, "model.head_batch_norm=true"])
WORLD = World(0, 1, 0, torch.device("cpu"))
DATA = DataIdentity("0" * 64, 22)


def trained_state(step=4):
    """A state after one optimizer step on arbitrary gradients."""
    state = build_state(CONFIG, WORLD)
    generator = torch.Generator().manual_seed(step)
    for parameter in state.method.student.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    for group in state.optimizer.param_groups:
        group["lr"] = 0.01
    state.optimizer.step()
    state.method.center = torch.randn(CONFIG.model.num_prototypes, generator=generator)
    state.step = step
    return state


def save(run_dir, step, keep_last=9):
    return save_checkpoint(
        run_dir, trained_state(step), config=CONFIG, data=DATA, keep_last=keep_last
    )


def test_what_is_loaded_is_what_was_saved(tmp_path):
    saved = trained_state()
    path = save_checkpoint(tmp_path, saved, config=CONFIG, data=DATA, keep_last=2)
    loaded = build_state(CONFIG, WORLD)
    load_state(path, loaded)
    assert loaded.step == 4
    assert read_state(path) == (4, CONFIG, DATA)
    for ours, theirs in (
        (loaded.method.state_dict(), saved.method.state_dict()),
        (loaded.optimizer.state_dict()["state"], saved.optimizer.state_dict()["state"]),
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    names = {"student.head.mlp.1.running_mean", "teacher.backbone.pos_embed", "center"}
    assert names <= set(load_file(path / "model.safetensors"))


@pytest.mark.parametrize("fused", [False, True])
def test_moments_are_put_where_torch_puts_them(fused):
    # On CUDA the fused kernel refuses a count of steps on the CPU. "meta" is a device as well.
    weight = torch.nn.Parameter(torch.empty(2, device="meta"))
    optimizer = torch.optim.AdamW([weight], fused=fused)
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: moments}})
    for name, value in optimizer.state[weight].items():
        assert moment_device(optimizer, weight, name) == value.device, name
    assert optimizer.state[weight]["step"].device.type == ("meta" if fused else "cpu")


def test_a_checkpoint_is_safetensors_and_json_and_the_same_state_gives_the_same_bytes(tmp_path):
    first, second = save(tmp_path / "a", 4), save(tmp_path / "b", 4)
    files = sorted(path.name for path in first.iterdir())
    assert files == ["model.safetensors", "optimizer.safetensors", "receipt.json", "state.json"]
    for name in files:
        data = (first / name).read_bytes()
        assert data == (second / name).read_bytes()
        # A safetensors file begins with the length of a JSON header; neither that nor JSON runs.
        header = data[8 : 8 + int.from_bytes(data[:8], "little")] if "safe" in name else data
        json.loads(header)


def test_a_run_neither_reads_nor_writes_pickle():
    for path in (Path(__file__).resolve().parents[3] / "training").rglob("*.py"):
        text = path.read_text()
        if path.name in ("export.py", "files.py"):  # for, and from, the released code
            assert text.count("torch.load(") == text.count("weights_only=True)")
            continue
        for call in ("torch.save", "torch.load", "import pickle", "broadcast_object", "dill"):
            assert call not in text, f"{path.name}: {call}"


def test_the_networks_come_back_for_evaluation(tmp_path):
    saved = trained_state()
    path = save_checkpoint(tmp_path, saved, config=CONFIG, data=DATA, keep_last=2)
    method = saved.method
    networks = {"teacher": method.teacher, "student": method.student, None: method.teacher}
    for which, network in networks.items():
        config, loaded = load_network(path, which)
        assert config == CONFIG
        assert not loaded.training
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
        torch.testing.assert_close(loaded.state_dict(), network.state_dict(), rtol=0, atol=0)


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda c: flip_a_bit(c / "model.safetensors"), "sha256 differs"),
        (lambda c: (c / "optimizer.safetensors").write_bytes(b""), "0 bytes instead of"),
        (lambda c: (c / "state.json").unlink(), "state.json is missing"),
        (lambda c: (c / "receipt.json").unlink(), "receipt.json is missing"),
        (lambda c: (c / "receipt.json").write_text('{"form'), "receipt.json cannot be read"),
        (lambda c: (c / "receipt.json").write_text("[]"), "receipt.json cannot be read"),
        (lambda c: (c / "receipt.json").write_text('{"format": 2}'), "format 2"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, caplog, harm, message):
    older, newer = save(tmp_path, 4), save(tmp_path, 8)
    harm(newer)
    assert message in (find_damage(newer) or "")
    assert newest_checkpoint(tmp_path) == older
    assert f"{newer} is skipped" in caplog.text
    assert find_checkpoint(tmp_path) == older
    with pytest.raises(CheckpointError, match="is damaged"):
        find_checkpoint(newer)


def test_the_run_of_a_checkpoint_is_named_as_the_checkpoint_was(tmp_path, monkeypatch):
    checkpoints = tmp_path / "runs" / "walk" / "checkpoints"
    checkpoints.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert run_dir_of(Path("runs/walk/checkpoints/step-00000004")) == Path("runs/walk")
    assert run_dir_of(checkpoints / "step-00000004") == checkpoints.parent
    assert run_dir_of(Path("step-00000004")) == Path("step-00000004")  # it lies outside a run
    for folder, text in (
        (checkpoints, "step-00000004"),
        (checkpoints.parent, "checkpoints/step-4"),
    ):
        monkeypatch.chdir(folder)
        assert run_dir_of(Path(text)) == checkpoints.parent  # which has a name


def test_a_save_replaces_a_damaged_checkpoint_of_its_step(tmp_path):
    flip_a_bit(save(tmp_path, 4) / "model.safetensors")
    assert find_damage(save(tmp_path, 4)) is None


def test_only_the_newest_are_kept_and_temporary_ones_are_not_counted(tmp_path):
    (tmp_path / "checkpoints" / ".tmp-1-step-00000099").mkdir(parents=True)
    for step in (4, 8, 12):
        save(tmp_path, step, keep_last=2)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {".tmp-1-step-00000099", "step-00000008", "step-00000012"}


def test_a_snapshot_does_not_change_with_the_state_it_is_of(tmp_path):
    state = trained_state()
    snapshot = take_snapshot(state, config=CONFIG, data=DATA)
    with torch.no_grad():
        for parameter in state.method.student.parameters():
            parameter.zero_()
    state.optimizer.state[next(state.method.student.parameters())]["exp_avg"].zero_()
    publish_snapshot(snapshot, tmp_path / "step-00000004")
    expected = save(tmp_path / "same", 4)
    for path in expected.iterdir():
        assert (tmp_path / "step-00000004" / path.name).read_bytes() == path.read_bytes()


def test_a_folder_without_a_checkpoint_says_what_makes_one(tmp_path):
    with pytest.raises(CheckpointError, match="is not there; give a run's folder"):
        find_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match="has no whole checkpoint; `wtours pretrain` writes"):
        find_checkpoint(tmp_path)


def test_a_config_of_another_version_is_named(tmp_path):
    path = save(tmp_path, 4)
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    state = json.loads((copy / "state.json").read_text())
    state["config"]["optim"]["nesterov"] = True
    (copy / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=r"another version .* optim.nesterov"):
        read_state(copy)
