"""What the page of runs reads of a run's folder: metrics.jsonl, config.yaml, eval, figures.

A run may still be trained, or have been stopped in a write: what cannot be read is named, and the
rest is shown.
"""

import json
import math
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wtours.errors import UsageError
from wtours.storage.os_errors import explain_os_errors
from wtours.text import listed

METRICS_FILE, CONFIG_FILE = "metrics.jsonl", "config.yaml"
RECENT_STEPS = 20
_MAX_POINTS = 400
"""Of a line; of more steps, means over equal spans."""
_Columns = dict[str, "tuple[array[float], array[float]]"]
"""Steps and values by metric, as the lines come: a long run has hundreds of thousands."""


@dataclass(frozen=True, eq=False, slots=True)
class MetricLine:
    """One metric of a run; P points."""

    steps: NDArray[np.float64]
    """(P,) ascending."""
    values: NDArray[np.float64]
    """(P,) finite."""
    mean: float
    """Over all steps, as are the next two: of the metric, not of the points."""
    recent: float
    """Mean over the last `RECENT_STEPS` steps."""
    last: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One number that `wtours eval` measured."""

    evaluation: str
    checkpoint: str
    measure: str
    value: float


@dataclass(frozen=True, eq=False, slots=True)
class RunData:
    """One run."""

    name: str
    folder: Path
    metrics: dict[str, MetricLine]
    """By name, those under "time" too."""
    steps: int
    """The last step that has a line; 0: none has."""
    resumed_from: tuple[int, ...]
    """Steps after which the run was stopped and resumed."""
    config: dict[str, Any]
    """Settings by "section.key"; empty where they cannot be read."""
    set_sha256: str | None = None
    """The set hash of the shards, as its newest checkpoint has it; None: not known, or images."""
    evaluations: tuple[Evaluation, ...] = ()
    figures: tuple[Path, ...] = ()
    """PNGs of attention, by name: those drawn while training carry the step."""
    problems: tuple[str, ...] = field(default=())
    """What could not be read, a line each."""


def load_run(folder: Path, *, name: str) -> RunData:
    """Return what is known of a run.

    Raises:
        UsageError: the folder is no run: it has neither metrics nor a config.
    """
    path = folder / METRICS_FILE
    if not path.is_file() and not (folder / CONFIG_FILE).is_file():
        raise UsageError(f"{folder} is no run: it has no {METRICS_FILE}; name a run's folder")
    problems: list[str] = []
    columns, last, resumed = _read_metrics(path, problems)
    config = _read_config(folder / CONFIG_FILE, problems)
    evaluations = tuple(_read_evaluations(folder / "eval", problems))
    return RunData(
        name=name,
        folder=folder,
        metrics={name: _line(*points) for name, points in columns.items()},
        steps=last,
        resumed_from=tuple(sorted(resumed)),
        config=config,
        set_sha256=_read_set_sha256(folder / "checkpoints"),
        evaluations=evaluations,
        figures=tuple(sorted((folder / "figures").glob("*.png"))),
        problems=tuple(problems),
    )


def _read_metrics(path: Path, problems: list[str]) -> tuple[_Columns, int, set[int]]:
    """Return the metrics, the last step, and the steps from which the run was resumed."""
    columns: _Columns = {}
    resumed, bad, last = set[int](), list[int](), 0
    if not path.is_file():
        problems.append(f"no {METRICS_FILE}: the run has not done a step")
        return columns, last, resumed
    with explain_os_errors(path), path.open("rb") as file:
        for number, line in enumerate(file, 1):
            row = _parse(line)
            if row is None:
                if line.endswith(b"\n"):  # else a running or killed process was about to write it
                    bad.append(number)
                continue
            step, values, came_from = row
            if came_from is not None:
                resumed.add(came_from)
            elif step <= last:  # written by something else: the later line of a step counts
                resumed.add(step - 1)
            last = step
            for name, value in values.items():
                steps, of_name = columns.setdefault(name, (array("d"), array("d")))
                steps.append(step)
                of_name.append(value)
    if bad:
        shown, plural = listed(list(map(str, bad)), most=5), "s" if len(bad) > 1 else ""
        problems.append(f"{METRICS_FILE}: line{plural} {shown} cannot be read; left out")
    return columns, last, resumed


def _parse(line: bytes) -> tuple[int, dict[str, float], int | None] | None:
    """Return step, numbers and the step resumed from; None: the line is no step."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    if not isinstance(step, int) or isinstance(step, bool) or step < 1:
        return None
    time = row.get("time")
    times = time if isinstance(time, dict) else {}
    came_from = times.get("resumed_from")
    numbers = {name: value for name, value in {**row, **times}.items() if _is_number(value)}
    for name in ("step", "resumed_from"):
        numbers.pop(name, None)
    return step, numbers, came_from if isinstance(came_from, int) else None


