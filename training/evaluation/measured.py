"""What was measured of networks, read from <run>/eval/*.json; no network is loaded.

Whether a figure compares with the paper's is said beside it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.engine.checkpoint_files import INITIAL
from training.evaluation import published as paper
from training.evaluation.results import no_result, read_result
from wtours.errors import CheckpointError
from wtours.text import counted

PAPER_RATE, PAPER_K = 0.001, 20
PAPER_FINETUNING = (160_000, 4, 512)
"""Steps, images in a step, and pixels of a crop's side (iBOT's, which the paper follows)."""
IMAGENET_TRAINING, ADE20K_TRAINING = 1_281_167, 20_210
"""Training images: a tenth of ImageNet is another task, measured on the same 50,000."""
_Content = tuple[Path, dict[str, Any]]
"""A result's file and what is in it."""


@dataclass(frozen=True)
class Value:
    """One measured figure."""

    percent: float
    source: str
    """Name of the JSON that it was read from."""
    note: str
    """Why it does not compare with the paper's; empty: it does."""


@dataclass(frozen=True)
class Measured:
    """What was measured of one network: a run, or the random weights that it started from."""

    name: str
    values: dict[str, Value]
    trained_on: tuple[str, ...] = ()
    """The set hashes that its results record; results of older versions record none."""
    weights: tuple[str, ...] = ()
    """The sha256 of its weights, as its results record them: of several steps of one run."""


@dataclass(frozen=True)
class _Kind:
    """How one evaluation's JSON is read."""

    values: Callable[[dict[str, Any]], dict[str, float | None]]
    """Figures by the paper's columns; None: not in it."""
    paper_size: tuple[str, int]
    """A field of `val` or `test` and its value on the paper's data."""
    paper_training: int | None = None
    """Images of `train` on the paper's data; None: nothing is learned from any."""


def collect(runs: Iterable[Path]) -> list[Measured]:
    """Return what was measured of each run: one row for it, one for its random weights if any.

    Of several results of one kind the one on the paper's data counts, then the one of the most
    trained checkpoint. Weights that are no steps of one run get a row each: files of one name, a
    run that was trained again under its name.

    Raises:
        CheckpointError: a run is not there.
        WtoursError: a file in its folder eval is no result.
    """
    rows = []
    for run in runs:
        if not run.is_dir():
            raise CheckpointError(f"{run} is not there; give the name or the folder of a run")
        contents = [(path, read_result(path)) for path in sorted((run / "eval").glob("*.json"))]
        trained = [each for each in contents if each[1]["checkpoint"]["name"] != INITIAL]
        random = [each for each in contents if each not in trained]
        random += [(path, _random_part(content)) for path, content in trained]
        rows += [
            Measured(
                name,
                _values(part),
                _recorded(part, "trained_on_set_sha256"),
                _recorded(part, "sha256"),
            )
            for name, part in _by_weights(run.name, trained)
        ]
        if values := _values(random):
            rows.append(Measured(f"{run.name}, random weights", values))
    return rows


def _recorded(contents: Iterable[_Content], name: str) -> tuple[str, ...]:
    """Return what the results record of their checkpoints under a name."""
    values = (content["checkpoint"].get(name) for _, content in contents)
    return tuple(sorted({each for each in values if each}))


def _by_weights(name: str, contents: list[_Content]) -> list[tuple[str, list[_Content]]]:
    """Return the results of each network by the name of its row."""
    checkpoints = [content["checkpoint"] for _, content in contents]
    known = {(each.get("step"), each["sha256"]) for each in checkpoints if each.get("sha256")}
    weights_at = Counter(step for step, _ in known)
    is_one_file = weights_at.pop(None, 0) <= 1
    is_one_run = max(weights_at.values(), default=0) <= 1
    groups = defaultdict[tuple[Any, ...], list[_Content]](list)
    for each, item in zip(checkpoints, contents, strict=True):
        step, sha256 = each.get("step"), each.get("sha256")
        is_one = is_one_file if step is None else is_one_run
        groups[(step is None,) if is_one else (step is None, step, sha256)].append(item)
    if len(groups) <= 1:
        return [(name, contents)]
    named = []
    for key, part in groups.items():
        checkpoint = part[0][1]["checkpoint"]
        digits = (checkpoint.get("sha256") or "")[:8] or "weights not recorded"
        own = f"{name}, {checkpoint['name']} ({digits})"
        named.append((name if key == (False,) else own, part))
    return named


