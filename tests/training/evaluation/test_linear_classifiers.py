"""Linear classifiers against torch's own training loop and scikit-learn's optimum."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn

from training.evaluation.linear_classifiers import LinearHeads

CPU = torch.device("cpu")


def made_features(count, *, seed, width=6, classes=3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    centers = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    return 0.5 * centers[labels] + torch.randn(count, width, generator=generator), labels


def heads_of(*rates, width=6, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return LinearHeads(width, classes, rates, device=CPU, generator=generator)


def train(heads, features, labels, *, epochs, batch_size):
    for epoch in range(epochs):
        heads.set_epoch(epoch, epochs)
        for part, answers in zip(features.split(batch_size), labels.split(batch_size), strict=True):
            heads.step(part, answers, batch_size=len(part))


def test_the_weights_are_those_of_torchs_sgd_and_cosine_schedule():
    features, labels = made_features(50, seed=1)
    heads = heads_of(0.5)
    linear = nn.Linear(6, 3)
    linear.load_state_dict(heads.heads[0].state_dict())
    optimizer = torch.optim.SGD(linear.parameters(), 0.5, momentum=0.9, weight_decay=0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5, eta_min=0)
    for _ in range(5):
        for start in range(0, 50, 16):
            optimizer.zero_grad()
            output = linear(features[start : start + 16])
            F.cross_entropy(output, labels[start : start + 16]).backward()
            optimizer.step()
        scheduler.step()

    train(heads, features, labels, epochs=5, batch_size=16)

    torch.testing.assert_close(heads.heads[0].state_dict(), linear.state_dict())


def test_the_first_weights_are_normal_with_a_deviation_of_a_hundredth():
    heads = heads_of(0.1, 1.0, width=400, classes=100)
    first, second = (dict(head.named_parameters()) for head in heads.heads)
    assert first["weight"].std().item() == pytest.approx(0.01, rel=0.02)
    assert first["bias"].abs().max() == 0
    assert torch.equal(first["weight"], second["weight"])


def test_heads_trained_together_are_those_trained_alone():
    features, labels = made_features(40, seed=2)
    together, alone = heads_of(0.05, 0.5), heads_of(0.5)
    for heads in (together, alone):
        train(heads, features, labels, epochs=3, batch_size=16)
    torch.testing.assert_close(
        together.heads[1].state_dict(), alone.heads[0].state_dict(), rtol=0, atol=0
    )


def test_full_batches_reach_the_optimum_of_scikit_learn():
    features, labels = made_features(300, seed=3)
    unseen, answers = made_features(200, seed=4)
    heads = heads_of(1.0)
    train(heads, features, labels, epochs=400, batch_size=300)

    oracle = LogisticRegression(C=math.inf, tol=1e-8, max_iter=1000).fit(features, labels)
    best = F.cross_entropy(
        torch.from_numpy(oracle.decision_function(features)).float(), labels
    ).item()
    ours = F.cross_entropy(heads.heads[0](features), labels).item()
    assert best - 1e-5 < ours < best + 1e-4
    counts, num_images = heads.hits(unseen, answers)
    assert counts[0, 0].item() == round(200 * oracle.score(unseen, answers))
    assert num_images == 200


def test_hits_count_the_first_and_the_first_five():
    heads = heads_of(1.0, width=7, classes=7)
    with torch.no_grad():
        heads.heads[0].weight.copy_(torch.eye(7))
    scores = torch.arange(7.0).expand(3, 7)  # class 6 first, then 5, 4, 3, 2
    counts, _ = heads.hits(scores, torch.tensor([6, 2, 1]))
    assert counts.tolist() == [[1, 2]]


def test_a_state_goes_on_as_if_never_stopped():
    features, labels = made_features(40, seed=5)
    whole, stopped, again = (heads_of(0.2, 0.4) for _ in range(3))
    train(whole, features, labels, epochs=2, batch_size=10)
    train(whole, features, labels, epochs=2, batch_size=10)
    train(stopped, features, labels, epochs=2, batch_size=10)
    again.load_state(stopped.state())
    train(again, features, labels, epochs=2, batch_size=10)
    torch.testing.assert_close(again.state(), whole.state(), rtol=0, atol=0)
