"""`--executor ray --root s3://…`: machines that have nothing in common but the store."""

import json
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from tests.support.command_line import run_here
from tests.support.object_stores import OF_S3_CLIENTS, copy_into, s3_environment, sha256s
from tests.support.prepared import apart, entries, prepare_options, store_workspace, workspace
from tests.support.prepared import write_walk as write_video
from wtours.execution.ray import RayExecutor
from wtours.prepare.pipeline import prepare_videos
from wtours.storage.object_store import open_store

ray = pytest.importorskip("ray")
from tests.support.ray_nodes import (  # noqa: E402 -- imports Ray
    NODE,
    DisturbedExecutor,
    crash_at_the_second_minute_of_two,
    kill_once_it_works,
    until,
    wait_for_file,
)

pytestmark = [pytest.mark.medium, OF_S3_CLIENTS, pytest.mark.filterwarnings("default")]

VIDEOS = ("one", "two")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster(s3_endpoint, tmp_path_factory):
    """A head without CPUs and two nodes; each has a scratch folder of its own."""
    from ray.cluster_utils import Cluster

    os.environ |= {
        "PYTHONPATH": str(REPOSITORY),
        "RAY_worker_niceness": "0",  # else a busy machine hardly lets them work
        **s3_environment(s3_endpoint),
    }
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
    for _ in range(2):
        add_node(cluster, tmp_path_factory)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def add_node(cluster, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("scratch-of-node-")
    return cluster.add_node(**NODE, env_vars={"WTOURS_SCRATCH": str(scratch)})


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A root on a disk, with everything that is expected."""
    walk = write_video(tmp_path_factory.mktemp("walk") / "walk.mp4")
    return workspace(tmp_path_factory.mktemp("disk"), dict.fromkeys(VIDEOS, walk))


@pytest.fixture(scope="module")
def expected(disk):
    return apart(disk, VIDEOS)


@pytest.fixture
def url(s3_folder, disk, expected, monkeypatch, tmp_path):
    monkeypatch.setenv("WTOURS_SCRATCH", str(tmp_path / "scratch_of_driver"))
    copy_into(f"{s3_folder}/videos", disk.root / "videos")
    return s3_folder


def on_store(url):
    store = open_store(url)
    return sha256s(store, "analysis") | sha256s(store, "shards")


def prepare(layout, executor):
    return prepare_videos(layout, entries(*VIDEOS), prepare_options(), executor=executor)


def test_nodes_with_nothing_but_the_store_publish_the_bytes_of_one_process(
    cluster, url, expected, tmp_path_factory
):
    with store_workspace(url) as layout, RayExecutor(shared=layout.root) as executor:
        report = prepare(layout, executor)
        assert not report.shards.failed
        assert report.num_decoded_once == 6
    assert on_store(url) == expected
    own = tmp_path_factory.getbasetemp().glob("scratch-of-node-[0-9]*/nodes/*/*")
    assert [path for folder in own for path in folder.glob("shards/default/receipts/one-*.json")]
    with store_workspace(url) as layout, RayExecutor(shared=layout.root) as executor:
        again = prepare(layout, executor)
    assert (again.shards.num_segments_written, again.num_decoded_once) == (0, 0)


def test_a_node_that_is_lost_costs_its_tasks_another_attempt(
    cluster, url, expected, tmp_path, tmp_path_factory
):
    lost, go = add_node(cluster, tmp_path_factory), tmp_path / "go"
    killer = threading.Thread(target=kill_once_it_works, args=(cluster, lost, go))
    killer.start()
    with (
        store_workspace(url) as layout,
        DisturbedExecutor(partial(wait_for_file, go), shared=layout.root) as executor,
    ):
        report = prepare(layout, executor)
    killer.join()
    assert Path(f"{go}.{lost.node_id}").exists()
    assert not report.shards.failed
    assert on_store(url) == expected


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "walks.toml"
    path.write_text(
        'format = 1\nname = "walks"\n'
        + "".join(
            f'[[video]]\nid = "{name}"\ntitle = "{name}"\nsources = ["file:{name}.mp4"]\n'
            for name in VIDEOS
        )
    )
    return path


def options(url, manifest):
    """Return those of a command that does what `prepare` of this module does."""
    small = ("--fps", "5", "--short-side", "32", "--executor", "ray")
    return ["--root", url, "--manifest", str(manifest), *small]


def test_a_killed_driver_is_run_again_elsewhere(
    cluster, url, expected, manifest, monkeypatch, tmp_path
):
    command = ["prepare", *options(url, manifest), "--address", cluster.address]
    driver = subprocess.Popen([sys.executable, "-m", "wtours", *command])
    store = open_store(url)
    begun = partial(store.list, "analysis/one/segments")
    until(lambda: any(".json" in one.key for one in begun()), pause_seconds=0.1)
    assert driver.poll() is None
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    monkeypatch.setenv("WTOURS_SCRATCH", str(tmp_path / "scratch_of_another"))
    again = run_here(*command)
    assert again.returncode == 0, again.stderr
    assert on_store(url) == expected


@pytest.mark.slow
def test_two_clusters_on_one_root_end_with_one_set_of_bytes(url, expected, manifest, tmp_path):
    command = [*(sys.executable, "-m", "wtours", "prepare"), *options(url, manifest), "--jobs", "1"]
    both = [
        subprocess.Popen(
            command,
            env={**os.environ, "WTOURS_SCRATCH": str(tmp_path / name)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "another")
    ]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert on_store(url) == expected


def test_what_crashes_its_process_is_named_and_the_next_run_does_it(
    cluster, url, expected, monkeypatch
):
    monkeypatch.setattr("wtours.execution.ray.MAX_RETRIES", 1)  # each is another worker's start
    with (
        store_workspace(url) as layout,
        DisturbedExecutor(crash_at_the_second_minute_of_two, shared=layout.root) as executor,
    ):
        report = prepare(layout, executor)
    assert list(report.shards.failed) == list(report.analysis.failed) == ["two"]
    assert "SIGSEGV" in report.shards.failed["two"]
    with store_workspace(url) as layout, RayExecutor(shared=layout.root) as executor:
        again = prepare(layout, executor)
    assert again.shards.num_segments_written == 1
    assert on_store(url) == expected


def test_parts_on_machines_of_their_own(url, expected, monkeypatch, tmp_path):
    from wtours.execution.parts import Part

    for number in (3, 1, 2):
        monkeypatch.setenv("WTOURS_SCRATCH", str(tmp_path / str(number)))
        with store_workspace(url, is_part=True) as layout:
            report = prepare_videos(
                layout, entries(*VIDEOS), prepare_options(), part=Part(number, 3)
            )
            assert not report.shards.failed
    assert on_store(url) == expected


def test_doctor_asks_every_node_for_the_store(cluster, url):
    command = ("cluster", "doctor", "--address", cluster.address, "--root")
    found = run_here(*command, url, "--json")
    assert found.returncode == 0, found.stderr
    nodes = [check for check in json.loads(found.stdout) if "sees the root" in check["found"]]
    assert len(nodes) == 3  # the head too
    gone = run_here(*command, "s3://none/root")
    assert gone.returncode == 1
    assert "no such bucket" in gone.stderr
