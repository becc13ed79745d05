"""The paper's tables: its figures as printed, and what was measured beside them."""

import json
import re

import pytest
from typer.testing import CliRunner

from training.evaluation.measured import collect
from training.evaluation.paper_tables import as_json, as_markdown, footnotes, table_rows
from training.evaluation.published import CORLOC, JACCARD, JF, KNN, LINEAR, MIOU, TABLES
from wtours.cli.app import app
from wtours.errors import CheckpointError, WtoursError

IMAGENET = {"num_images": 50_000, "source": "imagenet/val", "fingerprint": "1"}


def result(
    run,
    name,
    evaluation,
    results,
    *,
    val,
    protocol=None,
    checkpoint="step-1",
    step=1,
    sha256=None,
    train=None,
    **recorded,
):
    (run / "eval").mkdir(parents=True, exist_ok=True)
    content = {
        "evaluation": evaluation,
        "checkpoint": {"name": checkpoint, "step": step}
        | ({"sha256": sha256} if sha256 else {})
        | recorded,
        "protocol": protocol or {},
        "val": val,
        **({"train": train} if train else {}),
        "results": results,
    }
    (run / "eval" / f"{name}.json").write_text(json.dumps(content))


def linear(**changed):
    return {
        "learning_rates_for_256": [0.001, 0.1],
        "epochs": 100,
        "batch_size": 1024,
        **changed,
    }


def heads(*pairs):
    return {
        "heads": [
            {"learning_rate_for_256": rate, "best_top1_percent": top1} for rate, top1 in pairs
        ]
    }


def cleaned(cell):
    """A cell of the paper's text as we write it: no tags, no citation, no "(ours)"."""
    cell = re.sub(r"\((?:[^()]*\d{4}\w?|ours)\)", "", cell.strip())
    cell = re.sub(r"<sub>", "_", cell)
    cell = re.sub(r"</?\w+>", "", cell)
    return re.sub(r"\\|\s", "", cell.replace("\u2013", "-")).lower()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.number)
def test_the_published_figures_are_those_of_the_paper(table, reference_dir):
    text = (reference_dir / "paper.md").read_text()
    lines = [[cleaned(cell) for cell in line.split("\t")] for line in text.split("\n")]
    lines = [[cell for cell in line if cell and not cell.startswith("+")] for line in lines]
    for labels, figures in table.rows:
        wanted = [label.lower().replace(" ", "") for label in labels]
        wanted += ["-" if figure is None else f"{figure:.1f}" for figure in figures]
        width = len(wanted)
        assert any(
            line[start : start + width] == wanted
            for line in lines
            for start in range(len(line) - width + 1)
        ), f"Table {table.number} has no row {wanted}"


def test_measured_figures_stand_in_their_columns_and_holes_are_holes(tmp_path):
    run = tmp_path / "walk30"
    result(run, "a", "linear", heads((0.001, 44.25), (0.1, 60.0)), val=IMAGENET, protocol=linear())
    result(run, "b", "knn", {"teacher": [{"k": 20, "top1_percent": 33.75}]}, val=IMAGENET)
    (measured,) = collect([run])
    assert (measured.values[LINEAR].percent, measured.values[KNN].percent) == (44.25, 33.75)
    (table,) = [table for table in TABLES if table.number == "5"]
    rows = table_rows(table, [measured])
    assert rows[-1] == ("walk30 (measured)", "", "", "", "44.2", "33.8", "-", "-")
    assert rows[6] == ("DoRA", "100", "WT_Venice", "0.2", "45.4", "33.8", "44.0", "56.2")
    assert footnotes([measured]) == []
    five = next(each for each in as_json([measured]) if each["table"] == "5")
    assert five["measured"][0]["values"][CORLOC] is None
    assert five["measured"][0]["values"][KNN]["percent"] == 33.75
    assert five["published"][0]["percent"][LINEAR] == 26.3
    assert len(table_rows(table, [])) == 9


def test_what_does_not_compare_is_marked_with_its_reason(tmp_path):
    run = tmp_path / "tiny"
    small = {"num_images": 500, "source": "cifar.tar:val", "fingerprint": "2"}
    protocol = linear(learning_rates_for_256=[0.1], epochs=3)
    result(run, "a", "linear", heads((0.1, 60.0)), val=small, protocol=protocol)
    measured = collect([run])
    (table,) = [table for table in TABLES if table.number == "2a"]
    assert table_rows(table, measured)[-1] == ("tiny (measured)", "", "", "60.0*", "-")
    (note,) = footnotes(measured)
    assert note == (
        "* LP of tiny: on 500 images of cifar.tar:val; the paper's are 50000; the best learning "
        "rate; the paper's 0.001 was not trained; 3 epochs of batch 1024; the paper's are 100 and "
        "1024"
    )
    assert r"| 60.0\* | - |" in as_markdown(measured)


