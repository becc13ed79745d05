"""An address at which there is no cluster: one line, at once."""

import socket

import pytest

from wtours.cli.options import ExecutorKind, executor_of
from wtours.errors import UsageError, WtoursError
from wtours.execution.ray import RayExecutor
from wtours.workspace.layout import Layout

pytest.importorskip("ray")


def test_an_address_without_a_cluster_is_one_line():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(WtoursError, match=f"no Ray cluster at {address} .*start one") as caught:
        RayExecutor(address).__enter__()
    assert "\n" not in str(caught.value)


def test_an_address_without_ray_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="--address auto needs --executor ray"):
        executor_of(ExecutorKind.PROCESSES, 1, "auto", Layout(tmp_path))
