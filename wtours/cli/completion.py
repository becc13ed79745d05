"""What a shell offers after TAB where a name stands: videos, shard sets, runs, layers, presets.

Nothing is printed, and no network is asked: where nothing can be read, nothing is offered.
"""

import contextlib
from pathlib import Path

import typer

from wtours.errors import WtoursError
from wtours.storage.store import as_location
from wtours.workspace.layout import find_own_manifest


def videos(context: typer.Context) -> list[str]:
    """Return the videos and the selections of the manifest that is given, or found."""
    from wtours.workspace.manifest import load_manifest

    path = context.params.get("manifest") or find_own_manifest(Path.cwd())
    with contextlib.suppress(WtoursError):
        manifest = load_manifest(path)
        return [*manifest.by_id, *manifest.selections]
    return []


def shard_sets(context: typer.Context) -> list[str]:
    """Return the shard sets under the root, finished or begun."""
    return _folders(context, "shards")


def runs(context: typer.Context) -> list[str]:
    """Return the training runs under the root."""
    return _folders(context, "runs")


def layers(context: typer.Context) -> list[str]:
    """Return the layers of the shard set that --shards names."""
    return _folders(context, f"shards/{context.params.get('shards')}/layers")


def presets() -> list[tuple[str, str]]:
    """Return the presets of training, with what each is."""
    with contextlib.suppress(ImportError):  # of the extra `train`
        from training.config.presets import ABOUT

        return list(ABOUT.items())
    return []


def _folders(context: typer.Context, place: str) -> list[str]:
    """Return the names of the folders that lie somewhere under the root."""
    root = as_location(context.params["root"])
    if isinstance(root, str):
        return []
    return sorted(path.name for path in (root / place).glob("[!.]*/"))
