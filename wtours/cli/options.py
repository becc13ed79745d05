"""Options and exit codes that several commands share."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

import wtours
from wtours.cli import console
from wtours.errors import CheckpointError, MissingPackageError, WtoursError
from wtours.workspace.layout import Layout

FINISHED_WITH_FAILURES = 3
TORCH = ("torch", "timm", "safetensors")

ROOT = Path("data")

Root = Annotated[
    Path,
    typer.Option(
        "--root",
        envvar="WTOURS_ROOT",
        metavar="DIR",
        help="The workspace: the folder that everything lies under.",
    ),
]

ManifestOption = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        "-m",
        metavar="NAME|FILE",
        help="A built-in manifest (walking_tours, the default; demo) or a TOML file.",
        show_default=False,
    ),
]

Videos = Annotated[
    list[str] | None,
    typer.Option(
        "--video",
        metavar="ID",
        help="A video or a selection of the manifest, for example venice or wt_all; repeatable. "
        "Default: all.",
        show_default=False,
    ),
]

Jobs = Annotated[
    int,
    typer.Option("--jobs", "-j", min=1, metavar="N", help="Processes.", show_default="cores"),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]

MaxLoss = Annotated[
    float,
    typer.Option(
        "--max-loss",
        min=0,
        max=1,
        metavar="SHARE",
        help="Refuse a video of which a larger share is lost to damage.",
    ),
]

Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log what happens to stderr.", show_default=False)
]

Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Neither progress nor notes: results and errors.", show_default=False
    ),
]


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with -v and -q of its own: people type them after it, too."""

    @functools.wraps(command)
    def run(*args: Any, verbose: bool, quiet: bool, **kwargs: Any) -> None:
        if verbose or quiet:
            console.set_verbosity(verbose=verbose, quiet=quiet)
        command(*args, **kwargs)

    signature = inspect.signature(command)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option)
        for name, option in (("verbose", Verbose), ("quiet", Quiet))
    ]
    parameters = [*signature.parameters.values(), *added]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


def finish(failed: Mapping[str, str], what: str) -> None:
    """List what failed, one line each, and leave with 3; return if nothing failed."""
    for item, reason in failed.items():
        console.warn(f"error: {item}: {reason}")
    if failed:
        console.warn(f"{len(failed)} {what}: fix what is named above and rerun the command")
        raise typer.Exit(FINISHED_WITH_FAILURES)


def named_or_folder(text: str, folder_of: Callable[[str], Path]) -> Path:
    """Return the folder that `text` names under the root, or is."""
    path = Path(text)
    return path if path.is_dir() or len(path.parts) > 1 else folder_of(text)


def run_folder(run: str, layout: Layout) -> Path:
    """Return where a run is or will be: only text with a "/" is a folder elsewhere."""
    return Path(run) if "/" in run else layout.run_dir(run)


def existing_run(text: str, folder_of: Callable[[str], Path]) -> Path:
    """Return the folder of a run or a checkpoint, before anything heavy is imported.

    Raises:
        CheckpointError: there is none.
    """
    path = named_or_folder(text, folder_of)
    if not path.is_dir():
        raise CheckpointError(f"{path} is not there; give a run's folder or one of its checkpoints")
    return path


def require_training(purpose: str, *, packages: Sequence[str] = TORCH) -> None:
    """Refuse, in one line, what cannot work, without importing anything.

    Raises:
        MissingPackageError: a package of the extra `train` is not installed.
        WtoursError: another module named `training` hides ours.
    """
    for package in packages:
        if find_spec(package) is None:
            raise MissingPackageError(package, "train", purpose)
    found = find_spec("training")
    place = Path(found.origin) if found and found.origin else None
    if place is None or place.parent.parent != Path(wtours.__file__).parent.parent:
        raise WtoursError(
            f"{place or 'something'} hides the package `training` of wtours: start the console "
            f"script `wtours` (torchrun --no-python -- wtours …), for which the current folder is "
            f"not searched, and take that folder off PYTHONPATH"
        )


def require_scipy(purpose: str) -> None:
    """Refuse in the same way if scipy, of the extra `eval`, is not there."""
    if find_spec("scipy") is None:
        raise MissingPackageError("scipy", "eval", purpose)
