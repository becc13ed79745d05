import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier

from training.evaluation.knn import count_votes, knn_scores


def unit_rows(count, width=16, *, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, width, generator=generator), dim=1)


def labels(count, num_classes=7, *, seed):
    return torch.randint(num_classes, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_top1_equals_scikit_learn(temperature):
    train, train_labels = unit_rows(300, seed=0), labels(300, seed=1)
    val, val_labels = unit_rows(90, seed=2), labels(90, seed=3)
    ks = (1, 10, 20, 100, 200)

    scores = knn_scores(train, train_labels, val, val_labels, ks=ks, temperature=temperature)

    assert [score.k for score in scores] == list(ks)
    for score in scores:
        oracle = KNeighborsClassifier(
            n_neighbors=score.k,
            metric="cosine",
            algorithm="brute",
            weights=lambda distance: np.exp((1 - distance) / temperature),
        )
        oracle.fit(train.double().numpy(), train_labels.numpy())
        expected = oracle.score(val.double().numpy(), val_labels.numpy())
        assert score.top1_percent == pytest.approx(100 * expected, abs=1e-9)


def test_top5_equals_scikit_learns_probabilities():
    train, train_labels = unit_rows(300, seed=0), labels(300, 20, seed=1)
    val, val_labels = unit_rows(90, seed=2), labels(90, 20, seed=3)
    oracle = KNeighborsClassifier(
        50, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
    )
    votes = oracle.fit(train.double(), train_labels).predict_proba(val.double())
    five = np.argsort(-votes, axis=1, kind="stable")[:, :5]
    assert (np.sort(votes, axis=1)[:, -5] > 0).all()  # five classes have votes in every row

    (score,) = knn_scores(train, train_labels, val, val_labels, ks=(50,), temperature=0.07)

    expected = 100 * (five == val_labels.numpy()[:, None]).any(axis=1).mean()
    assert score.top5_percent == pytest.approx(expected, abs=1e-9)
    assert score.top5_percent > score.top1_percent


def test_one_near_neighbor_outvotes_two_far_ones():
    # Similarities 0.9, 0.8, 0.8: exp(0.9/T) against 2 exp(0.8/T); the nearer wins for T < 0.144.
    angles = torch.tensor([math.acos(0.9), math.acos(0.8), -math.acos(0.8)])
    train = torch.stack([angles.cos(), angles.sin()], dim=1)
    train_labels = torch.tensor([0, 1, 1])
    val, val_labels = torch.tensor([[1.0, 0.0]]), torch.tensor([0])

    def top1(k, temperature):
        return knn_scores(train, train_labels, val, val_labels, ks=(k,), temperature=temperature)[
            0
        ].top1_percent

    assert top1(3, 0.07) == 100
    assert top1(3, 0.2) == 0
    assert top1(1, 0.2) == 100


def test_votes_are_the_weights_relative_to_the_nearest():
    votes = count_votes(
        torch.tensor([[0.5, 0.4, 0.3]], dtype=torch.float64),
        torch.tensor([[2, 0, 2]]),
        num_classes=3,
        temperature=0.1,
    )
    expected = torch.tensor([[math.exp(-1), 0, 1 + math.exp(-2)]], dtype=torch.float64)
    torch.testing.assert_close(votes, expected, rtol=1e-6, atol=0)


def test_no_temperature_overflows():
    votes = count_votes(
        torch.tensor([[1.0, 0.9]]), torch.tensor([[0, 1]]), num_classes=2, temperature=1e-4
    )
    assert votes.isfinite().all()
    assert votes.argmax() == 0


def test_seven_validation_images_are_enough():
    train, train_labels = unit_rows(40, seed=0), labels(40, seed=1)
    (score,) = knn_scores(train, train_labels, train[:7], train_labels[:7], ks=(1,), temperature=1)
    assert (score.top1_percent, score.top5_percent) == (100, 100)


def test_a_class_without_a_vote_is_not_among_the_first_five():
    train, train_labels = torch.eye(6), torch.arange(6)
    (score,) = knn_scores(
        train, train_labels, train[:1], torch.tensor([3]), ks=(1,), temperature=0.07
    )
    assert score.top5_percent == 0


def test_more_neighbors_than_training_images_counts_all_of_them():
    train, train_labels = unit_rows(30, seed=0), labels(30, seed=1)
    val, val_labels = unit_rows(20, seed=2), labels(20, seed=3)
    all_of_them, more = knn_scores(
        train, train_labels, val, val_labels, ks=(30, 200), temperature=0.07
    )
    assert (more.k, more.k_used) == (200, 30)
    assert more.top1_percent == all_of_them.top1_percent


def test_pieces_give_what_the_whole_gives(monkeypatch):
    train, train_labels = unit_rows(50, seed=0), labels(50, seed=1)
    val, val_labels = unit_rows(31, seed=2), labels(31, seed=3)
    arguments = train, train_labels, val, val_labels
    whole = knn_scores(*arguments, ks=(10, 20), temperature=0.07)
    monkeypatch.setattr("training.evaluation.knn._SIMILARITIES_AT_ONCE", 4 * len(train))
    assert knn_scores(*arguments, ks=(10, 20), temperature=0.07) == whole