@pytest.mark.parametrize(
    ("evaluation", "found", "protocol", "column", "papers"),
    [
        ("knn", {"teacher": [{"k": 20, "top1_percent": 30.0}]}, {}, KNN, 1_281_167),
        ("linear", heads((0.001, 30.0)), linear(), LINEAR, 1_281_167),
        (
            *("upernet", {"mean_iou_percent": 30.0}),
            *({"steps": 160_000, "batch_size": 4, "crop_pixels": 512}, MIOU, 20_210),
        ),
    ],
)
def test_a_part_of_the_papers_training_images_does_not_compare(
    tmp_path, evaluation, found, protocol, column, papers
):
    val = {**IMAGENET, "num_images": 2000} if evaluation == "upernet" else IMAGENET
    for name, images in (("part", papers // 10), ("whole", papers)):
        train = {"num_images": images, "source": "train", "fingerprint": "5"}
        result(tmp_path / name, "a", evaluation, found, val=val, protocol=protocol, train=train)
    part, whole = collect([tmp_path / "part", tmp_path / "whole"])
    assert whole.values[column].note == ""
    assert part.values[column].note == (
        f"with {papers // 10} training images; the paper's are {papers}"
    )


def test_a_shortened_fine_tuning_is_marked_and_the_papers_is_not(tmp_path):
    run, val = tmp_path / "walk", {"num_images": 2000, "source": "ade20k", "fingerprint": "3"}
    paper = {"steps": 160_000, "batch_size": 4, "crop_pixels": 512}
    scores = {"mean_iou_percent": 12.0, "mean_accuracy_percent": 20.0}
    result(run, "a", "upernet", scores, val=val, protocol=paper | {"steps": 1000})
    (note,) = footnotes(collect([run]))
    assert note == (
        "* seg. mIoU, seg. Acc_m of walk: 1000 steps of 4 crops of 512 pixels; the paper's are "
        "160000 of 4 of 512"
    )
    # Of the two the one that compares is shown, though it is lower.
    result(run, "b", "upernet", scores | {"mean_iou_percent": 11.0}, val=val, protocol=paper)
    (measured,) = collect([run])
    assert (measured.values[MIOU].percent, measured.values[MIOU].note) == (11.0, "")


def test_what_is_true_of_several_networks_is_said_once(tmp_path):
    small = {"num_images": 500, "source": "cifar.tar:val", "fingerprint": "2"}
    voc = {"num_images": 8, "source": "voc", "fingerprint": "3"}
    found = {"corloc_percent": 5.0, "jaccard_percent": 4.0}
    for name in ("one", "two", "three"):
        result(tmp_path / name, "a", "knn", knn_of(30.0), val=small, trained_on_set_sha256="a" * 64)
    result(tmp_path / "two", "b", "discover", found, val=voc, protocol={"method": "attention"})
    assert footnotes(collect(tmp_path / name for name in ("one", "two", "three"))) == [
        "* k-NN of one, two, three: on 500 images of cifar.tar:val; the paper's are 50000",
        "* CorLoc, Jacc. of two: on 8 images of voc; the paper's are 1449",
        f"one, two, three: trained on the shard set of hash {'a' * 64}",
    ]


def test_the_papers_data_and_then_the_most_trained_checkpoint_count(tmp_path):
    run = tmp_path / "run"
    voc = {"num_images": 1449, "source": "voc", "fingerprint": "3"}
    few = {"num_images": 10, "source": "voc", "fingerprint": "4"}
    attention, lost = {"method": "attention"}, {"method": "lost"}

    def found(corloc, jaccard=None):
        return {"corloc_percent": corloc, "jaccard_percent": jaccard}

    result(run, "1", "discover", found(50.0), val=voc, protocol=attention, step=10)
    result(run, "2", "discover", found(55.0), val=voc, protocol=attention, step=90)
    result(run, "3", "discover", found(52.0), val=voc, protocol=attention, step=50)
    result(run, "4", "discover", found(99.0), val=few, protocol=attention, step=100)
    result(run, "5", "discover", found(88.0), val=voc, protocol=lost, step=100)
    (measured,) = collect([run])
    assert (measured.values[CORLOC].percent, measured.values[CORLOC].source) == (55.0, "2.json")
    assert JACCARD not in measured.values


def test_the_shard_sets_of_a_row_are_named_below_and_older_results_name_none(tmp_path):
    run = tmp_path / "walk30"
    result(run, "a", "knn", knn_of(30.0), val=IMAGENET)  # of an older version
    result(run, "b", "knn", knn_of(31.0), val=IMAGENET, step=2, trained_on_set_sha256="a" * 64)
    result(run, "c", "knn", knn_of(32.0), val=IMAGENET, step=3, trained_on_set_sha256=None)
    measured = collect([run])
    assert footnotes(measured) == [f"walk30: trained on the shard set of hash {'a' * 64}"]
    assert as_markdown(measured).endswith(f"of hash {'a' * 64}  ")
    assert as_json(measured)[0]["measured"][0]["trained_on_set_sha256"] == ["a" * 64]
    result(run, "d", "knn", knn_of(32.0), val=IMAGENET, trained_on_set_sha256=7)
    with pytest.raises(WtoursError, match=r"d\.json is not a result"):
        collect([run])


def knn_of(percent):
    return {"teacher": [{"k": 20, "top1_percent": percent}]}


def test_two_files_of_one_name_have_a_row_each(tmp_path):
    run = tmp_path / "checkpoint"
    one = {"val": IMAGENET, "checkpoint": "checkpoint", "step": None}
    result(run, "a", "knn", knn_of(30.0), sha256="1" * 64, **one)
    result(run, "b", "linear", heads((0.001, 60.0)), protocol=linear(), sha256="2" * 64, **one)
    first, second = collect([run])
    assert first.name == "checkpoint, checkpoint (11111111)"
    assert (first.values[KNN].percent, LINEAR in first.values) == (30.0, False)
    assert second.name == "checkpoint, checkpoint (22222222)"
    assert (second.values[LINEAR].percent, KNN in second.values) == (60.0, False)


def test_steps_of_a_run_share_a_row_and_a_run_trained_again_does_not(tmp_path):
    run = tmp_path / "walk"
    result(run, "a", "knn", knn_of(30.0), val=IMAGENET, step=100, sha256="1" * 64)
    result(run, "b", "knn", knn_of(20.0), val=IMAGENET, step=50, sha256="2" * 64)
    (measured,) = collect([run])
    assert (measured.name, measured.values[KNN].percent) == ("walk", 30.0)
    result(run, "c", "knn", knn_of(10.0), val=IMAGENET, step=100, sha256="3" * 64)
    assert [(each.name, each.values[KNN].percent) for each in collect([run])] == [
        ("walk, step-1 (11111111)", 30.0),
        ("walk, step-1 (22222222)", 20.0),
        ("walk, step-1 (33333333)", 10.0),
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"checkpoint": None},
        {"checkpoint": {"name": 3}},
        {"checkpoint": {"name": "a", "step": "9"}},
        {"results": {"teacher": [1]}},
        {"results": {"teacher": [{"k": 20, "top1_percent": "much"}]}},
        {"results": []},
        {"val": 5},
    ],
)
def test_a_damaged_result_is_named(tmp_path, changed):
    run = tmp_path / "run"
    result(run, "a", "knn", knn_of(30.0), val=IMAGENET)
    path = run / "eval" / "a.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(WtoursError, match=r"a\.json is not a result of an evaluation"):
        collect([run])


