"""What an evaluation measured: one JSON per result, the same envelope for all."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from wtours.errors import WtoursError
from wtours.storage.atomic import read_json, sweep_idle, write_json
from wtours.storage.hashing import digest

if TYPE_CHECKING:  # reading results needs no torch
    from training.weights.backbones import Backbone

FORMAT = 1
_PACKAGES = ("wtours", "torch", "timm", "numpy", "pillow")
Splits = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class EvalResult:
    """Where a result was written, and its content (docs/reference/evaluation.md: its fields)."""

    path: Path
    content: dict[str, Any]

    @property
    def notes(self) -> list[str]:
        """Return what a reader of the numbers must know, a line each."""
        return list(self.content["notes"])


def write_result(
    backbone: "Backbone",
    evaluation: str,
    *,
    protocol: Mapping[str, Any],
    data: Splits,
    results: Mapping[str, Any],
    notes: Sequence[str] = (),
    identity: Sequence[Any] = (),
    packages: Sequence[str] = (),
) -> EvalResult:
    """Write the JSON of a result, whole or not at all, to `result_path`.

    Args:
        evaluation: The protocol's name: "knn", "linear", …
        data: By split ("train", "val", …), each with `source` and `fingerprint`.
        results: The numbers; percentages are named so.
        identity: What else the result follows from, beside weights and images: settings under which
            another result must not replace this one.
    """
    names = (*_PACKAGES, *packages)
    content = {
        "format": FORMAT,
        "evaluation": evaluation,
        "checkpoint": backbone.description,
        "protocol": dict(protocol),
        **{split: dict(facts) for split, facts in data.items()},
        "results": dict(results),
        "notes": list(notes),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in names},
        },
    }
    path = result_path(backbone, evaluation, data, identity)
    sweep_idle(path.parent)
    write_json(path, content)
    return EvalResult(path, content)


def result_path(
    backbone: "Backbone", evaluation: str, data: Splits, identity: Sequence[Any] = ()
) -> Path:
    """Return <folder>/eval/<evaluation>-<checkpoint>-<weights>-<digits>.json.

    Other weights, other images or another identity give another file.
    """
    digits = digest([*(facts["fingerprint"] for facts in data.values()), *identity])[:8]
    return backbone.folder / "eval" / f"{evaluation}-{backbone.label}-{digits}.json"


class _Checkpoint(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    name: str
    step: int | None = None
    sha256: str | None = None
    trained_on_set_sha256: str | None = None


class _Result(BaseModel):
    """What is read of a result; some are written by hand (docs/reference/evaluation.md)."""

    model_config = ConfigDict(strict=True, extra="allow")

    evaluation: str
    checkpoint: _Checkpoint
    protocol: dict[str, Any]
    results: dict[str, Any]


def read_result(path: Path) -> dict[str, Any]:
    """Return the content of a result.

    Raises:
        WtoursError: it is none.
    """
    try:
        return _Result.model_validate(read_json(path)).model_dump()
    except (ValidationError, RecursionError) as error:
        raise no_result(path) from error


def no_result(path: Path) -> WtoursError:
    """Return what is said of a file that is no result."""
    return WtoursError(f"{path} is not a result of an evaluation; move it elsewhere")
