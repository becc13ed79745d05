import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from tests.support.pixel_labels import CAMVID, stripes, write_data
from tests.support.tiny_run import CPU, make_run, tiny_config
from training.evaluation.datasets.segmentation import open_labeled_pixels
from training.evaluation.dense.patch_classifiers import (
    PatchKnnConfig,
    PatchLinearConfig,
    fit_linear,
    fit_neighbors,
    predict_pixels,
    score_split,
)
from training.evaluation.dense.patch_features import (
    PatchGrid,
    SplitTokens,
    class_shares,
    network_size,
    position_features,
)
from training.weights.backbones import open_backbone

pytestmark = pytest.mark.medium  # a network and trained heads: left out of the inner loop

MAPS = {
    "train": [stripes([0, 1, 2]), stripes([2, 1, 0]), stripes([1, 0, -1])],
    "test": [stripes([1, 2, 0])],
}


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segment")
    backbone = open_backbone(str(make_run(folder / "run", tiny_config())), lambda name: folder)
    data = write_data(folder / "data", CAMVID, MAPS)
    return [SplitTokens(backbone, images, 32) for images in open_labeled_pixels(data)]


def test_shares_of_whole_patches_count_the_pixels():
    labels = np.zeros((4, 4), np.int64)
    labels[0, 0] = 1
    labels[:, 2:] = [[2, 2], [2, -1], [-1, -1], [-1, -1]]

    shares = class_shares(labels, (2, 2), num_classes=3)

    assert shares[0, 0].tolist() == [0.75, 0.25, 0]
    assert shares[0, 1].tolist() == [0, 0, 0.75]
    assert shares[1].tolist() == [[1, 0, 0], [0, 0, 0]]


