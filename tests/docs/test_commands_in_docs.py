"""Every `wtours …` line of the docs, the README, the Makefile and the help is one the CLI takes."""

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from training.config.presets import resolve_config
from wtours.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts),
]
COMMAND = re.compile(
    r"^(?:\$ |# |[A-Z_]+=\S* )*((?:torchrun|srun) .*-- )?(?:\S+/)?wtours (?P<rest>.*)$"
)
PROGRAM = typer.main.get_command(app)


def parts_of(text: str) -> tuple[list[str], list[str]]:
    """Return the lines of code blocks, fenced or indented, and those of the prose."""
    code: list[str] = []
    prose: list[str] = []
    in_fence = False
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith(("```", ":::")):
            in_fence = not in_fence and line.startswith("```")
        else:
            (code if in_fence or line.startswith("    ") else prose).append(line.strip())
    return code, prose


def written_commands(text: str) -> Iterator[str]:
    """Yield the arguments of each `wtours` command in code blocks, without comments."""
    for line in parts_of(text)[0]:
        if found := COMMAND.match(line):
            yield re.split(r"\s+(?:#|\(|>|\|\|? |&& )", found["rest"])[0]


def mentioned_commands(text: str) -> Iterator[str]:
    """Yield the arguments of each `wtours …` between backticks in the prose."""
    yield from re.findall(r"`wtours ([^`]+)`", " ".join(parts_of(text)[1]))


def refusal(arguments: str, *, whole: bool) -> str | None:
    """Return why the command line does not take the arguments; None: it does.

    Args:
        arguments: what follows `wtours`.
        whole: a command to be typed as it is; else a mention, which may leave arguments out.
    """
    arguments = re.sub(r"(?<=\w)\[[^]]*\]", "", arguments)  # DIR[:prefix]
    words = shlex.split(re.sub(r"[\[\]…]|(?<= )\|(?= )", " ", arguments))
    placeholder = any(word.isupper() or "|" in word for word in words)  # --stream N
    command: Any = PROGRAM
    while words and hasattr(command, "commands"):
        if words[0] not in command.commands:
            break
        command = command.commands[words.pop(0)]
    if hasattr(command, "commands") and words and not words[0].startswith("-"):
        return f"no command {words[0]!r}" if words[0] != "COMMAND" else None
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),  # a group alone prints its help
            command.make_context("wtours", words) as context,
        ):
            unknown = [word for word in context.args if word.startswith("--")]
            if unknown:
                return f"unknown {unknown}"
            if overrides := [text for text in context.params.get("overrides") or () if "=" in text]:
                resolve_config(context.params["preset"], None, overrides)
            return None
    except SystemExit as end:
        return None if not end.code else f"exit {end.code}"
    except Exception as error:
        kind = type(error).__name__
        incomplete = not whole and (
            kind in ("MissingParameter", "BadOptionUsage")
            or (kind == "BadParameter" and placeholder)
        )
        return None if incomplete or kind in ("Exit", "NoArgsIsHelpError") else f"{kind}: {error}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_exist(page):
    text = page.read_text(encoding="utf-8")
    wrong = {
        f"wtours {arguments}": reason
        for whole, found in ((True, written_commands(text)), (False, mentioned_commands(text)))
        for arguments in found
        if (reason := refusal(arguments, whole=whole))
    }
    assert wrong == {}


def commands_with_help(command: Any) -> Iterator[tuple[str, str]]:
    yield command.name, command.help or ""
    for inner in getattr(command, "commands", {}).values():
        yield from commands_with_help(inner)


def test_examples_of_the_help_are_taken():
    wrong, found = {}, 0
    for name, text in commands_with_help(PROGRAM):
        lines = [re.sub(r"^.*Examples?: *", "", line) for line in text.splitlines()]
        for arguments in written_commands("".join(f"    {line}\n" for line in lines)):
            found += 1
            if reason := refusal(arguments, whole=True):
                wrong[f"{name}: wtours {arguments}"] = reason
    assert wrong == {}
    assert found > 20


def test_the_commands_are_found_and_judged():
    assert sum(1 for page in PAGES for _ in written_commands(page.read_text())) > 40
    assert refusal("shard --video venice --fps 15", whole=True) is None
    assert "no command" in str(refusal("sharding --video venice", whole=True))
    assert "--colour" in str(refusal("shard --colour", whole=True))
    assert "--colour" in str(refusal("shard --colour", whole=False))
    assert "optim.stepps" in str(refusal("pretrain --set optim.stepps=5", whole=True))
    assert "Missing" in str(refusal("export", whole=True))
    assert refusal("export", whole=False) is None
