"""Options and exit codes that several commands share."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import wtours
from wtours.cli import console
from wtours.cli.command import offer_shard_sets, offer_videos
from wtours.errors import CheckpointError, MissingPackageError, UsageError, WtoursError
from wtours.execution.executor import Executor
from wtours.storage.store import as_location, is_url
from wtours.text import listed, redact_url
from wtours.workspace.layout import OWN_MANIFEST, Layout, find_own_manifest

if TYPE_CHECKING:
    from wtours.workspace.manifest import Manifest

FINISHED_WITH_FAILURES = 3
RERUN = "fix what is named above and rerun the command"
_MANY = 4
"""So many failures of one reason are one line."""
_ITEM = "VIDEO"
"""Stands for the name of each in their common reason."""
TORCH = ("torch", "timm", "safetensors")

ROOT = Path("data")
_OLD_OWN_MANIFEST = Path("walks.toml")


def _beside_own_manifest(context: typer.Context, value: Path) -> Path:
    """Return the default root beside a `wtours.toml` that is found above the current folder."""
    source = context.get_parameter_source("root")
    if source is not None and source.name == "DEFAULT" and value == ROOT and not ROOT.exists():
        own = find_own_manifest(Path.cwd())
        if own is not None and own.parent != Path.cwd():
            return own.parent / ROOT
    return value


Root = Annotated[
    Path,
    typer.Option(
        envvar="WTOURS_ROOT",
        metavar="DIR|URL",
        help="The workspace: the folder that everything lies under; or, for the stages up to "
        "the shards and the report, the URL of an object store (s3://…).",
        callback=_beside_own_manifest,
    ),
]

ManifestOption = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        "-m",
        envvar="WTOURS_MANIFEST",
        metavar="NAME|FILE",
        help="A built-in manifest (walking_tours, demo) or a TOML file. Default: "
        f"{OWN_MANIFEST} of this folder or one above it, else walking_tours.",
        show_default=False,
    ),
]

Videos = Annotated[
    list[str] | None,
    typer.Option(
        "--video",
        metavar="ID",
        autocompletion=offer_videos,
        help="A video or a selection of the manifest, for example venice or wt_all; repeatable. "
        "Default: all.",
        show_default=False,
    ),
]

Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes.", show_default="cores")]

ExecutorKind = Literal["serial", "processes", "ray"]
"""Where the tasks of a stage run."""

ExecutorOption = Annotated[
    ExecutorKind,
    typer.Option(
        metavar="KIND",
        help="Where segments are decoded: serial (one after the other), processes (--jobs of them "
        "on this machine) or ray.",
    ),
]

Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help='With --executor ray: the cluster, for example "auto". Default: one of --jobs CPUs '
        "on this machine.",
        show_default=False,
    ),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]

MaxLoss = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        metavar="SHARE",
        help="Refuse a video of which a larger share is lost to damage.",
    ),
]


def set_argument(metavar: str, about: str) -> Any:
    """Return the argument that names a shard set."""
    return typer.Argument(metavar=metavar, autocompletion=offer_shard_sets, help=about)


def set_option(metavar: str, about: str, **more: Any) -> Any:
    """Return the option --shards, which names a shard set in every command that has it."""
    completed: Any = {"autocompletion": offer_shard_sets, **more}
    return typer.Option("--shards", metavar=metavar, help=about, **completed)


def out_option(about: str, **more: Any) -> Any:
    """Return the option --out, which says where to write in every command that has it."""
    return typer.Option("--out", "-o", help=about, **more)


Shards = Annotated[
    str,
    set_argument(
        "NAME|DIR|URL",
        "A shard set's name, folder or URL (s3://…); or, with --set data.clip_length=1, a "
        "folder or a tar of images.",
    ),
]

NewShards = Annotated[str, set_option("NAME", "Name of the shard set that is made.")]

FromDir = Annotated[
    Path | None,
    typer.Option(help="Take the video files in this folder; no network.", file_okay=False),
]

MaxHeight = Annotated[
    int, typer.Option(min=144, help="Lines of a downloaded picture; 2160 is full 4K.")
]

Deep = Annotated[
    bool,
    typer.Option("--deep/--quick", help="Read every byte, or compare sizes and counts only."),
]


def chosen_manifest(given: Path | None) -> "Manifest":
    """Return the manifest of --manifest, else the user's own, else the ten Walking Tours.

    Says which one it took, unless it came with wtours.

    Raises:
        ManifestError: it cannot be used.
    """
    from wtours.workspace.manifest import is_builtin, load_manifest

    path = given or find_own_manifest(Path.cwd())
    manifest = load_manifest(path)
    if path is not None and not is_builtin(path):
        console.note(f"manifest: {_from_here(path)}")
    return manifest


def own_manifest(given: Path | None) -> Path:
    """Return the manifest of the user's own that is to be changed, which may not be there yet.

    Raises:
        UsageError: only one of an earlier version's default name is here.
    """
    found = given or find_own_manifest(Path.cwd())
    if found is None and _OLD_OWN_MANIFEST.is_file():
        raise UsageError(
            f"{_OLD_OWN_MANIFEST} was the default name once: rename it to {OWN_MANIFEST}, which "
            f"every command finds, or give --manifest {_OLD_OWN_MANIFEST}"
        )
    return Path(OWN_MANIFEST) if found is None else _from_here(found)


def _from_here(path: Path) -> Path:
    """Return the path relative to the current folder, if it lies in there."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def at_root(root: Path) -> tuple[str, ...]:
    """Return the option that a command to copy needs for this root: none for the default one."""
    return () if root == ROOT else ("--root", str(as_location(root)))


