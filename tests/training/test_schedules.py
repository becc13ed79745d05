import math

import numpy as np
import pytest

from training.config.sections import OptimConfig
from training.engine.optim import scheduled_values
from training.schedules import Progress, cosine, linear, warmup_cosine


def dino_cosine(base, final, steps, warmup_steps=0):
    """The schedule as the released code computes it, as an array over all steps."""
    warmup = np.linspace(0, base, warmup_steps) if warmup_steps else np.array([])
    i = np.arange(steps - warmup_steps)
    rest = final + 0.5 * (base - final) * (1 + np.cos(np.pi * i / len(i)))
    return np.concatenate((warmup, rest))


OPTIM = OptimConfig(lr=5e-4, lr_clips=None, min_lr=1e-5, warmup_epochs=3)
RUN = Progress(step=0, steps=100, steps_per_epoch=10.0)


def test_learning_rate_decay_and_momentum_are_those_of_the_released_code():
    expected = dino_cosine(5e-4, 1e-5, 100, warmup_steps=30)
    values = [scheduled_values(OPTIM, RUN.at(step)) for step in range(100)]
    np.testing.assert_allclose([value.lr for value in values], expected, rtol=1e-12)
    decays = [value.weight_decay for value in values]
    np.testing.assert_allclose(decays, dino_cosine(0.04, 0.4, 100), rtol=1e-12)
    momenta = [RUN.at(step).cosine(start=0.996, end=1.0) for step in range(100)]
    np.testing.assert_allclose(momenta, dino_cosine(0.996, 1.0, 100), rtol=1e-12)


def test_the_learning_rate_is_scaled_by_the_batch():
    warm = RUN.at(29)  # the last of the warm-up
    assert scheduled_values(OptimConfig(warmup_epochs=3), warm).lr == pytest.approx(2.5e-4)
    assert scheduled_values(OPTIM, warm).lr == pytest.approx(5e-4)


def test_the_teacher_temperature_rises_by_epochs_and_stays():
    expected = np.linspace(0.04, 0.07, 4)
    temps = [
        RUN.at(10 * epoch + 9).linear_by_epoch(start=0.04, end=0.07, epochs=4) for epoch in range(6)
    ]
    np.testing.assert_allclose(temps, [*expected, 0.07, 0.07], rtol=1e-12)


@pytest.mark.parametrize(("step", "value"), [(0, 2.0), (5, 1.0), (10, 0.0), (20, 0.0)])
def test_cosine_by_hand(step, value):
    assert cosine(step, start=2.0, end=0.0, steps=10) == pytest.approx(value, abs=1e-12)


def test_warm_up_of_no_steps_starts_at_the_peak():
    assert warmup_cosine(0, peak=1.0, end=0.0, warmup_steps=0, steps=10) == 1.0
    assert linear(0, start=1.0, end=3.0, steps=0) == 3.0
    assert math.isclose(linear(1, start=1.0, end=3.0, steps=3), 2.0)
