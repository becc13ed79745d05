"""Commands of `training` in processes of their own, quicker by the seconds that its imports take.

They are forks of a clean process that has imported it (tests/conftest.py), as the loader's workers
are.
"""

import os
import runpy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exports it all the same

from tests.support.command_line import SCRIPT

HANGS_FOR_EVER = 600
_SERVER = getattr(forkserver, "_forkserver")  # noqa: B009
_PLACE = ("_forkserver_address", "_forkserver_authkey")  # a key from Python 3.14 on


class Forked(ForkServerProcess):
    """A command, with what it says in a file."""

    def __init__(
        self, words: list[str], output: Path, environment: Mapping[str, str], program: str
    ) -> None:
        everything = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment}
        forkserver.ensure_running()
        server = {name: vars(_SERVER).get(name) for name in _PLACE}
        arguments = (words, output, everything, program, server)
        super().__init__(target=_run, args=arguments, daemon=False)
        self.output = output

    def send(self, number: int) -> None:
        """Send it a signal."""
        assert self.pid is not None
        os.kill(self.pid, number)

    def end(self) -> str:
        """Return what it said until its end; the bound is for what would never end."""
        self.join(HANGS_FOR_EVER)
        said = self.output.read_text()
        assert self.exitcode is not None, said
        return said


def _run(
    words: list[str],
    output: Path,
    environment: Mapping[str, str],
    program: str,
    server: Mapping[str, Any],
) -> None:
    # The loader's workers are forks of that process too, not of one that each rank starts.
    vars(_SERVER).update(server)
    for place in (_SERVER, forkserver):
        setattr(place, "ensure_running", lambda: None)  # noqa: B010
    said = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(said, stream)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.argv = [program, *words]
    runpy.run_path(program, run_name="__main__")


@contextmanager
def forked(
    *words: str | Path, output: Path, program: str | Path = SCRIPT, **environment: str
) -> Iterator[Forked]:
    """Start a command; kill it if the test ends before it does.

    Args:
        words: After the program.
        output: A file for what it says.
        program: A Python file; by default the script `wtours`.
        environment: On top of this process's.
    """
    process = Forked([*map(str, words)], output, environment, str(program))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


@contextmanager
def forked_ranks(
    *words: str | Path, folder: Path, program: str | Path = SCRIPT
) -> Iterator[tuple[Forked, Forked]]:
    """Start a command on two ranks with the environment and the store that torchrun gives them.

    What torchrun does when one of them fails, ending the other, does not happen.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        **{"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "0"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)},
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    folder.mkdir(exist_ok=True)

    def rank(number: str):
        return forked(
            *words, output=folder / f"rank-{number}.txt", program=program,
            RANK=number, LOCAL_RANK=number, **shared,
        )  # fmt: skip

    with rank("0") as first, rank("1") as second:
        yield first, second