def as_typed(reasons: Mapping[str, str], manifest: Path | None, root: Path) -> Mapping[str, str]:
    """Return reasons whose commands have the options of this one: they can be pasted."""
    of_manifest = () if manifest is None else ("--manifest", str(manifest))
    options = "".join(f" {shlex.quote(word)}" for word in (*of_manifest, *at_root(root)))
    command = re.compile(r"`wtours \w+ --video \w+(?=`)")
    return {
        item: command.sub(lambda found: found[0] + options, reason)
        for item, reason in reasons.items()
    }


def remedy_of_videos(asked: Path | list[str] | None, layout: Layout, root: Path) -> str:
    """Return what to do about videos that failed: where none was ever brought, how one is.

    With a --manifest or --video that was `asked` for, the videos' own lines say what to do.
    """
    own = asked or find_own_manifest(Path.cwd())
    if own or any(layout.videos_dir.glob("*/receipt.json")):
        return RERUN
    download, add = (
        shlex.join(("wtours", *words, *at_root(root))) for words in (("download",), ("add", "PATH"))
    )
    return f"`{download}` fetches the Walking Tours, `{add}` takes videos of your own"


def finish(failed: Mapping[str, str], what: str, remedy: str = RERUN) -> None:
    """List what failed, say what to do, and leave with 3; return if nothing failed.

    Many of one reason, which may name them, are one line; a reason that begins with the name is not
    headed by it again.

    Args:
        failed: The reason by the name of each.
        what: What they are: "not sharded".
        remedy: What the user can do, as a part of a sentence.
    """
    alike: dict[str, list[str]] = {}
    for item, reason in failed.items():
        alike.setdefault(re.sub(rf"\b{re.escape(item)}\b", _ITEM, reason), []).append(item)
    for reason, items in alike.items():
        if len(items) < _MANY:
            for item in items:
                is_named = re.match(rf"{re.escape(item)}[: ]", failed[item])
                console.warn(f"error: {failed[item] if is_named else f'{item}: {failed[item]}'}")
        else:
            named = ", ".join(items[: _MANY - 1])
            console.warn(f"error: {named} and {len(items) - _MANY + 1} more: {reason}")
    if failed:
        console.warn(f"{len(failed)} {what}: {remedy}")
        raise typer.Exit(FINISHED_WITH_FAILURES)


def executor_of(
    kind: ExecutorKind, jobs: int, address: str | None, layout: Layout
) -> AbstractContextManager[Executor]:
    """Return what runs the segments.

    Raises:
        UsageError: an address, and not Ray.
        MissingPackageError: Ray is not installed.
    """
    if address is not None and kind != "ray":
        raise UsageError(f"--address {address} needs --executor ray")
    if kind == "ray":
        from wtours.execution.ray import RayExecutor

        return RayExecutor(address, jobs=jobs, shared=layout.root, say=console.warn)
    from wtours.execution.processes import ProcessExecutor

    # A process of its own, for one at a time too: a file may crash the decoder.
    return ProcessExecutor(1 if kind == "serial" else jobs, say=console.warn)


def named_or_folder(text: str, folder_of: Callable[[str], Path]) -> Path:
    """Return the folder that `text` names under the root, or is: one that is there, or with a "/".

    Raises:
        UsageError: it is a URL.
    """
    if is_url(text):
        raise UsageError(
            f"{redact_url(text)} is on an object store, and this works on a disk: `wtours copy` "
            f"brings a shard set there"
        )
    path = Path(text)
    return path if path.is_dir() or "/" in text else folder_of(text)


def run_folder(run: str, layout: Layout) -> Path:
    """Return where a run is or will be: only text with a "/" is a folder elsewhere."""
    return Path(run) if "/" in run else layout.run_dir(run)


def require_path(path: Path) -> None:
    """Refuse what is not there, before anything heavy is imported.

    Raises:
        WtoursError: there is no such file or folder.
    """
    if not path.exists():
        raise WtoursError(f"{path}: no such file or folder; check the path")


def existing_run(text: str, root: Path) -> Path:
    """Return the folder of a run or a checkpoint, before anything heavy is imported.

    Raises:
        CheckpointError: there is none.
    """
    path = named_or_folder(text, Layout(root).run_dir)
    if not path.is_dir():
        there = sorted(run.parent.name for run in path.parent.glob("[!.]*/checkpoints"))
        known = "`wtours pretrain` makes a run"
        if there:
            known = f"runs beside it: {listed(there, like=path.name)}"
        raise CheckpointError(f"{path} is not there; {known}")
    return path


def refuse_unused(beside: str, given: Mapping[str, bool]) -> None:
    """Refuse options that would do nothing beside others.

    Args:
        beside: Those others, "--to hf".
        given: Whether each was given, by its name.

    Raises:
        UsageError: one was.
    """
    if unused := [name for name, is_given in given.items() if is_given]:
        raise UsageError(f"{', '.join(unused)}: without effect with {beside}; leave it out")


def require_training(purpose: str, *, packages: Sequence[str] = TORCH) -> None:
    """Refuse, in one line, what cannot work, without importing anything.

    Raises:
        MissingPackageError: a package of the extra `train` is not installed.
        WtoursError: another module named `training` hides ours.
    """
    for package in packages:
        require_package(package, "train", purpose)
    found = find_spec("training")
    place = Path(found.origin) if found and found.origin else None
    if place is None or place.parent.parent != Path(wtours.__file__).parent.parent:
        raise WtoursError(
            f"{place or 'something'} hides the package `training` of wtours: start the console "
            f"script `wtours` (torchrun --no-python -- wtours …), for which the current folder is "
            f"not searched, and take that folder off PYTHONPATH"
        )


def require_package(package: str, extra: str, purpose: str) -> None:
    """Raise MissingPackageError if a package of an extra is not installed; imports nothing."""
    if find_spec(package) is None:
        raise MissingPackageError(package, extra, purpose)
