import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.support.chromium import OpenPage, chromium
from wtours.cli.app import app
from wtours.errors import UsageError
from wtours.report.runs.data import load_run
from wtours.report.runs.page import build_runs_page
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium  # a browser

SET = {"set_sha256": "5e7" + 61 * "1"}
HOSTILE = "</script><script>alert(1)</script>"


def make_run(folder, *, steps, loss, method="dora", resumed_from=None, more=()):
    """Write a run whose loss at step s is loss / s, and whose mask overlap is 1 / s."""
    (folder / "figures").mkdir(parents=True)
    lines = []
    for step in range(1, steps + 1):
        time = {"seconds": 2.0}
        if resumed_from is not None and step == resumed_from + 1:
            time["resumed_from"] = resumed_from
        row = {"step": step, "loss": loss / step, "mask_overlap": 1 / step, "lr": 0.1, "time": time}
        lines.append(json.dumps(row))
    (folder / "metrics.jsonl").write_text("\n".join([*lines, *more]) + "\n")
    config = f"method: {method}\nseed: 0\noptim:\n  steps: {steps}\n  lr: {loss}\n"
    (folder / "config.yaml").write_text(config)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    layout = Layout(tmp_path_factory.mktemp("root"))
    first = make_run(layout.run_dir("first"), steps=40, loss=8.0, resumed_from=20)
    other = make_run(layout.run_dir("other"), steps=20, loss=4.0, method="dino")
    for name in ("step-00000010-walk-00000000ms", "walk-clip-00000000"):
        Image.new("RGB", (1500, 300), "teal").save(first / "figures" / f"{name}.png")
    (other / "figures" / "step-00000010-cut.png").write_bytes(b"\x89PNG no more")
    for step, state in ((10, {"data": {"set_sha256": "0" * 64}}), (20, {"data": SET}), (30, 7)):
        checkpoint = first / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "state.json").write_text(json.dumps(state))
    (other / "eval").mkdir()
    result = {
        "evaluation": "knn",
        "checkpoint": {"name": "step-00000020"},
        "results": {"trained": [{"k": 20, "top1_percent": 41.5}], "seconds": 3},
    }
    (other / "eval/knn.json").write_text(json.dumps(result))
    (other / "eval/foreign.json").write_text("[]")
    tables = [
        {
            "title": f"Table 5 {HOSTILE}",
            "columns": ("method", "mIoU"),
            "rows": [("DORA", "44.5"), ("DINO", "-")],
        }
    ]
    return build_runs_page(layout, [first, other], tables=tables, notes=["a contradiction"])


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser, built):
    with OpenPage(browser, built.page, width=1280) as opened:
        yield opened
        opened.assert_quiet(built.page)


def test_the_classifiers_of_a_linear_probe_are_told_apart_by_their_rates(tmp_path):
    run = make_run(tmp_path / "run", steps=1, loss=1.0)
    heads = [
        {"learning_rate_for_256": rate, "learning_rate": 4 * rate, "best_top1_percent": top1}
        for rate, top1 in ((0.001, 40.0), (0.01, 41.0))
    ]
    content = {"evaluation": "linear", "checkpoint": {"name": "s"}, "results": {"heads": heads}}
    (run / "eval").mkdir()
    (run / "eval" / "linear.json").write_text(json.dumps(content))
    assert [(each.measure, each.value) for each in load_run(run, name="run").evaluations] == [
        ("heads, lr=0.001 best top1", 40.0),
        ("heads, lr=0.01 best top1", 41.0),
    ]


def test_results_of_one_name_are_told_apart_by_their_files(tmp_path):
    run = make_run(tmp_path / "run", steps=1, loss=1.0)
    (run / "eval").mkdir()
    for name, step, top1 in (
        ("knn-s-1a", "s", 40.0),
        ("knn-s-2b", "s", 41.0),
        ("knn-t", "t", 42.0),
    ):
        content = {
            "evaluation": "knn",
            "checkpoint": {"name": step},
            "results": {"teacher": [{"k": 20, "top1_percent": top1}]},
        }
        (run / "eval" / f"{name}.json").write_text(json.dumps(content))
    assert [(each.checkpoint, each.value) for each in load_run(run, name="run").evaluations] == [
        ("s (knn-s-1a.json)", 40.0),
        ("s (knn-s-2b.json)", 41.0),
        ("t", 42.0),
    ]


def test_the_summary_is_of_the_last_20_steps_of_a_long_run_too(tmp_path):
    rows = [json.dumps({"step": step, "loss": step}) for step in range(1, 20_001)]
    layout = Layout(tmp_path)
    run = make_run(layout.run_dir("long"), steps=0, loss=1.0, more=rows)
    (summary,) = build_runs_page(layout, [run]).as_dicts()
    assert summary["loss"] == 19_990.5


