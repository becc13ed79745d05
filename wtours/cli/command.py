"""How a function of `wtours.cli` becomes a command: its help, its names, its options -v and -q.

And what a shell offers after TAB where a name stands: nothing is printed for that, and no network
is asked; where nothing can be read, nothing is offered.
"""

import contextlib
import copy
import functools
import inspect
import os
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from rich.text import Text
from typer.core import TyperCommand, TyperGroup
from typer.models import OptionInfo

from wtours.cli import console
from wtours.errors import WtoursError
from wtours.storage.os_errors import places_chosen
from wtours.storage.scratch import (
    DEFAULT_SIZE,
    SCRATCH,
    SCRATCH_SIZE,
    parse_size,
    scratch_folder,
)
from wtours.storage.store import as_location
from wtours.workspace.layout import find_own_manifest

_COLUMNS_OF_PANELS = 80
"""Rich cuts names and words that are wider than their column; below this, some are."""
_METAVARS: dict[Any, str] = {bool: "", int: "N", float: "X"}

OLD_SPELLINGS = {
    "--name": "--shards",
    "-n": "--shards",
    "--pictures": "--out",
    "--masks": "--out",
    "--every": "--every-seconds",
}
"""Options that had another name in an earlier version: taken as before, shown nowhere."""

OLD_VALUES = {("--palette", "colourblind"): "colorblind"}
"""Values likewise."""

Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log what happens to stderr.", show_default=False)
]

Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Neither progress nor notes: results and errors.", show_default=False
    ),
]


_OBJECT_STORES = "Object stores"
Scratch = Annotated[
    Path | None,
    typer.Option(
        "--scratch",
        envvar=SCRATCH,
        metavar="DIR",
        help="Where copies of what lies on an object store are kept on this machine.",
        show_default="~/.cache/wtours",
        rich_help_panel=_OBJECT_STORES,
        file_okay=False,
    ),
]

ScratchSize = Annotated[
    str | None,
    typer.Option(
        "--scratch-size",
        envvar=SCRATCH_SIZE,
        metavar="SIZE",
        help="How much may lie there, for example 500GB.",
        show_default=DEFAULT_SIZE,
        rich_help_panel=_OBJECT_STORES,
    ),
]


class _PlainHelp:
    """Help that fits the terminal and names values, for commands and groups."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help: in Typer's panels, or, where they would cut names, as a plain list."""
        if shutil.get_terminal_size().columns >= _COLUMNS_OF_PANELS:
            super().format_help(ctx, formatter)  # type: ignore[misc]
            return
        plain: Any = copy.copy(self)
        plain.rich_markup_mode = None
        plain.params = [copy.copy(parameter) for parameter in plain.params]
        for item in (plain, *plain.params):
            if getattr(item, "help", None):
                item.help = Text.from_markup(item.help).plain
        super(_PlainHelp, plain).format_help(ctx, formatter)  # type: ignore[misc]

    def get_params(self, ctx: Any) -> list[Any]:
        """Return arguments and options; Typer would write <str> and <bool> beside them."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if parameter.param_type_name == "argument":
                parameter.display_type_rich = lambda ctx: ""
            elif parameter.metavar is None and parameter.is_flag:
                parameter.metavar = ""
        return parameters


class Group(_PlainHelp, TyperGroup):
    """Commands that belong together."""


class Command(_PlainHelp, TyperCommand):
    """A command that knows the old spellings of its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words after the command, old spellings replaced."""
        taken = {name for parameter in self.params for name in parameter.opts}
        renamed = {
            old: new for old, new in OLD_SPELLINGS.items() if new in taken and old not in taken
        }
        end = args.index("--") if "--" in args else len(args)
        words = [word for arg in args[:end] for word in _respelled(arg, renamed)]
        try:
            return super().parse_args(ctx, [*_with_values_of_today(words), *args[end:]])
        except Exception as error:  # Typer's own, which has no public name
            if isinstance(message := getattr(error, "message", None), str):
                error.message = message.removeprefix("Value error, ")  # type: ignore[attr-defined]
            raise


def _respelled(arg: str, renamed: dict[str, str]) -> list[str]:
    """Return a word of the command line with the option's name of today: -nX is two words then."""
    name, equals, value = arg.partition("=")
    if name in renamed:
        return [f"{renamed[name]}{equals}{value}"]
    if not arg.startswith("--") and arg[:2] in renamed:
        return [renamed[arg[:2]], arg[2:]]
    return [arg]


def _with_values_of_today(words: list[str]) -> list[str]:
    """Return the words of the command line with the options' values of today."""
    for (option, old), new in OLD_VALUES.items():
        pairs = pairwise(["", *words])
        words = [new if pair == (option, old) else pair[1] for pair in pairs]
        words = [f"{option}={new}" if word == f"{option}={old}" else word for word in words]
    return words


