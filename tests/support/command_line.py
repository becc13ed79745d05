"""The command line as a user meets it: in a process of its own, or quicker in this one."""

import io
import logging
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from wtours.cli import console
from wtours.cli.app import main

SCRIPT, TORCHRUN = (str(Path(sys.executable).with_name(name)) for name in ("wtours", "torchrun"))


def torchrun(processes: int, *words: str | Path) -> list[str]:
    """Return the command that starts a program in several processes."""
    launcher = (TORCHRUN, "--standalone", "--no-python", "--nproc-per-node", str(processes))
    # Without "--" torchrun takes our --run for its own --run-path, up to Python 3.12.
    return [*launcher, "--", *map(str, words)]


def wtours(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return subprocess.run(
        [SCRIPT, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100", "TERM": "dumb", **environment},
        check=False,
    )


def run_here(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in this process: quicker by the imports, torch's above all."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("COLUMNS", "200")
        for stream in (console.out, console.err):  # on a dumb terminal, as xdist's, 80 since import
            patch.setattr(stream, "_width", 200)
        code = exit_code_of(patch, *words)
    assert isinstance(code, int | None), code
    return subprocess.CompletedProcess(words, code or 0, out.getvalue(), err.getvalue())


def exit_code_of(monkeypatch, *words: str | Path) -> str | int | None:
    """Run a command in this process; `capsys` has what it says."""
    before = signal.getsignal(signal.SIGTERM)
    handlers, level = list(logging.root.handlers), logging.root.level
    of_training = logging.getLogger("training")
    level_of_training = of_training.level
    monkeypatch.setattr(sys, "argv", ["wtours", *map(str, words)])
    try:
        main()
    except SystemExit as end:
        return end.code
    finally:
        signal.signal(signal.SIGTERM, before)
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
        of_training.setLevel(level_of_training)
