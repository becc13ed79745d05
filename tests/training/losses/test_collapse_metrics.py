import logging
import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from training.config.presets import resolve_config
from training.losses.collapse_metrics import effective_rank, embedding_spread, mask_overlap
from training.monitors.collapse import CollapseMonitor, collapse_warnings


def test_the_spread_is_0_for_one_embedding_and_1_for_all_directions_alike():
    same = torch.tensor([[3.0, 4.0]]).repeat(10, 1)
    assert embedding_spread(same) == 0
    axes = torch.cat([torch.eye(4), -torch.eye(4)])
    assert embedding_spread(axes) == pytest.approx(1)  # each coordinate: variance 2/8
    assert embedding_spread(7 * axes) == pytest.approx(1)


def test_the_effective_rank_counts_the_directions_in_use():
    assert effective_rank(torch.ones(6, 4)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.eye(4).repeat(3, 1)) == pytest.approx(4)
    assert effective_rank(torch.eye(8)[:3]) == pytest.approx(3)
    # Singular values sqrt(9) and sqrt(1): shares 3/4 and 1/4.
    rows = torch.eye(2)[[0] * 9 + [1]]
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(rows) == pytest.approx(math.exp(entropy))
    assert torch.isnan(effective_rank(torch.tensor([[math.nan, 1.0], [0.0, 1.0]])))


def test_the_overlap_of_masks_is_the_iou_where_they_are_binary():
    one = torch.tensor([1.0, 1, 0, 0])
    other = torch.tensor([0.0, 1, 1, 0])
    masks = torch.stack([one, other])[:, None]  # (O, T, N)
    assert mask_overlap(masks) == pytest.approx(1 / 3)
    assert mask_overlap(torch.stack([one, one])[:, None]) == 1
    third = torch.stack([one, other, 1 - one])[:, None]
    assert mask_overlap(third) == pytest.approx((1 / 3 + 0 + 1 / 3) / 3)
    assert mask_overlap(torch.zeros(2, 1, 4)) == 0
    soft = torch.tensor([[0.5, 0.25], [0.25, 0.5]])[:, None]
    assert mask_overlap(soft) == pytest.approx(0.5)
    assert mask_overlap(masks[:1]) is None
    assert mask_overlap(None) is None


def test_a_warning_comes_once_after_fifty_steps_and_says_what_to_try(caplog):
    caplog.set_level(logging.WARNING)
    monitor = CollapseMonitor(resolve_config("demo", None, []))
    uniform = {"teacher_entropy": math.log(1024) - 0.01, "embedding_spread": 0.5}
    said = [monitor.update(step, uniform) for step in range(1, 121)]
    lines: list[dict[str, Any]] = [
        {"step": step, **uniform, "loss": None, "time": {}} for step in range(1, 121)
    ]
    assert collapse_warnings(resolve_config("demo", None, []), lines) == said[49]
    logged = CollapseMonitor(resolve_config("demo", None, []))
    for step in range(1, 51):
        assert logged.after_step(cast(Any, SimpleNamespace(step=step)), uniform) == {}
    assert caplog.messages == said[49]
    assert [step for step, some in enumerate(said, 1) if some] == [50]
    assert said[49][0].startswith(
        "step 50: teacher_entropy is 6.92 over 50 steps: the teacher's output is almost uniform"
    )
    assert "loss.teacher_temp" in said[49][0]
    (spread,) = [text for step in range(121, 200) for text in monitor.update(step, NOTHING)]
    assert "all frames have almost the same embedding" in spread


NOTHING = {"embedding_spread": 0.0, "effective_rank": math.nan}


def test_a_run_that_goes_well_gets_no_warning(caplog):
    monitor = CollapseMonitor(resolve_config("demo", None, []))
    well = {
        "teacher_entropy": 5.7,
        "teacher_mean_entropy": 6.9,
        "embedding_spread": 0.4,
        "effective_rank": 9.0,
        "mask_coverage": 0.4,
        "mask_overlap": 0.3,
    }
    assert not [text for step in range(200) for text in monitor.update(step, well)]
    assert not caplog.records
