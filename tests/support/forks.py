"""Functions in processes of their own: forks of a clean process, which has imported nearly all."""

import multiprocessing
from collections.abc import Callable
from typing import Any

HANGS_FOR_EVER = 600


def exit_code_of_fork(function: Callable[..., object], *arguments: Any) -> int | None:
    """Run a function of a module in a fork; return how it ended: -9 is SIGKILL.

    tests/conftest.py says what the forks come from.
    """
    process = multiprocessing.get_context("forkserver").Process(target=function, args=arguments)
    process.start()
    process.join(HANGS_FOR_EVER)
    return process.exitcode