def _linear(content: dict[str, Any]) -> dict[str, float | None]:
    heads = content["results"]["heads"]
    at_rate = [head for head in heads if head["learning_rate_for_256"] == PAPER_RATE]
    return {paper.LINEAR: max(head["best_top1_percent"] for head in at_rate or heads)}


def _knn(content: dict[str, Any]) -> dict[str, float | None]:
    rows = content["results"].get("teacher", [])
    return {paper.KNN: next((row["top1_percent"] for row in rows if row["k"] == PAPER_K), None)}


def _discover(content: dict[str, Any]) -> dict[str, float | None]:
    if content["protocol"]["method"] != "attention":
        return {}
    results = content["results"]
    return {paper.CORLOC: results["corloc_percent"], paper.JACCARD: results["jaccard_percent"]}


def _named(**columns: str) -> Callable[[dict[str, Any]], dict[str, float | None]]:
    """Return a reader of results that have the figures under these names."""

    def read(content: dict[str, Any]) -> dict[str, float | None]:
        return {columns[name]: content["results"].get(name) for name in columns}

    return read


_KINDS = {
    "linear": _Kind(_linear, ("num_images", 50_000), IMAGENET_TRAINING),
    "knn": _Kind(_knn, ("num_images", 50_000), IMAGENET_TRAINING),
    "discover": _Kind(_discover, ("num_images", 1449)),
    "vos": _Kind(
        _named(jf_mean_percent=paper.JF, j_mean_percent=paper.J, f_mean_percent=paper.F),
        ("num_sequences", 30),
    ),
    "upernet": _Kind(
        _named(mean_iou_percent=paper.MIOU, mean_accuracy_percent=paper.MACC),
        ("num_images", 2000),
        ADE20K_TRAINING,
    ),
    "coco": _Kind(
        _named(box_map_percent=paper.BOX_MAP, mask_map_percent=paper.MASK_MAP), ("num_images", 5000)
    ),
    "got10k": _Kind(
        _named(ao_percent=paper.AO, sr50_percent=paper.SR50, sr75_percent=paper.SR75),
        ("num_sequences", 180),
    ),
}


def _values(contents: Iterable[tuple[Path, dict[str, Any]]]) -> dict[str, Value]:
    best: dict[str, tuple[tuple[bool, int], Value]] = {}
    for path, content in contents:
        kind = _KINDS.get(content["evaluation"])
        if kind is None:
            continue
        try:
            note = _note(content, kind)
            rank = (not note, content["checkpoint"].get("step") or 0)
            for measure, percent in kind.values(content).items():
                if percent is not None and (measure not in best or rank > best[measure][0]):
                    best[measure] = rank, Value(float(percent), path.name, note)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise no_result(path) from error
    return {measure: value for measure, (_, value) in best.items()}


def _note(content: dict[str, Any], kind: _Kind) -> str:
    data = content.get("val", content.get("test", {}))
    field, expected = kind.paper_size
    reasons = []
    if data.get(field) != expected:
        source = data.get("source", "unknown data")
        found, unit = data.get(field, "?"), field.removeprefix("num_")
        if found == 1:
            unit = unit.removesuffix("s")
        reasons.append(f"on {found} {unit} of {source}; the paper's are {expected}")
    training, papers = content.get("train", {}).get("num_images"), kind.paper_training
    if None not in (training, papers) and training != papers:
        reasons.append(f"with {training} training images; the paper's are {papers}")
    if content["evaluation"] == "linear":
        protocol = content["protocol"]
        if PAPER_RATE not in protocol["learning_rates_for_256"]:
            reasons.append(f"the best learning rate; the paper's {PAPER_RATE} was not trained")
        if (protocol["epochs"], protocol["batch_size"]) != (100, 1024):
            reasons.append(
                f"{counted(protocol['epochs'], 'epoch')} of batch {protocol['batch_size']}; the "
                f"paper's are 100 and 1024"
            )
    if content["evaluation"] == "upernet":
        protocol = content["protocol"]
        trained = tuple(protocol[name] for name in ("steps", "batch_size", "crop_pixels"))
        if trained != PAPER_FINETUNING:
            reasons.append(
                "{} steps of {} crops of {} pixels; the paper's are {} of {} of {}".format(
                    *trained, *PAPER_FINETUNING
                )
            )
    return "; ".join(reasons)


def _random_part(content: dict[str, Any]) -> dict[str, Any]:
    """Return a k-NN result as that of the random weights measured beside it."""
    results = content["results"]
    rows = results.get("random_weights", []) if content["evaluation"] == "knn" else []
    return content | {"evaluation": "knn" if rows else "", "results": {"teacher": rows}}