def test_a_pixel_on_a_border_counts_for_both_patches_by_its_area():
    labels = np.array([[0, 1, 2]])

    shares = class_shares(labels, (1, 2), num_classes=3)

    expected = torch.tensor([[[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]])
    torch.testing.assert_close(shares, expected)


def test_images_are_resized_to_whole_patches():
    assert network_size(480, 360, short_side=192, patch=8) == (256, 192)
    assert network_size(480, 360, short_side=100, patch=8) == (136, 96)  # 133.3, 100
    assert network_size(30, 3000, short_side=4, patch=8) == (8, 400)


def test_positions_are_cosines_of_the_patch_centers():
    features = position_features(2, 4)

    assert features.shape == (2, 4, 35)
    x, y = 0.625, 0.25  # the third of four columns, the first of two rows
    expected = [np.cos(np.pi * i * y) * np.cos(np.pi * j * x) for i in range(6) for j in range(6)]
    np.testing.assert_allclose(features[0, 2], expected[1:], atol=1e-6)


def test_the_linear_head_finds_the_optimum_that_scikit_learn_finds(splits):
    train, _ = splits
    settings = PatchLinearConfig(epochs=600, images_per_step=3, weight_decay=0.01)
    classify = fit_linear(train, settings)

    tokens = torch.cat([grid.tokens.flatten(0, 1) for grid in train.grids()]).double()
    shares = torch.cat([grid.shares.flatten(0, 1) for grid in train.grids()]).double()
    standard = (tokens - tokens.mean(0)) / tokens.std(0, correction=0)
    rows, classes = shares.nonzero(as_tuple=True)
    reference = LogisticRegression(C=1.0, max_iter=5000).fit(
        standard[rows], classes, sample_weight=shares[rows, classes]
    )
    ours = classify(tokens.float()).double()
    labels = shares.argmax(1)
    scored = shares.sum(1) > 0

    assert set(classes.tolist()) == {0, 1, 2}
    theirs = torch.from_numpy(reference.predict(standard[scored].numpy()))
    assert (ours[scored].argmax(1) == theirs).double().mean() > 0.98
    loss = -(shares * ours.log_softmax(1)).sum() / shares.sum()
    probabilities = torch.from_numpy(reference.predict_proba(standard.numpy())).clamp(min=1e-12)
    assert loss < -(shares[:, :3] * probabilities.log()).sum() / shares.sum()  # less regularized
    assert (ours[scored].argmax(1) == labels[scored]).double().mean() > 0.95


def test_dense_neighbors_vote_as_scikit_learn_counts(splits):
    train, test = splits
    settings = PatchKnnConfig(k=5, bank_patches=10_000)
    classify = fit_neighbors(train, settings)

    tokens = F.normalize(torch.cat([g.tokens.flatten(0, 1) for g in train.grids()]).float(), dim=1)
    shares = torch.cat([g.shares.flatten(0, 1) for g in train.grids()])
    scored = shares.sum(1) > 0
    reference = KNeighborsClassifier(
        5, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(tokens[scored], shares[scored].argmax(1))
    queries = test.grid(0).tokens.flatten(0, 1).float()
    votes = classify(queries)

    expected = torch.from_numpy(reference.predict_proba(F.normalize(queries, dim=1))).float()
    actual = votes[:, :3] / votes.sum(1, keepdim=True)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
    assert (votes[:, 3:] == 0).all()


def test_a_bank_of_few_patches_is_spread_over_all_images(splits):
    train, _ = splits
    of_each = [grid.tokens.flatten(0, 1) for grid in train.grids()]
    kept = torch.cat(of_each)[::3]  # 24 patches an image: at most 24 of 72 is every third

    classify = fit_neighbors(train, PatchKnnConfig(k=1, bank_patches=24))

    # Each kept patch finds itself: its own class has all the votes.
    shares = torch.cat([grid.shares.flatten(0, 1) for grid in train.grids()])[::3]
    scored = shares.sum(1) > 0
    votes = classify(kept[scored].float())
    assert (votes.argmax(1) == shares[scored].argmax(1)).all()


def test_scores_of_patches_are_enlarged_bilinearly():
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]).half()  # one row, two patches
    grid = PatchGrid(tokens, torch.zeros(1, 2, 2))

    predicted = predict_pixels(lambda tokens: tokens * torch.tensor([1.0, 3.0]), grid, (2, 8), CPU)

    # Class 1 grows from 0 to 3 between the centers at 1.5 and 5.5, class 0 falls from 1 to 0: they
    # cross a quarter of the way, at pixel 2.5.
    assert predicted.tolist() == [[0, 0, 0, 1, 1, 1, 1, 1]] * 2


def test_colors_are_read_out_better_than_places(splits):
    train, test = splits
    settings = PatchLinearConfig(epochs=60, images_per_step=3)

    by_tokens = score_split(fit_linear(train, settings), test)
    place = train.seen_as("position"), test.seen_as("position")
    by_place = score_split(fit_linear(place[0], settings), place[1])

    assert by_tokens.mean_iou_percent > 70
    assert by_place.mean_iou_percent < 50


def test_what_does_not_fit_the_cache_is_computed_anew(splits, monkeypatch):
    train, _ = splits
    kept = [grid.tokens for grid in train.grids()]
    monkeypatch.setattr("training.evaluation.dense.patch_features.CACHE_BYTES", 0)
    fresh = SplitTokens(train.backbone, train.images, train.short_side)

    assert all(torch.equal(a, b.tokens) for a, b in zip(kept, fresh.grids(), strict=True))
    assert fresh.grid(0) is not fresh.grid(0)
    assert train.grid(0) is train.grid(0)


def test_all_views_of_a_split_keep_what_fits_the_cache_together(splits, monkeypatch):
    train, _ = splits
    grid = train.grid(0)
    monkeypatch.setattr(
        "training.evaluation.dense.patch_features.CACHE_BYTES",
        2 * (grid.tokens.nbytes + grid.shares.nbytes),
    )
    fresh = SplitTokens(train.backbone, train.images, train.short_side)
    for view in (fresh.seen_as("tokens_and_position"), fresh.seen_as("position"), fresh):
        list(view.grids())

    is_kept = [fresh.grid(number) is fresh.grid(number) for number in range(len(fresh))]
    assert is_kept == [True, True, False]
