"""Pages, or parts of pages, that are made of the code when the site is built.

A page holds `<!-- from the code: NAME -->`; NAME is a key of `PARTS`. So the reference cannot say
anything that the program does not.
"""

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

import typer
from pydantic import BaseModel
from rich.text import Text

MARK = re.compile(r"^<!-- from the code: (\w+) -->$", re.MULTILINE)


def commands() -> str:
    """Return a section for each command of `wtours`, from its help."""
    from wtours.cli.app import app

    return "\n".join(
        _command_section(name, command)
        for name, command in all_commands(typer.main.get_command(app))
    )


def all_commands(command: Any, name: str = "wtours") -> Iterator[tuple[str, Any]]:
    """Yield ("wtours shards info", its command) of each command that is not hidden, and groups."""
    yield name, command
    for part, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from all_commands(inner, f"{name} {part}")


def settings() -> str:
    """Return a section for each section of a training run's config, from its pydantic model."""
    from training.config.train import TrainConfig

    fields = TrainConfig.model_fields
    top = {name: field for name, field in fields.items() if not _is_section(field.annotation)}
    parts = ["## `seed` and `method`\n", _fields_table(TrainConfig, only=top)]
    for name, field in fields.items():
        if name not in top:
            assert field.annotation is not None
            parts += [f"\n## `{name}`\n", f"{inspect.getdoc(field.annotation)}\n"]
            parts.append(_fields_table(field.annotation, prefix=f"{name}."))
    return "\n".join(parts)


def presets() -> str:
    """Return what each preset changes in the defaults."""
    from training.config.presets import ABOUT, PRESETS

    parts = []
    for name, about in ABOUT.items():
        changes = PRESETS[name]
        parts.append(f"\n## `{name}`\n\n{about[0].upper()}{about[1:]}.\n")
        if not changes:
            parts.append("It changes nothing: the defaults of the fields are this preset.")
            continue
        parts += ["| field | value |", "|---|---|"]
        parts += [f"| `{key}` | `{_value(value)}` |" for key, value in changes.items()]
    return "\n".join(parts)


