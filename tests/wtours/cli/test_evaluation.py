"""The commands of `wtours eval` as a user types them, on one small run."""

import json

import pytest
import torch
from typer.testing import CliRunner

from tests.support.tiny_run import make_run, tiny_config
from tests.training.evaluation.dense.test_object_discovery import mask_of, picture, voc_folder
from tests.training.evaluation.dense.test_vos import write_video
from tests.training.evaluation.test_linear_probe import make_photos
from wtours.cli.app import app
from wtours.cli.evaluation.spine import opened
from wtours.errors import WtoursError

SET = "5e7" + 61 * "0"
pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("workspace")
    make_run(root / "runs" / "walk", tiny_config(), set_sha256=SET)
    bar = (8, 8, 24, 24)
    voc_folder(root / "voc", {"a": (picture([bar]), [bar])}, masks={"a": mask_of([bar])})
    write_video(root / "davis", "bar", [(8, 0, 32, 64)] * 3)
    for split, count in (("train", 3), ("val", 2)):
        make_photos(root / "photos" / split, count, seed=count)
    return root


def printed(root, *arguments):
    found = CliRunner().invoke(app, ["eval", *map(str, arguments), "--root", str(root)])
    assert found.exit_code == 0, found.output
    return found.stdout


def test_each_prints_a_table_and_where_the_result_is(root):
    images = ("--train", root / "photos/train", "--val", root / "photos/val")
    found = printed(root, "linear", "walk", *images, "--epochs", 1, "--workers", 0)
    assert "learning rate x batch / 256" in found
    assert "0.001" in found
    found = printed(root, "discover", "walk", "--voc", root / "voc", "--out", root / "drawn")
    assert "CorLoc" in found
    assert (root / "drawn" / "a.png").is_file()
    found = printed(root, "vos", "walk", "--davis", root / "davis", "--out", root / "masks")
    assert "F, boundaries" in found
    assert len(list((root / "masks" / "bar").iterdir())) == 3
    results = sorted(path.name.split("-")[0] for path in (root / "runs/walk/eval").glob("*.json"))
    assert results == ["discover", "linear", "vos"]

    tables = {each["table"]: each for each in json.loads(printed(root, "table", "walk", "--json"))}
    (row,) = tables["5"]["measured"]
    assert row["name"] == "walk"
    assert row["trained_on_set_sha256"] == [SET]
    assert f"walk: trained on the shard set of hash {SET}" in printed(root, "table", "walk")
    assert row["values"]["k-NN"] is None
    assert 0 <= row["values"]["LP"]["percent"] <= 100
    assert "on 1 image of" in row["values"]["CorLoc"]["note"]
    assert tables["4"]["measured"][0]["values"]["J_m"]["note"].startswith("on 1 sequence of")


def test_other_backbones_leave_their_results_under_a_name_of_their_own(root):
    network = "timm:vit_tiny_patch16_224,random"
    options = ("--voc", root / "voc", "--method", "lost", "--json")
    content = json.loads(printed(root, "discover", network, *options))
    assert content["checkpoint"]["kind"] == "timm"
    assert content["protocol"]["method"] == "lost"
    folder = root / "runs" / "timm-vit_tiny_patch16_224-random"
    assert len(list((folder / "eval").glob("discover-*.json"))) == 1
    assert content["checkpoint"]["trained_on_set_sha256"] is None
    random = json.loads(printed(root, "discover", "walk,random", *options))["checkpoint"]
    assert (random["step"], random["trained_on_set_sha256"]) == (0, None)  # trained on nothing


def test_a_run_is_measured_with_the_operators_that_it_was_trained_with(root):
    make_run(root / "runs" / "exact", tiny_config("optim.deterministic=true"))
    for name, expected in (("exact", True), ("walk", False)):
        with opened(name, root):
            assert torch.are_deterministic_algorithms_enabled() == expected
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("discover", "walk", "--voc", "tests"), "tests is not laid out as VOC"),
        (("vos", "walk", "--davis", "tests"), "tests is not laid out as DAVIS 2017"),
        (("segment", "walk", "--data", "nowhere"), "nowhere: no such file or folder"),
        (("linear", "walk", "--train", "nowhere", "--val", "nowhere"), "nowhere: no such file"),
        (("table", "nobody"), "nobody is not there"),
    ],
)
def test_what_is_not_there_is_named(root, arguments, message):
    found = CliRunner().invoke(app, ["eval", *arguments, "--root", str(root)])
    assert isinstance(found.exception, WtoursError)
    assert message in str(found.exception)
    assert found.exception.exit_code == 1
