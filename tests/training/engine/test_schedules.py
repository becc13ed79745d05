import math

import numpy as np
import pytest

from training.engine.schedules import Schedules, cosine, linear, warmup_cosine


def dino_cosine(base, final, steps, warmup_steps=0):
    """The schedule as the released code computes it, as an array over all steps."""
    warmup = np.linspace(0, base, warmup_steps) if warmup_steps else np.array([])
    i = np.arange(steps - warmup_steps)
    rest = final + 0.5 * (base - final) * (1 + np.cos(np.pi * i / len(i)))
    return np.concatenate((warmup, rest))


def schedules(**changes):
    defaults = {
        "steps": 100,
        "steps_per_epoch": 10.0,
        "lr": 5e-4,
        "min_lr": 1e-5,
        "warmup_epochs": 3,
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "momentum": 0.996,
        "momentum_end": 1.0,
        "teacher_temp": 0.07,
        "warmup_teacher_temp": 0.04,
        "warmup_teacher_temp_epochs": 4,
        "freeze_last_layer_epochs": 1,
    }
    return Schedules(**(defaults | changes))


def test_learning_rate_decay_and_momentum_are_those_of_the_released_code():
    expected = dino_cosine(5e-4, 1e-5, 100, warmup_steps=30)
    lrs = [schedules().at(step).lr for step in range(100)]
    np.testing.assert_allclose(lrs, expected, rtol=1e-12)
    decays = [schedules().at(step).weight_decay for step in range(100)]
    np.testing.assert_allclose(decays, dino_cosine(0.04, 0.4, 100), rtol=1e-12)
    momenta = [schedules().at(step).momentum for step in range(100)]
    np.testing.assert_allclose(momenta, dino_cosine(0.996, 1.0, 100), rtol=1e-12)


def test_the_teacher_temperature_rises_by_epochs_and_stays():
    expected = np.linspace(0.04, 0.07, 4)
    temps = [schedules().at(10 * epoch).teacher_temp for epoch in range(6)]
    np.testing.assert_allclose(temps, [*expected, 0.07, 0.07], rtol=1e-12)


def test_the_last_layer_is_trained_from_the_second_epoch_on():
    trained = [schedules().at(step).train_last_layer for step in (0, 9, 10, 99)]
    assert trained == [False, False, True, True]


@pytest.mark.parametrize(("step", "value"), [(0, 2.0), (5, 1.0), (10, 0.0), (20, 0.0)])
def test_cosine_by_hand(step, value):
    assert cosine(step, start=2.0, end=0.0, steps=10) == pytest.approx(value, abs=1e-12)


def test_warm_up_of_no_steps_starts_at_the_peak():
    assert warmup_cosine(0, peak=1.0, end=0.0, warmup_steps=0, steps=10) == 1.0
    assert linear(0, start=1.0, end=3.0, steps=0) == 3.0
    assert math.isclose(linear(1, start=1.0, end=3.0, steps=3), 2.0)