def disk() -> str:
    """Return a table of what the ten Walking Tours take, from the manifest and our estimates."""
    from wtours.acquire.ytdlp.formats import DEFAULT_MAX_HEIGHT, estimate_bytes
    from wtours.sharding.estimate import estimate
    from wtours.sharding.plan import VideoPlan, VideoWork
    from wtours.shards.params import ShardParams
    from wtours.shards.schema import SourceFacts
    from wtours.workspace.manifest import load_manifest

    def shards_bytes(seconds: float, params: ShardParams) -> float:
        facts = SourceFacts(
            source=None, title=None, channel=None, license_claimed=None, license_observed=None,
            frame_rate="60", width=1280, height=DEFAULT_MAX_HEIGHT,
            last_pts_us=round(seconds * 1e6), segments=1,
        )  # fmt: skip
        plan = VideoPlan("walk", "", facts)
        work = VideoWork(plan, video=None, missing=(0,), num_kept=0, seconds=seconds)
        return estimate([work], params).bytes

    rows = [
        (entry.title, entry.published.minutes * 60)
        for entry in load_manifest().videos
        if entry.published is not None and entry.published.minutes is not None
    ]
    rows.append(("**all ten**", sum(seconds for _, seconds in rows)))
    lines = [
        "| video | minutes | video, 720 lines | video, 2160 lines | shards, 30 frames/s | "
        "shards, 15 frames/s | 8 frames/s, short side 384 |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for title, seconds in rows:
        sizes = [
            estimate_bytes(seconds, DEFAULT_MAX_HEIGHT),
            estimate_bytes(seconds, 2160),
            shards_bytes(seconds, ShardParams()),
            shards_bytes(seconds, ShardParams(frames_per_second="15")),
            shards_bytes(seconds, ShardParams(frames_per_second="8", short_side=384)),
        ]
        cells = " | ".join(f"{size / 1e9:.1f} GB" for size in sizes)
        lines.append(f"| {title} | {seconds / 60:.0f} | {cells} |")
    return "\n".join(lines)


def one_gpu() -> str:
    """Return how long epochs of an hour's walk take on one GPU of an assumed rate."""
    from training.config.presets import resolve_config
    from training.reproduce.cost import run_cost

    clips, tflops = 30 * 3600, 30.0
    lines = ["| epochs | steps of 128 clips | hours |", "|--:|--:|--:|"]
    for epochs in (1, 10, 30, 100):
        cost = run_cost(
            resolve_config("official", None, [f"optim.epochs={epochs}", "optim.warmup_epochs=1"]),
            clips=clips,
            tflops=tflops,
        )
        lines.append(f"| {epochs} | {cost.steps:,} | {cost.gpu_hours:.0f} |")
    return "\n".join(lines)


PARTS: Mapping[str, Callable[[], str]] = {
    "commands": commands,
    "settings": settings,
    "presets": presets,
    "disk": disk,
    "one_gpu": one_gpu,
}


def _command_section(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    text, examples = _split_examples(_plain(command.help or ""))
    depth = "##" if name.count(" ") < 2 else "###"
    parts = [f"{depth} `{name}`\n", _escaped(text), "\n```console"]
    parts += [f"$ {command.get_usage(context).removeprefix('Usage: ')}", "```\n"]
    if examples:
        parts += ["Examples:\n", "```console", *(f"$ {line}" for line in examples), "```\n"]
    own = [p for p in command.get_params(context) if not p.hidden and p.name != "help"]
    parts += [_parameter(p, context) for p in own]
    inner = [n for n, c in getattr(command, "commands", {}).items() if not c.hidden]
    if inner:
        links = (f"[`{name} {part}`](#{'-'.join([*name.split(), part])})" for part in inner)
        parts += ["\nCommands: " + ", ".join(links) + "."]
    return "\n".join(parts) + "\n"


def _parameter(parameter: Any, context: Any) -> str:
    """Return an item of a definition list: lists, unlike tables, suit a man page too."""
    name, about = parameter.get_help_record(context)
    about = _escaped(_plain(about)).rstrip(". ") + "." if about else ""
    shown = parameter.show_default
    default = shown if isinstance(shown, str) else parameter.get_default(context)
    if isinstance(default, Enum):
        default = default.value
    if shown and default not in (None, False, (), []):
        about += f" Default: {default}." if isinstance(shown, str) else f" Default: `{default}`."
    if parameter.envvar:
        about += f" Or `{parameter.envvar}` of the environment."
    return f"`{name}`\n: {about.strip() or '—'}\n"


def _plain(markup: str) -> str:
    return Text.from_markup(markup).plain


def _split_examples(text: str) -> tuple[str, list[str]]:
    """Return the help without its example commands, and these."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [re.sub(r"\bExamples?: *", "", line) for line in lines]
    examples = [line for line in lines if line.startswith(("wtours ", "torchrun "))]
    prose = [line for line in lines if line not in examples]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(prose)).strip(), examples


def _fields_table(
    model: Any, *, prefix: str = "", only: Sequence[str] | Mapping[str, Any] = ()
) -> str:
    schema = model.model_json_schema()
    about = _attribute_docstrings(model)
    lines = ["| field | type | default | |", "|---|---|---|---|"]
    for name in only or model.model_fields:
        default = schema["properties"][name].get("default")
        kind = _kind(schema["properties"][name], schema.get("$defs", {}))
        text = _escaped(about[name].replace("None:", "null:"))  # as YAML has it
        lines.append(f"| `{prefix}{name}` | {_cell(kind)} | `{_value(default)}` | {text} |")
    return "\n".join(lines) + "\n"


def _attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the string below each field of a class."""
    (definition,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def _kind(schema: Mapping[str, Any] | bool, definitions: Mapping[str, Any]) -> str:
    """Return a JSON schema's type in words: "integer > 0, or null"."""
    if isinstance(schema, bool):
        return "any"
    if "$ref" in schema:
        return _kind(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return ", or ".join(_kind(option, definitions) for option in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{_value(schema['const'])}`"
    if "prefixItems" in schema:
        return f"{len(schema['prefixItems'])} numbers"
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}), definitions)}"
    if schema.get("type") == "object":
        return f"mapping to {_kind(schema['additionalProperties'], definitions)}"
    bounds = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    limits = " and ".join(
        f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema
    )
    return f"{schema.get('type', 'any')} {limits}".strip()


def _value(value: Any) -> str:
    """Return a value as YAML has it on a `--set`."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _escaped(text: str) -> str:
    """Return text whose `<`, `*`, `_` and `[` are no markup, but in `code`."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        piece if piece.startswith("`") else re.sub(r"([<*_\[])", r"\\\1", piece) for piece in pieces
    )