def as_command(command: Callable[..., None]) -> Callable[..., None]:
    """Return the function as Typer takes it: with -v and -q of its own, and readable help.

    People type -v and -q after the command, too. One that takes a root has --scratch and
    --scratch-size, which are set in the environment: the processes of a stage or a run have that in
    common. Lines of a docstring are joined to paragraphs, since Typer keeps their ends, and values
    without a name of their own are called by their type.
    """
    signature = inspect.signature(command)
    has_scratch = "root" in signature.parameters and "scratch" not in signature.parameters

    @functools.wraps(command)
    def run(*args: Any, verbose: bool, quiet: bool, **kwargs: Any) -> None:
        if verbose or quiet:
            console.set_verbosity(verbose=verbose, quiet=quiet)
        if has_scratch:
            scratch, size = kwargs.pop("scratch"), kwargs.pop("scratch_size")
            if scratch is not None:
                os.environ[SCRATCH] = str(scratch.absolute())
            if size is not None:
                parse_size(size)
                os.environ[SCRATCH_SIZE] = size
        with places_chosen(_places(signature, kwargs)):
            command(*args, **kwargs)

    options: dict[str, Any] = {"scratch": Scratch, "scratch_size": ScratchSize}
    options = (options if has_scratch else {}) | {"verbose": Verbose, "quiet": Quiet}
    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if name.startswith("scratch") else False,
            annotation=option,
        )
        for name, option in options.items()
    ]
    parameters = [*signature.parameters.values(), *added]
    for parameter in parameters:
        _name_value(parameter.annotation)
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    text = re.sub(r"\s(Examples?:)", r"\n\n\1", inspect.cleandoc(command.__doc__ or ""))
    paragraphs = text.split("\n\n")
    run.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    return run


def _places(signature: inspect.Signature, values: dict[str, Any]) -> dict[Path, str]:
    """Return the files and folders that a command line names, by the options that it has them."""
    places = {scratch_folder(): "--scratch"}
    for name, value in values.items():
        about = get_args(signature.parameters[name].annotation)[-1]
        # Typer's Option("--out", "-o") takes the first for a default, until the command is made.
        spellings = [about.default, *(about.param_decls or ()), f"--{name.replace('_', '-')}"]
        option = next(one for one in spellings if isinstance(one, str) and one.startswith("--"))
        if isinstance(value, str) and "DIR" in (about.metavar or ""):
            value = as_location(value)
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path):
                is_option = isinstance(about, OptionInfo)
                places[path] = option if is_option else about.metavar or name.upper()
    return places


def _name_value(annotation: Any) -> None:
    """Set the metavar of an option that has none, as far as its type has a name for people."""
    annotated, *metadata = get_args(annotation)
    kind = next((part for part in get_args(annotated) if part is not type(None)), annotated)
    if get_origin(kind) is list:
        (kind,) = get_args(kind)
    for info in metadata:
        if isinstance(info, OptionInfo) and info.metavar is None:
            if kind is Path:
                info.metavar = "DIR" if not info.file_okay else "PATH" if info.dir_okay else "FILE"
            elif kind in _METAVARS:
                info.metavar = _METAVARS[kind]
            elif get_origin(annotated) is Literal:
                info.metavar = "|".join(get_args(annotated))


def offer_videos(context: typer.Context) -> list[str]:
    """Offer the videos and the selections of the manifest that is given, or found."""
    from wtours.workspace.manifest import load_manifest

    path = context.params.get("manifest") or find_own_manifest(Path.cwd())
    with contextlib.suppress(WtoursError):
        manifest = load_manifest(path)
        return [*manifest.by_id, *manifest.selections]
    return []


def offer_shard_sets(context: typer.Context) -> list[str]:
    """Offer the shard sets under the root, finished or begun."""
    return _folders_under(context, "shards")


def offer_runs(context: typer.Context) -> list[str]:
    """Offer the training runs under the root."""
    return _folders_under(context, "runs")


def offer_layers(context: typer.Context) -> list[str]:
    """Offer the layers of the shard set that --shards names."""
    return _folders_under(context, f"shards/{context.params.get('shards')}/layers")


def offer_presets() -> list[tuple[str, str]]:
    """Offer the presets of training, with what each is."""
    with contextlib.suppress(ImportError):  # of the extra `train`
        from training.config.presets import ABOUT

        return list(ABOUT.items())
    return []


def _folders_under(context: typer.Context, place: str) -> list[str]:
    """Return the names of the folders that lie somewhere under the root."""
    root = as_location(context.params["root"])
    if isinstance(root, str):
        return []
    return sorted(path.name for path in (root / place).glob("[!.]*/"))
