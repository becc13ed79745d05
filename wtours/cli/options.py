"""Options and exit codes that several commands share."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from wtours.cli import console
from wtours.errors import MissingPackageError

FINISHED_WITH_FAILURES = 3

ROOT = Path("data")

Root = Annotated[
    Path,
    typer.Option("--root", envvar="WTOURS_ROOT", help="The workspace; everything lies under it."),
]

ManifestOption = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        "-m",
        help="A TOML file, or a built-in name: walking_tours (default), demo.",
        show_default=False,
    ),
]

Videos = Annotated[
    list[str] | None,
    typer.Option(
        "--video",
        "-v",
        help="A video id or a selection of the manifest, for example venice or wt_all; repeatable. "
        "Default: all.",
        show_default=False,
    ),
]

Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes.", show_default="cores")]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def finish(failed: Mapping[str, str], what: str) -> None:
    """List what failed, one line each, and leave with 3; return if nothing failed."""
    for item, reason in failed.items():
        console.warn(f"error: {item}: {reason}")
    if failed:
        console.warn(f"{len(failed)} {what}; run the same command again after mending it")
        raise typer.Exit(FINISHED_WITH_FAILURES)


def named_or_folder(text: str, folder_of: Callable[[str], Path]) -> Path:
    """Return the folder that `text` names under the root, or is."""
    path = Path(text)
    return path if path.is_dir() or len(path.parts) > 1 else folder_of(text)


def require_torch(purpose: str) -> None:
    """Refuse, in one line that says what to install, if the extra `train` is not there."""
    for package in ("torch", "timm", "safetensors"):
        if find_spec(package) is None:
            raise MissingPackageError(package, "train", purpose)


def require_scipy(purpose: str) -> None:
    """Refuse in the same way if scipy, of the extra `eval`, is not there."""
    if find_spec("scipy") is None:
        raise MissingPackageError("scipy", "eval", purpose)