def _is_number(value: object) -> bool:
    # An integer of a foreign file may be too large for a float.
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < 1e300
        and math.isfinite(value)
    )


def _line(steps: "array[float]", values: "array[float]") -> MetricLine:
    """Return the points of a metric: of a step's lines the last, of many steps their means."""
    backwards = np.array(steps)[::-1]
    known, places = np.unique(backwards, return_index=True)
    at_steps = np.array(values)[::-1][places]
    recent = at_steps[known > known[-1] - RECENT_STEPS]
    numbers = (float(at_steps.mean()), float(recent.mean()), float(at_steps[-1]))
    if len(known) <= _MAX_POINTS:
        return MetricLine(known, at_steps, *numbers)
    edges = np.linspace(known[0], known[-1] + 1, _MAX_POINTS + 1)
    spans = np.searchsorted(edges, known, side="right") - 1
    counts = np.bincount(spans, minlength=_MAX_POINTS)
    means = [np.bincount(spans, weights=each, minlength=_MAX_POINTS) for each in (known, at_steps)]
    held = counts > 0
    drawn_steps, drawn = (sums[held] / counts[held] for sums in means)
    return MetricLine(drawn_steps, drawn, *numbers)


def _read_config(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        problems.append(f"{CONFIG_FILE} is not read: pyyaml of the extra `train` is not installed")
        return {}
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        problems.append(f"{CONFIG_FILE} cannot be read; left out")
        return {}
    return dict(_flatten(content)) if isinstance(content, dict) else {}


def _read_set_sha256(checkpoints: Path) -> str | None:
    for path in sorted(checkpoints.glob("step-*/state.json"), reverse=True):
        try:
            sha256 = json.loads(path.read_text("utf-8"))["data"].get("set_sha256")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # the run removes old checkpoints as it goes
        return sha256 if isinstance(sha256, str) else None
    return None


def _flatten(content: dict[Any, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _read_evaluations(folder: Path, problems: list[str]) -> Iterator[Evaluation]:
    """Yield the numbers of each result; of several of one name, the file says which it is of.

    A run that was trained again has other weights at the same step, and one network may have been
    measured on several data sets.
    """
    results = list(_results(folder, problems))
    alike = Counter((kind, checkpoint) for _, kind, checkpoint, _ in results)
    for file, kind, checkpoint, numbers in results:
        which = checkpoint if alike[kind, checkpoint] == 1 else f"{checkpoint} ({file})"
        yield from (Evaluation(kind, which, name, value) for name, value in numbers)


def _results(
    folder: Path, problems: list[str]
) -> Iterator[tuple[str, str, str, list[tuple[str, float]]]]:
    """Yield the file, the evaluation, the checkpoint and the numbers of each result."""
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text("utf-8"))
            kind, checkpoint = str(content["evaluation"]), str(content["checkpoint"]["name"])
            numbers = list(_percentages(content["results"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            problems.append(f"eval/{path.name} is no result of `wtours eval`; left out")
            continue
        yield path.name, kind, checkpoint, numbers


def _percentages(results: Any, before: str = "") -> Iterator[tuple[str, float]]:
    """Return the numbers of a result that are percentages, with what leads to them."""
    if isinstance(results, dict):
        rate = results.get("learning_rate_for_256")  # of a classifier of `eval linear`
        label = f"k={results['k']} " if "k" in results else f"lr={rate} " if rate else ""
        for name, value in results.items():
            if _is_number(value) and str(name).endswith("_percent"):
                words = str(name).removesuffix("_percent").replace("_", " ")
                yield f"{before}{label}{words}", float(value)
            elif isinstance(value, dict | list):
                yield from _percentages(value, f"{before}{str(name).replace('_', ' ')}, ")
    elif isinstance(results, list):
        for each in results:
            yield from _percentages(each, before)
