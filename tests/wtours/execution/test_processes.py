import math
import os

import pytest

from wtours.errors import WtoursError
from wtours.execution.executor import run_tasks


@pytest.mark.parametrize("jobs", [1, pytest.param(3, marks=pytest.mark.medium)])
def test_every_task_comes_back_with_its_result(jobs):
    assert sorted(run_tasks(abs, [-3, -1, -2], jobs=jobs)) == [(-3, 3), (-2, 2), (-1, 1)]


def test_one_job_goes_in_order():
    assert list(run_tasks(abs, [-3, -1, -2], jobs=1)) == [(-3, 3), (-1, 1), (-2, 2)]


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.medium)])
def test_what_a_task_raises_is_raised(jobs):
    with pytest.raises(ValueError, match=r"math domain error|expected a nonnegative input"):
        list(run_tasks(math.sqrt, [-1.0, -4.0], jobs=jobs))


@pytest.mark.medium
def test_a_process_that_dies_is_one_line_and_not_a_hang():
    with pytest.raises(WtoursError, match="a worker process died") as caught:
        list(run_tasks(os._exit, [9, 9, 9], jobs=2))
    assert "fewer --jobs" in str(caught.value)


def test_no_jobs_is_the_callers_mistake():
    with pytest.raises(ValueError, match="jobs must be >= 1"):
        list(run_tasks(abs, [1], jobs=0))
