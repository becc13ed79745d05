"""Publishing what an evaluation measured: one JSON per result, the same envelope for all."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.weights.backbones import Backbone
from wtours.storage.atomic import write_json
from wtours.storage.hashing import digest

FORMAT = 1
_PACKAGES = ("wtours", "torch", "timm", "numpy", "pillow")


@dataclass(frozen=True)
class Published:
    """Where a result was published, and what it holds (docs/evaluation.md lists its fields)."""

    path: Path
    content: dict[str, Any]

    @property
    def notes(self) -> list[str]:
        """Return what a reader of the numbers must know, a line each."""
        return list(self.content["notes"])


def publish(
    backbone: Backbone,
    evaluation: str,
    *,
    protocol: Mapping[str, Any],
    data: Mapping[str, Mapping[str, Any]],
    results: Mapping[str, Any],
    notes: Sequence[str] = (),
    identity: Sequence[Any] = (),
    packages: Sequence[str] = (),
) -> Published:
    """Write eval/<evaluation>-<checkpoint>-<8 digits>.json in the backbone's folder, or nothing.

    Args:
        backbone: What was measured.
        evaluation: The protocol's name: "knn", "linear", …
        protocol: Every constant of it.
        data: By split ("train", "val", …), each with `source` and `fingerprint`.
        results: The numbers; percentages are named so.
        notes: See `Published`.
        identity: What else the digits follow from, beside the splits' fingerprints: settings under
            which another result must not replace this one.
        packages: Further packages whose versions matter.
    """
    content = {
        "format": FORMAT,
        "evaluation": evaluation,
        "checkpoint": backbone.description,
        "protocol": dict(protocol),
        **{split: dict(facts) for split, facts in data.items()},
        "results": dict(results),
        "notes": list(notes),
        "versions": _versions(packages),
    }
    path = result_path(backbone, evaluation, data, identity)
    write_json(path, content)
    return Published(path, content)


def result_path(
    backbone: Backbone,
    evaluation: str,
    data: Mapping[str, Mapping[str, Any]],
    identity: Sequence[Any] = (),
) -> Path:
    """Return where `publish` writes; other images or another identity give another file."""
    digits = digest([*(facts["fingerprint"] for facts in data.values()), *identity])[:8]
    return backbone.folder / "eval" / f"{evaluation}-{backbone.description['name']}-{digits}.json"


def _versions(packages: Sequence[str]) -> dict[str, str]:
    names = (*_PACKAGES, *packages)
    versions = {name: importlib.metadata.version(name) for name in names}
    return {"python": platform.python_version(), **versions}