def test_lines_that_are_no_steps_are_named_and_the_others_read(tmp_path):
    bad = [
        '{"step": 4',
        "[]",
        '{"step": true}',
        '{"step": -1}',
        '{"loss": 3}',
        "\xff",
        "[" * 99_999,
    ]
    good = '{"step": 5, "loss": null, "lr": 1e999, "huge": 1%s, "word": "x"}' % ("0" * 400)
    run = load_run(
        make_run(tmp_path / "run", steps=3, loss=6.0, more=(*bad, good, '{"step": 6, "lo')),
        name="run",
    )
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # as a process that writes has it
    again = load_run(tmp_path / "run", name="run")
    assert run.metrics["loss"].values.tolist() == [6, 3, 2]
    assert set(again.metrics) == {"loss", "mask_overlap", "lr", "seconds"}
    assert (again.steps, again.resumed_from) == (5, ())
    (problem,) = again.problems
    assert problem == "metrics.jsonl: lines 4, 5, 6, 7, 8 and 3 more cannot be read; left out"


def test_the_later_line_of_a_step_counts_and_the_run_was_resumed_there(tmp_path):
    more = [json.dumps({"step": step, "loss": 100.0 * step}) for step in (3, 4)]
    run = load_run(make_run(tmp_path / "run", steps=3, loss=6.0, more=more), name="run")
    assert run.metrics["loss"].values.tolist() == [6, 3, 300, 400]
    assert run.resumed_from == (2,)


def test_a_long_run_is_drawn_as_means_over_spans(tmp_path):
    run = load_run(make_run(tmp_path / "run", steps=4000, loss=1.0), name="run")
    line = run.metrics["loss"]
    assert len(line.steps) == 400
    assert line.steps[0] == pytest.approx(5.5)  # of steps 1 to 10
    assert line.values[0] == pytest.approx(np.mean(1 / np.arange(1, 11)))


def test_a_folder_that_is_no_run_and_no_runs_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"is no run: it has no metrics\.jsonl"):
        build_runs_page(Layout(tmp_path), [tmp_path])
    with pytest.raises(UsageError, match="no runs yet"):
        build_runs_page(Layout(tmp_path), [])
    assert not (tmp_path / "reports").exists()


def test_the_summary_has_a_row_a_run_and_what_cannot_be_read_is_said(built):
    loss = np.mean(8 / np.arange(21, 41))
    headings, first, other = built.summary()
    assert headings == ("run", "method", "steps", "loss", "mask overlap", "shard set")
    assert first == ("first", "dora", "40", f"{loss:.3f}", f"{loss / 8:.2f}", "5e711111")
    assert built.as_dicts()[0]["set_sha256"] == SET["set_sha256"]
    assert other[-1] == "not known"
    assert f"set hash {SET['set_sha256']}" in built.page.read_text()
    assert built.as_dicts()[0]["resumed_from"] == [20]
    assert built.as_dicts()[1]["knn_top1_percent"] is None
    assert built.problems == {
        "other": "eval/foreign.json is no result of `wtours eval`; left out; "
        "figures/step-00000010-cut.png cannot be read; left out"
    }


def test_text_from_strangers_stays_text(built):
    html = built.page.read_text()
    assert "<script>alert" not in html
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in html


@pytest.mark.parametrize("width", [400, 1280, 1600])
def test_nothing_stands_out_of_the_window_and_nothing_is_asked_for(browser, built, width):
    with OpenPage(browser, built.page, width=width, dark=width == 1600) as opened:
        assert opened.overflow() == []
        assert opened.low_contrasts() == []
        opened.assert_quiet(built.page)


def test_all_runs_share_the_axis_of_steps_and_resumes_are_marked(opened):
    page = opened.page
    ends = page.eval_on_selector_all(
        '[data-metric="loss"] path[data-run]',
        "all => all.map(e => Number(e.getAttribute('d').trim().split(' ').at(-2)))",
    )
    assert ends == [1000, 500]  # 40 and 20 of 40 steps
    marks = page.locator('[data-metric="loss"] .resumed')
    assert marks.count() == 1
    assert marks.get_attribute("d").startswith("M500.0 ")
    assert page.locator('[data-metric="loss"] .ends').text_content() in ("firstother", "otherfirst")
    texts = page.locator("#evaluations tbody tr").all_text_contents()
    assert texts == ["otherknnstep-00000020trained, k=20 top141.50"]
    assert page.locator("#settings tbody th").all_text_contents() == [
        "method",
        "optim.steps",
        "optim.lr",
    ]
    assert page.locator("#tables tbody tr").count() == 2


