"""A small plan done by real commands: to the table, run again, stopped, and after a failure.

What fails in a process of its own, as users have them; the rest in this one, which has imported
torch.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence

import pytest

from tests.support.command_line import run_here
from tests.support.shard_set import write_shard_set
from training.evaluation.published import KNN
from training.reproduce.plan import load_plan
from training.reproduce.progress import (
    StepState,
    in_a_process,
    measured_of,
    reproduce,
    states,
    table_cells,
)
from wtours.storage.atomic import write_json
from wtours.storage.receipts import read_receipt
from wtours.synthetic import WalkSpec, render_walk
from wtours.synthetic.eval_sets import publish_eval_sets

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Two runs of Table 7b without their linear probe, on shards and VOC images that are there.

    What one test has done of it the next one need not do again.
    """
    tmp_path = tmp_path_factory.mktemp("plan")
    for name in ("walk", "movie"):
        write_shard_set(tmp_path / "shards" / name, size=(96, 128), num_frames=8)
    rendered = tmp_path / "rendered"
    spec = WalkSpec(seconds=1, width=320, height=180, frame_rate=10, seed=1)
    render_walk(spec, rendered / "walk.mp4", truth_path=rendered / "truth" / "walk")
    publish_eval_sets(rendered, train=["walk"], val="walk")
    tiny = load_plan("tiny", root=tmp_path, tables=["7b"], folders={})
    evaluations = {"discover": tiny.file.evaluations["discover"]}
    tables = {"7b": ("", "", "dora-movie-shots", "dora-venice")}
    update = {"prepare": (), "evaluations": evaluations, "tables": tables}
    return dataclasses.replace(tiny, file=tiny.file.model_copy(update=update))


def ended(found: list[StepState]) -> dict[str, str]:
    return {each.step.name: each.state for each in found}


def here(words: Sequence[str]) -> int:
    return run_here(*words).returncode


def test_a_step_that_fails_stops_only_what_needs_it_and_is_tried_again(plan, capfd):
    runs = dict(plan.file.runs)
    broken = runs["dino-venice"].model_copy(update={"overrides": ("data.clip_length=99",)})
    runs = {"dino-venice": broken, "dora-venice": runs["dora-venice"]}
    tables = {"7b": ("dino-venice", "", "", "dora-venice")}
    update = {"runs": runs, "tables": tables}
    small = dataclasses.replace(plan, file=plan.file.model_copy(update=update))

    def apart_if_it_fails(words: Sequence[str]) -> int:
        return in_a_process(words) if "data.clip_length=99" in words else here(words)

    found = reproduce(small, say=lambda text: None, run=apart_if_it_fails)
    assert ended(found) == {
        "dino-venice": "failed",
        "dino-venice: discover": "lacks",
        "dora-venice": "done",
        "dora-venice: discover": "done",
    }
    assert "ended with code 1" in found[0].why
    assert found[1].why == "dino-venice is not done"
    receipt = read_receipt(plan.root / "reproduce" / "tiny" / "dino-venice.json")
    assert receipt is not None
    assert receipt.status == "failed_transient"
    # Put right, it is another command, which has not failed.
    right = runs | {"dino-venice": plan.file.runs["dino-venice"]}
    mended = dataclasses.replace(plan, file=small.file.model_copy(update={"runs": right}))
    assert ended(states(mended))["dino-venice"] == "to do"


def test_a_plan_is_done_step_by_step_resumed_and_printed(plan, capfd):
    said: list[str] = []
    waiting = list(ended(states(plan)).values()).count("to do")
    first = ended(reproduce(plan, say=said.append, run=here))
    assert set(first.values()) == {"done"}
    assert len(first) == 4  # two runs, each with one evaluation
    assert said[0].startswith("$ wtours pretrain ")
    assert ended(reproduce(plan, say=said.append, run=here)) == first
    assert len(said) == waiting  # nothing was run again

    ((table, runs),) = plan.rows
    rows = table_cells(plan, table, runs)
    columns = (*table.labels, "LP", "measured", "CorLoc", "measured")
    last = dict(zip(columns[:4], rows[-1][:4], strict=True))
    assert last == {"method": "DoRA", "pretrain": "WT", "LP": "44.5", "measured": "-"}
    results = list((plan.root / "runs" / "tiny-dora-venice" / "eval").glob("discover-*.json"))
    (measured,) = (json.loads(path.read_text())["results"]["corloc_percent"] for path in results)
    assert rows[-1][4:] == ("56.2", f"{measured:.1f}*")  # * since the images are not VOC's

    (result,) = results
    moved = result.rename(result.with_name("knn-of-another-evaluation.json"))
    assert ended(states(plan))["dora-venice: discover"] == "to do"
    moved.rename(result)
    assert ended(states(plan)) == first


def test_a_run_that_was_trained_again_is_measured_again(plan):
    reproduce(plan, say=lambda text: None, run=here)
    run_dir = plan.root / "runs" / "tiny-dora-venice"
    (run_dir / "checkpoints").rename(run_dir / "earlier")
    found = ended(states(plan))
    assert found["dora-venice"] == found["dora-venice: discover"] == "to do"
    said: list[str] = []
    assert set(ended(reproduce(plan, say=said.append, run=here)).values()) == {"done"}
    assert [line.split()[2] for line in said] == ["pretrain", "eval"]


def test_the_figures_are_of_the_weights_that_the_run_has_now(tmp_path):
    plan = load_plan("paper", root=tmp_path, tables=["5"], folders={})
    run_dir = tmp_path / "runs" / "dora-venice"
    for sha256, top1 in (("a" * 64, 33.0), ("b" * 64, 11.0)):
        content = {
            "evaluation": "knn",
            "checkpoint": {"name": "step-00000100", "step": 100, "sha256": sha256},
            "protocol": {},
            "val": {"num_images": 50_000},
            "results": {"teacher": [{"k": 20, "top1_percent": top1}]},
        }
        write_json(run_dir / "eval" / f"knn-{sha256[:8]}.json", content)
    files = [{"path": "model.safetensors", "sha256": "a" * 64}]
    write_json(run_dir / "checkpoints" / "step-00000100" / "receipt.json", {"files": files})
    measured = measured_of(plan, "dora-venice")
    assert measured is not None
    assert measured.values[KNN].percent == 33.0


@pytest.mark.parametrize(("val_images", "mean"), [(50_000, "35.5"), (500, "35.5*")])
def test_a_mean_compares_as_far_as_the_figures_above_it_do(tmp_path, val_images, mean):
    plan = load_plan("paper", root=tmp_path, tables=["7a"], folders={})
    ((table, runs),) = plan.rows
    for number, run in enumerate(runs[:-1]):
        content = {
            "evaluation": "linear",
            "checkpoint": {"name": "step-00000100", "step": 100},
            "protocol": {
                "learning_rates_for_256": [0.001],
                "epochs": 100,
                "batch_size": 1024,
            },
            "val": {"num_images": val_images if number == 3 else 50_000},
            "results": {
                "heads": [{"learning_rate_for_256": 0.001, "best_top1_percent": 31.0 + number}]
            },
        }
        write_json(tmp_path / "runs" / run / "eval" / "linear.json", content)
    assert table_cells(plan, table, runs)[-1] == ("Mean", "44.1", mean, "54.8", "-")


def test_with_json_the_commands_print_to_stderr_alone(capfd):
    assert in_a_process(("--version",), stdout=sys.stderr) == 0
    captured = capfd.readouterr()
    assert (captured.out, captured.err.startswith("wtours ")) == ("", True)
