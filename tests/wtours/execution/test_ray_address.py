"""An address at which there is no cluster: one line, at once."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from wtours.cli.options import executor_of
from wtours.errors import UsageError, WtoursError
from wtours.execution.ray import RayExecutor
from wtours.workspace.layout import Layout

pytest.importorskip("ray")
REPOSITORY = Path(__file__).resolve().parents[3]
WITH_TOKEN = """
import sys, ray
ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR")
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
CONNECT = """
import sys
from wtours.execution.ray import RayExecutor
with RayExecutor(sys.argv[1]) as executor:
    assert list(executor.map(str, [1])) == [(1, "1")]
"""


def test_an_address_without_a_cluster_is_one_line():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(WtoursError, match=f"no Ray cluster at {address} .*start one") as caught:
        RayExecutor(address).__enter__()
    assert "\n" not in str(caught.value)


@pytest.mark.medium
def test_a_cluster_that_wants_a_token_says_which_variable_to_set(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    environment["RAY_worker_niceness"] = "0"
    with subprocess.Popen(
        [sys.executable, "-c", WITH_TOKEN],
        env=environment | {"RAY_AUTH_MODE": "token"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as cluster:
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        for mode, code in (("disabled", 1), ("token", 0)):
            ended = subprocess.run(
                [sys.executable, "-c", CONNECT, address],
                env=environment | {"RAY_AUTH_MODE": mode},
                capture_output=True,
                text=True,
            )
            assert ended.returncode == code, ended.stderr
            assert ("export RAY_AUTH_MODE=token" in ended.stderr) == bool(code)
        cluster.communicate("")


def test_an_address_without_ray_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="--address auto needs --executor ray"):
        executor_of("processes", 1, "auto", Layout(tmp_path))
