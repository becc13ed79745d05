"""`--executor ray`: the bytes of one process, whatever dies; two nodes on this machine."""

import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.analyze_cases import write_scenes
from tests.support.prepared import SMALL, apart, entries, prepare_options, published, workspace
from tests.support.prepared import write_walk as write_video
from wtours.analyze.detectors.cluster import ClusterDetectors, NodeEndpoint
from wtours.analyze.pipeline import analyze_videos
from wtours.diagnostics.cluster import diagnose_cluster, node_facts
from wtours.errors import WtoursError
from wtours.execution.node_copy import NodeCheck
from wtours.execution.ray import RayExecutor
from wtours.prepare.pipeline import prepare_videos
from wtours.sharding.build import build_shards
from wtours.sharding.repair import repair_shards
from wtours.storage.receipts import read_receipt
from wtours.workspace.layout import Layout

ray = pytest.importorskip("ray")
from tests.support.ray_nodes import (  # noqa: E402 -- imports Ray
    NODE,
    DisturbedExecutor,
    crash_at_the_second_minute_of_two,
    kill_once_it_works,
    until,
    wait_for_file,
)

pytestmark = [
    pytest.mark.medium,
    pytest.mark.filterwarnings("default"),  # Ray's own
]

VIDEOS = ("one", "two")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU each, one with GPUs; the driver of these tests is connected."""
    from ray.cluster_utils import Cluster

    os.environ |= {
        "PYTHONPATH": str(REPOSITORY),
        "RAY_worker_niceness": "0",  # else a busy machine hardly lets them work
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE, num_gpus=2)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("walk") / "walk.mp4")


@pytest.fixture(scope="module")
def expected(walk, tmp_path_factory):
    layout = workspace(tmp_path_factory.mktemp("apart"), dict.fromkeys(VIDEOS, walk))
    return apart(layout, VIDEOS)


def test_two_nodes_publish_the_bytes_of_one_process(cluster, walk, expected, tmp_path):
    layout = workspace(tmp_path, dict.fromkeys(VIDEOS, walk))
    with RayExecutor(shared=layout.root) as executor:
        assert executor.num_workers == 2
        report = prepare_videos(layout, entries(*VIDEOS), prepare_options(), executor=executor)
        assert not report.shards.failed
        assert report.num_decoded_once == 6
        assert published(layout) == expected
        tar = report.shards.directory / "two-00001.tar"
        tar.write_bytes(b"damaged")
        assert repair_shards(layout, "default", executor=executor).repaired == (tar.name,)
        assert published(layout) == expected
    assert not list((layout.root / "locks").glob("cluster-*"))


def test_what_crashes_the_decoder_is_recorded_and_all_else_is_done(
    cluster, walk, expected, monkeypatch, tmp_path
):
    monkeypatch.setattr("wtours.execution.ray.MAX_RETRIES", 1)  # each is another worker's start
    layout = workspace(tmp_path, dict.fromkeys(VIDEOS, walk))
    with DisturbedExecutor(crash_at_the_second_minute_of_two, shared=layout.root) as executor:
        report = prepare_videos(layout, entries(*VIDEOS), prepare_options(), executor=executor)
    assert list(report.shards.failed) == list(report.analysis.failed) == ["two"]
    for folder in (layout.analysis_dir("two") / "segments" / "00001", None):
        path = folder / "receipt.json" if folder else None
        receipt = read_receipt(path or report.shards.directory / "receipts" / "two-00001.json")
        assert receipt is not None
        assert receipt.status == "failed_permanent"
        assert "SIGSEGV" in (receipt.error or "")
    assert report.analysis.done == ["one"]
    assert report.shards.dataset is not None
    assert [video.video_id for video in report.shards.dataset.videos] == ["one"]
    assert report.shards.num_segments_written == 5
    again = prepare_videos(layout, entries(*VIDEOS), prepare_options())
    assert again.shards.num_segments_written == 1
    assert published(layout) == expected


def test_a_node_that_is_lost_costs_its_tasks_another_attempt(cluster, walk, expected, tmp_path):
    layout = workspace(tmp_path / "root", dict.fromkeys(VIDEOS, walk))
    lost = cluster.add_node(**NODE)
    go = tmp_path / "go"
    killer = threading.Thread(target=kill_once_it_works, args=(cluster, lost, go))
    killer.start()
    with DisturbedExecutor(partial(wait_for_file, go), shared=layout.root) as executor:
        report = prepare_videos(layout, entries(*VIDEOS), prepare_options(), executor=executor)
    killer.join()
    assert Path(f"{go}.{lost.node_id}").exists()
    assert not report.shards.failed
    assert published(layout) == expected


def test_a_killed_driver_is_run_again(cluster, walk, expected, tmp_path):
    layout = workspace(tmp_path / "root", dict.fromkeys(VIDEOS, walk))
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from tests.support.prepared import entries, prepare_options\n"
        "from wtours.execution.ray import RayExecutor\n"
        "from wtours.prepare.pipeline import prepare_videos\n"
        "from wtours.workspace.layout import Layout\n"
        "layout = Layout(Path(sys.argv[1]))\n"
        "with RayExecutor(sys.argv[2], shared=layout.root) as executor:\n"
        "    prepare_videos(layout, entries('one', 'two'), prepare_options(), executor=executor)\n"
    )
    command = [sys.executable, str(script), str(layout.root), cluster.address]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    driver = subprocess.Popen(command, env=environment)
    until(lambda: any(layout.shards_dir("default").glob("receipts/*-0*.json")))
    assert driver.poll() is None
    driver.kill()
    driver.wait()
    with RayExecutor(shared=layout.root) as executor:
        prepare_videos(layout, entries(*VIDEOS), prepare_options(), executor=executor)
    assert published(layout) == expected


def test_a_node_with_other_versions_or_another_disk_is_refused_in_one_line(cluster, walk, tmp_path):
    layout = workspace(tmp_path, {"one": walk})
    with RayExecutor(shared=layout.root) as executor:
        sound = executor._check
        versions = tuple((name, "0.1" if name == "av" else v) for name, v in sound.versions)
        executor._check = NodeCheck(versions, sound.marker)
        with pytest.raises(WtoursError, match=r"node .* has av .*, and the driver 0\.1: .*") as one:
            build_shards(layout, ["one"], params=SMALL, executor=executor)
        executor._check = NodeCheck(sound.versions, tmp_path / "elsewhere" / "locks" / "marker")
        with pytest.raises(WtoursError, match=r"does not see .*elsewhere; give as --root") as other:
            build_shards(layout, ["one"], params=SMALL, executor=executor)
    assert "\n" not in str(one.value) + str(other.value)
    assert not list(layout.shards_dir("default").glob("*.tar"))


def test_doctor_names_every_node_and_what_is_wrong_with_it(cluster, tmp_path):
    cluster.wait_for_nodes()  # a node that an earlier test killed is counted for a while
    checks = list(diagnose_cluster(Layout(tmp_path), cluster.address))
    names = [check.name for check in checks]
    assert len(names) == 2 * 2 + 1
    assert names[-1] == "cluster"
    assert checks[-1].found.startswith("2 nodes, 2 CPUs, 2 GPUs")
    assert {check.status for check in checks} <= {"ok", "warning"}  # a small disk
    assert "sees the root" in checks[0].found
    there = NodeCheck(NodeCheck.here(None).versions, tmp_path / "gone" / "locks" / "marker")
    facts = node_facts(there, tmp_path)
    assert "does not see" in (facts.problem or "")
    assert facts.scratch_free > 0


def test_each_gpu_of_the_cluster_has_a_network_and_detections_are_those_of_one_process(
    cluster, data_dir, monkeypatch, tmp_path
):
    clip = write_scenes(tmp_path / "clip.mp4", seconds=(2, 2), rate=5, size="96x64", g=5)
    here, there = (workspace(tmp_path / name, {"walk": clip}) for name in ("here", "there"))
    options: dict[str, Any] = {"detector": f"onnx:{data_dir / 'models' / 'yolox_nano.onnx'}"}
    analyze_videos(here, ["walk"], segment_seconds=2, **options)
    served: list[tuple[int, list[str] | None]] = []

    class Watched(ClusterDetectors):
        def endpoint(self) -> NodeEndpoint:
            served.append((len(self._actors), self._executor._nodes))
            return super().endpoint()

    monkeypatch.setattr("wtours.analyze.detectors.cluster.ClusterDetectors", Watched)
    with RayExecutor(shared=there.root) as executor:
        report = analyze_videos(there, ["walk"], segment_seconds=2, executor=executor, **options)
    (with_gpus,) = (node["NodeID"] for node in ray.nodes() if node["Resources"].get("GPU"))
    assert served == [(2, [with_gpus])]
    assert (report.failed, report.objects_not_measured) == ({}, {})
    assert published(there) == published(here)
