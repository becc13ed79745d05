"""What the environment says of other processes, and what is wrong with it."""

import pytest

from tests.support.command_line import SCRIPT, torchrun
from tests.support.forked_ranks import forked
from training.distributed.launch import joined_world
from wtours.errors import UsageError


def test_without_an_environment_there_is_one_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with joined_world() as world:
        assert (world.rank, world.world_size) == (0, 1)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "without MASTER_ADDR and MASTER_PORT: start several"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "::1"}, "without MASTER_PORT: start"),
        ({"RANK": "1"}, "RANK=1 and WORLD_SIZE=1 do not fit: start several processes by torchrun"),
    ],
)
def test_half_an_environment_is_one_line(monkeypatch, environment, message):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message), joined_world():
        pass


def test_torchrun_starts_the_console_script_and_the_first_of_its_processes_prints(tmp_path):
    program, *words = torchrun(2, SCRIPT, "list", "--json", "--root", tmp_path)
    said = tmp_path / "said.txt"
    with forked(*words, output=said, program=program, OMP_NUM_THREADS="1") as process:
        assert '"amsterdam"' in process.end()
    assert process.exitcode == 0
    assert said.read_text().count('"amsterdam"') == 1
