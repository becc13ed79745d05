import json

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score
from typer.testing import CliRunner

from tests.support.pixel_labels import ADE20K, CAMVID, stripes, write_data
from tests.support.tiny_run import CPU, make_run, tiny_config
from training.evaluation.datasets.segmentation import open_labeled_pixels
from training.evaluation.dense.patch_classifiers import (
    PatchKnnConfig,
    PatchLinearConfig,
    fit_linear,
    fit_neighbors,
    predict_pixels,
)
from training.evaluation.dense.patch_features import SplitTokens
from training.evaluation.dense.segmentation import evaluate_segmentation
from training.weights.backbones import open_backbone
from wtours.cli.app import app
from wtours.errors import ImageDataError, UsageError

RUNNER = CliRunner()
pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop

MAPS = {
    "train": [stripes([0, 1, 2]), stripes([2, 0])],
    "test": [stripes([1, 2, 0]), stripes([-1, 1])],
}
LINEAR = PatchLinearConfig(epochs=20)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", tiny_config())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("camvid"), CAMVID, MAPS)


def test_the_published_scores_are_those_of_scikit_learn_on_the_same_pixels(run, data):
    backbone = open_backbone(str(run), lambda name: run)
    result = evaluate_segmentation(backbone, data, linear=LINEAR)

    train, test = (SplitTokens(backbone, split, 64) for split in open_labeled_pixels(data))
    classify = fit_linear(train, LINEAR)
    truth = [test.images.labels(number) for number in range(2)]
    found = [predict_pixels(classify, test.grid(n), truth[n].shape, CPU) for n in range(2)]
    y, z = np.stack(truth), np.stack(found)
    y, z = y[y >= 0], z[np.stack(truth) >= 0]
    score = result.content["results"]["linear"]
    labels = np.unique([*np.unique(y), *np.unique(z)])
    assert score["mean_iou_percent"] == pytest.approx(
        100 * jaccard_score(y, z, labels=labels, average="macro")
    )
    hits = np.diag(confusion_matrix(y, z)).sum()
    assert score["pixel_accuracy_percent"] == pytest.approx(100 * hits / len(y))


def test_the_result_is_published_with_constants_and_fingerprints(run, data):
    backbone = open_backbone(str(run), lambda name: run)
    result = evaluate_segmentation(backbone, data, linear=LINEAR)

    published = json.loads(result.path.read_text())
    assert result.path.parent == run / "eval"
    assert published["evaluation"] == "segment"
    assert published["protocol"]["short_side_pixels"] == 64  # twice the run's crops
    assert published["protocol"]["linear"]["epochs"] == 20
    assert published["train"]["num_images"] == published["test"]["num_images"] == 2
    assert published["train"]["fingerprint"] == open_labeled_pixels(data)[0].fingerprint()
    assert set(published["results"]) == {
        "linear",
        "linear_with_position",
        "position_alone",
        "dense_knn",
    }
    again = evaluate_segmentation(backbone, data, linear=LINEAR)
    assert again.content == result.content
    other = evaluate_segmentation(backbone, data, short_side=32, linear=LINEAR)
    assert other.path != result.path


def test_every_patch_has_one_vote_however_near_its_neighbors_are(run, data):
    """Else the one whose neighbors are all as near wins most of the pixels between two patches."""
    backbone = open_backbone(str(run), lambda name: run)
    train, test = (SplitTokens(backbone, split, 64) for split in open_labeled_pixels(data))
    scores = fit_neighbors(train, PatchKnnConfig(k=5))(test.grid(0).tokens.flatten(0, 1).float())
    assert scores.shape[1] == train.images.layout.num_classes
    assert scores.min() >= 0
    np.testing.assert_allclose(scores.sum(dim=1).numpy(), 1, rtol=1e-5)


def test_a_short_side_below_a_patch_is_refused(run, data):
    with pytest.raises(UsageError, match=r"--short-side \(7\) must be at least a patch \(8\)"):
        evaluate_segmentation(open_backbone(str(run), lambda name: run), data, short_side=7)


def test_the_command_prints_a_table_of_the_ade20k_layout(run, tmp_path):
    folder = write_data(tmp_path, ADE20K, MAPS)

    result = RUNNER.invoke(
        app, ["eval", "segment", str(run), "--data", str(folder), "--short-side", "32"]
    )

    assert result.exit_code == 0
    assert "mean IoU" in result.stdout
    assert "dense knn" in result.stdout


def test_the_command_refuses_data_of_no_known_layout(run, tmp_path):
    result = RUNNER.invoke(app, ["eval", "segment", str(run), "--data", str(tmp_path)])

    assert isinstance(result.exception, ImageDataError)
    assert "labels of no known layout" in str(result.exception)
