"""SIGKILL before each write, fsync and rename while a checkpoint is saved and an old one purged."""

import itertools
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from tests.support.faulty_disk import KILL, faulty_disk
from tests.support.forks import exit_code_of_fork
from tests.support.sharded_videos import files_of
from tests.support.tiny_run import ONE_PROCESS, make_run, tiny_config
from training.data.source import DataIdentity
from training.engine.checkpoint import save_checkpoint
from training.engine.checkpoint_files import find_damage, newest_checkpoint
from training.engine.setup import build_state
from wtours.storage.atomic import sweep


def kill_saves(folder: Path, said: Path) -> None:
    """Kill a fork at each operation of a save; write a line of what it has left, and of a rerun."""
    torch.set_num_threads(1)  # no threads, where this process is forked
    config = tiny_config("model.head_hidden_dim=32")
    begun, undisturbed = make_run(folder / "begun", config), folder / "undisturbed"
    state = build_state(config, ONE_PROCESS)
    state.step = 140

    def save(run: Path) -> None:
        save_checkpoint(run, state, config=config, data=DataIdentity("0" * 64, 1), keep_last=1)

    shutil.copytree(begun, undisturbed)
    save(undisturbed)
    lines: list[str] = []
    for number in itertools.count():
        run = Path(shutil.copytree(begun, folder / str(number)))
        child = os.fork()
        if not child:
            with faulty_disk(run, number, KILL):
                save(run)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = list((run / "checkpoints").glob("step-*"))
        damage = [find_damage(path) for path in found]
        newest = newest_checkpoint(run)
        sweep(run / "checkpoints")
        save(run)
        same = files_of(run) == files_of(undisturbed)
        lines.append(json.dumps([status, damage, newest and newest.name, same]))
        shutil.rmtree(run)
        if not status:
            break
    said.write_text("\n".join(lines))


@pytest.mark.medium
def test_whenever_it_is_killed_whole_checkpoints_are_there_and_no_others(tmp_path):
    said = tmp_path / "said.txt"
    assert exit_code_of_fork(kill_saves, tmp_path / "runs", said) == 0
    *killed, last = [json.loads(line) for line in said.read_text().splitlines()]
    assert len(killed) > 15
    assert {status for status, *_ in killed} == {-9}
    assert last[0] == 0
    for _, damage, newest, same in [*killed, last]:
        assert set(damage) == {None}
        assert newest in ("step-00000120", "step-00000140")
        assert same
    assert len({newest for _, _, newest, _ in killed}) == 2  # before the save, and after it
