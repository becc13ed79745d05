"""The KubeRay manifest: what it runs is a command of ours, and its pods agree."""

from pathlib import Path

import yaml

MANIFEST = Path(__file__).resolve().parents[2] / "docs" / "examples" / "rayjob.yaml"


def test_its_pods_see_one_workspace_and_run_one_image():
    job = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    pods = [group["template"]["spec"] for group in groups]
    (container, *others) = [pod["containers"][0] for pod in pods]
    for other in others:
        for key in ("image", "env", "volumeMounts"):
            assert other[key] == container[key]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    words = spec["entrypoint"].split()
    assert words[words.index("--root") + 1] in mounts
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["submissionMode"] == "K8sJobMode"
    assert spec["backoffLimit"] > 0
    assert {variable["name"] for variable in container["env"]} >= {"RAY_task_oom_retries"}