def test_random_weights_have_a_row_of_their_own(tmp_path):
    run = tmp_path / "run"
    rows = {
        "teacher": [{"k": 20, "top1_percent": 30.0}],
        "random_weights": [{"k": 20, "top1_percent": 5.0}],
    }
    result(run, "a", "knn", rows, val=IMAGENET)
    davis = {"num_sequences": 30, "source": "davis", "fingerprint": "5"}
    scores = {"jf_mean_percent": 0.0, "j_mean_percent": 21.0, "f_mean_percent": 24.0}
    result(run, "b", "vos", scores, val=davis, checkpoint="initial-random", step=0)
    trained, random = collect([run])
    assert (trained.values[KNN].percent, random.values[KNN].percent) == (30.0, 5.0)
    assert random.name == "run, random weights"
    assert random.values[JF].percent == 0.0  # measured as 0 is no hole
    assert JF not in trained.values


def test_other_files_are_refused_and_other_evaluations_left_out(tmp_path):
    run = tmp_path / "run"
    result(run, "a", "segment", {"linear": {}}, val=IMAGENET)
    assert collect([run])[0].values == {}
    (run / "eval" / "b.json").write_text("[]")
    with pytest.raises(WtoursError, match=r"b\.json is not a result of an evaluation"):
        collect([run])
    with pytest.raises(CheckpointError, match="gone is not there"):
        collect([tmp_path / "gone"])


def test_the_command_prints_tables_markdown_and_json(tmp_path):
    run = tmp_path / "runs" / "walk"
    result(run, "b", "knn", {"teacher": [{"k": 20, "top1_percent": 33.75}]}, val=IMAGENET)

    def printed(*options):
        found = CliRunner().invoke(
            app, ["eval", "table", "walk", "--root", str(tmp_path), *options]
        )
        assert found.exit_code == 0, found.output
        return found.output

    assert [each["table"] for each in json.loads(printed("--json"))] == [
        *("2a", "2b", "3", "4", "5", "7a", "7b", "8")
    ]
    assert r"| walk \(measured\) |  |  |  | - | 33.8 | - | - |" in printed("--markdown")
    assert "Table 5: Image classification" in printed()
