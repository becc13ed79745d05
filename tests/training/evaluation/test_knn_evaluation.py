import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from tests.support.tiny_run import CPU, ONE_PROCESS, make_run, tiny_config
from training.engine.checkpoint import load_network
from training.engine.checkpoint_files import find_checkpoint
from training.engine.setup import build_state
from training.evaluation.datasets.image_folder import open_images
from training.evaluation.features import extract_features
from training.evaluation.knn import evaluate_knn
from training.weights.backbones import initial_backbone, open_backbone
from wtours.errors import CheckpointError, ImageDataError, UsageError
from wtours.storage.hashing import sha256_file

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop


def opened(path):
    return open_backbone(str(path), Path)


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", tiny_config())


def make_photos(root, counts, seed=0):
    """Classes that differ in their mean color, with noise."""
    rng = np.random.default_rng(seed)
    colors = {"cat": (200, 40, 40), "dog": (40, 200, 40), "emu": (40, 40, 200)}
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.normal(colors[name], 60, (24, 30, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return str(root)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    train = make_photos(root / "train", {"cat": 8, "dog": 8, "emu": 8})
    return train, make_photos(root / "val", {"cat": 3, "dog": 2, "emu": 2}, seed=1)


def test_seven_images_are_classified_and_the_result_is_published(trained_run, splits):
    report = evaluate_knn(opened(trained_run), *splits, random_baseline=True)

    published = json.loads(report.path.read_text())
    assert report.path.parent == trained_run / "eval"
    assert report.path.name.startswith("knn-step-00000120-")
    assert published == json.loads(json.dumps(report.content))
    checkpoint = trained_run / "checkpoints" / "step-00000120"
    assert published["checkpoint"]["sha256"] == sha256_file(checkpoint / "model.safetensors")
    assert published["checkpoint"]["step"] == 120
    assert published["protocol"]["temperature"] == 0.07
    assert (published["protocol"]["resize_pixels"], published["protocol"]["crop_pixels"]) == (
        37,
        32,
    )
    assert (published["train"]["num_images"], published["val"]["num_images"]) == (24, 7)
    assert len(published["val"]["fingerprint"]) == 64
    assert set(published["results"]) == {"teacher", "random_weights"}
    assert [row["k"] for row in published["results"]["teacher"]] == [10, 20, 100, 200]
    assert [row["k_used"] for row in published["results"]["teacher"]] == [10, 20, 24, 24]
    assert "k=100, 200: there are 24 training images" in published["notes"][0]
    assert report.notes == published["notes"]
    random_rows = published["results"]["random_weights"]
    assert [row["k"] for row in random_rows] == [10, 20, 100, 200]


def test_the_accuracy_is_that_of_scikit_learn_on_the_same_features(trained_run, splits):
    report = evaluate_knn(opened(trained_run), *splits, ks=(1, 5))

    config, network = load_network(find_checkpoint(trained_run))
    train, val = (
        extract_features(
            {"teacher": network.backbone},
            open_images(spec),
            classes=("cat", "dog", "emu"),
            crop_pixels=config.data.global_crop_pixels,
            batch_size=7,
            device=CPU,
        )
        for spec in splits
    )
    for score in report.content["results"]["teacher"]:
        oracle = KNeighborsClassifier(
            score["k"], metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
        ).fit(train.features["teacher"].double(), train.labels)
        expected = oracle.score(val.features["teacher"].double(), val.labels)
        assert score["top1_percent"] == pytest.approx(100 * expected)


def test_random_weights_are_those_that_the_run_started_from():
    config = tiny_config()
    network = build_state(config, ONE_PROCESS).method.evaluated_network
    initial = network.backbone.state_dict()
    state = torch.random.get_rng_state()
    again = initial_backbone(config).state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in initial.items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_run_that_did_not_start_from_random_weights_has_no_random_baseline(tmp_path, splits):
    run = make_run(tmp_path / "fine", tiny_config("model.init=walk"))
    with pytest.raises(UsageError, match="did not start from random weights; its start is walk"):
        evaluate_knn(opened(run), *splits, random_baseline=True)


def test_the_same_again_gives_the_same_bytes_and_other_images_another_file(trained_run, splits):
    train, val = splits
    first = evaluate_knn(opened(trained_run), train, val, ks=(5,))
    before = first.path.read_bytes()
    again = evaluate_knn(opened(trained_run), train, val, ks=(5,))
    assert (again.path, again.path.read_bytes()) == (first.path, before)
    swapped = evaluate_knn(opened(trained_run), val, train, ks=(5,))
    assert swapped.path != first.path


def test_a_checkpoint_may_be_named_itself(trained_run, splits):
    checkpoint = trained_run / "checkpoints" / "step-00000120"
    report = evaluate_knn(opened(checkpoint), *splits, ks=(5,))
    assert report.path.parent == trained_run / "eval"


def test_images_compared_with_themselves_are_noted(trained_run, splits):
    report = evaluate_knn(opened(trained_run), splits[0], splits[0], ks=(1,))
    assert report.content["results"]["teacher"][0]["top1_percent"] == 100
    assert "each finds itself" in report.notes[0]


def test_bad_input_leaves_no_result(tmp_path, trained_run, splits):
    with pytest.raises(ImageDataError, match="nowhere: no such file"):
        evaluate_knn(opened(trained_run), splits[0], str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="norun is not there"):
        evaluate_knn(opened(tmp_path / "norun"), *splits)
    broken = tmp_path / "broken"
    make_photos(broken, {"cat": 2, "dog": 2})
    (broken / "cat" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    before = sorted((trained_run / "eval").glob("*")) if (trained_run / "eval").exists() else []
    with pytest.raises(ImageDataError, match=r"image cat/1\.png of .*broken"):
        evaluate_knn(opened(trained_run), splits[0], str(broken))
    after = sorted((trained_run / "eval").glob("*")) if (trained_run / "eval").exists() else []
    assert after == before


@pytest.mark.medium
def test_cifar_from_its_tar_is_above_chance_with_random_weights(trained_run, data_dir):
    tar = data_dir / "images" / "cifar10_10x200_10x50.tar"
    report = evaluate_knn(
        opened(trained_run), f"{tar}:cifar10/train", f"{tar}:val", random_baseline=True
    )
    assert (report.content["train"]["num_images"], report.content["val"]["num_images"]) == (
        2000,
        500,
    )
    assert report.notes == []
    by_k = {row["k"]: row for row in report.content["results"]["random_weights"]}
    assert 15 < by_k[20]["top1_percent"] < 35  # chance is 10
    assert by_k[20]["top5_percent"] > 50  # chance is 50
