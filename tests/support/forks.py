"""Functions in processes of their own: forks of a clean process, which has imported nearly all."""

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any

HANGS_FOR_EVER = 600


def fork(function: Callable[..., object], *arguments: Any) -> ForkServerProcess:
    """Start a function of a module in a fork; tests/conftest.py says of what."""
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_with_ctrl_c, args=(function, *arguments))
    process.start()
    return process


def _with_ctrl_c(function: Callable[..., object], *arguments: Any) -> None:
    # A pool of wtours, where it starts the clean process, keeps Ctrl-C from it and from its forks.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    function(*arguments)


def exit_code_of_fork(function: Callable[..., object], *arguments: Any) -> int | None:
    """Return how a function of a module has ended in a fork: -9 is SIGKILL."""
    process = fork(function, *arguments)
    process.join(HANGS_FOR_EVER)
    return process.exitcode