def test_smoothing_and_hiding_a_run_redraw_the_curves(opened):
    page = opened.page

    def path(run):
        return page.locator(f'[data-metric="loss"] path[data-run="{run}"]')

    smooth = path(0).get_attribute("d")
    assert page.locator('[data-metric="loss"] .raw').count() == 2
    page.locator("#smoothing").fill("0")
    assert page.locator("output").text_content() == "0.00"
    assert page.locator('[data-metric="loss"] .raw').count() == 0
    assert path(0).get_attribute("d") != smooth
    page.get_by_role("button", name="other", exact=True).click()
    assert (path(0).count(), path(1).count()) == (1, 0)


def test_the_pointer_reads_all_runs_at_a_step_in_all_charts(opened):
    page = opened.page
    page.locator("#smoothing").fill("0")
    plot = page.locator('[data-metric="loss"] .plot')
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    text = page.locator("#tip").text_content()
    assert text == "Step 10first: 0.8 at 10other: 0.4 at 10"
    assert page.locator(".runs-chart .cursor:visible").count() == 3  # loss, mask overlap, lr
    page.mouse.move(2, 2)
    assert page.locator("#tip").is_hidden()


def test_constants_spikes_and_large_numbers_are_drawn_with_labels_that_can_be_told_apart(
    browser, tmp_path
):
    entropy = [6.9311, 6.9315, 6.9312, 6.9314]
    rows = [
        {
            "step": step,
            "loss": loss,
            "teacher_temp": 0.02,  # 0.02 smoothed is not 0.02 to the last bit
            "teacher_mean_entropy": value,
            "time": {"seconds": 1.0, "peak_memory_bytes": 1.5e9 + 1e7 * step},
        }
        for step, (loss, value) in enumerate(zip((8.0, 9.0, 5.0, 6.0), entropy, strict=True), 1)
    ]
    layout = Layout(tmp_path)
    run = make_run(layout.run_dir("only"), steps=0, loss=1.0, more=[json.dumps(r) for r in rows])
    built = build_runs_page(layout, [run])
    with OpenPage(browser, built.page, width=400) as opened:
        page = opened.page
        page.locator("#more summary").click()

        def labels(metric):
            return page.locator(f'[data-metric="{metric}"] .y span').all_text_contents()

        assert "0.020" in labels("teacher_temp")
        for metric in ("teacher_mean_entropy", "peak_memory_bytes", "loss", "teacher_temp"):
            assert len(set(labels(metric))) == len(labels(metric)) >= 2
        memory = page.locator('[data-metric="peak_memory_bytes"]')
        assert memory.locator("figcaption").text_content() == "Peak memory, GB"
        assert {float(label) for label in labels("peak_memory_bytes")} <= {1.51, 1.52, 1.53, 1.54}
        drawn = page.locator('[data-metric="loss"] .raw').get_attribute("d")
        heights = [float(number) for number in drawn.lstrip("M").split()[1::2]]
        assert 0 < min(heights) < max(heights) < 100  # what was logged is not cut off
        assert opened.overflow() == []
        assert page.locator("#smoothing").bounding_box()["x"] < 300
        # No run was resumed and none has k-NN: there is no empty column.
        assert page.locator("#summary thead th").all_text_contents() == [
            *("Run", "Method", "Steps", "Loss", "Time", "Shard set"),
        ]
        opened.assert_quiet(built.page)


def test_attention_figures_are_enlarged(opened):
    page = opened.page
    page.locator("#attention .thumb").first.click()
    assert (
        page.locator("#zoom-caption").text_content() == "first, step 10, walk-00000000ms (1 of 2)"
    )
    page.keyboard.press("ArrowRight")
    assert page.locator("#zoom-caption").text_content() == "first, walk-clip-00000000 (2 of 2)"


def test_the_command_takes_all_runs_or_the_named_ones(tmp_path):
    for name, loss in (("a", 8.0), ("b", 4.0)):
        make_run(tmp_path / "runs" / name, steps=2, loss=loss)
    everything = CliRunner().invoke(app, ["runs", "--json", "--root", str(tmp_path)])
    one = CliRunner().invoke(app, ["runs", "b", "--root", str(tmp_path)])
    assert [run["run"] for run in json.loads(everything.stdout)["runs"]] == ["a", "b"]
    assert (everything.exit_code, one.exit_code) == (0, 0)
    assert str(tmp_path / "reports/runs.html") in one.stdout
    assert "3.000" in one.stdout  # the mean of 4 / 1 and 4 / 2
