"""The command that checks what other stages have published: verify."""

import dataclasses
import shlex
from pathlib import Path
from typing import Annotated

import typer

from wtours.cli import console
from wtours.cli.options import (
    RERUN,
    ROOT,
    Address,
    AsJson,
    Deep,
    ExecutorOption,
    Jobs,
    Root,
    at_root,
    executor_of,
    finish,
)
from wtours.cli.sets.places import (
    SetOrFolder,
    needs_every_receipt,
    place_text,
    reading_workspace,
    shard_set,
    shard_workspace,
)
from wtours.errors import UsageError, WtoursError
from wtours.execution.executor import default_jobs
from wtours.text import bytes_text, counted
from wtours.workspace.layout import Layout


def verify(
    name: SetOrFolder = "default",
    deep: Deep = True,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Rebuild damaged shards from the downloaded videos."),
    ] = False,
    everything: Annotated[
        bool,
        typer.Option("--all", help="All videos, analyses, shard sets and checkpoints, by bytes."),
    ] = False,
    jobs: Jobs = default_jobs(),
    executor: ExecutorOption = "processes",
    address: Address = None,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Check every shard against the index: sizes, sha256, members, frames.

    Examples:

    wtours verify default

    wtours verify default --repair

    wtours verify --all
    """
    from wtours.sharding.repair import repair_shards
    from wtours.shards.verify import verify_shards

    if everything:
        if repair or not deep:
            raise UsageError("--all reads every byte and repairs nothing: leave out the others")
        with reading_workspace(
            root, "videos", "analysis", "shards", needs=needs_every_receipt
        ) as layout:
            _verify_all(layout, as_json=as_json)
        return
    if repair and "/" in name:
        raise UsageError("--repair takes a set by its name: --root says where it lies")
    with console.progress_bars("verify", "bytes") as on_progress:
        if repair:
            with (
                shard_workspace(name, 1.0, root, executor) as layout,
                executor_of(executor, jobs, address, layout) as runs,
            ):
                repaired = repair_shards(
                    layout, name, deep=deep, executor=runs, on_progress=on_progress
                )
            result, problems = repaired.before, repaired.problems
        else:
            result = verify_shards(shard_set(name, root), deep=deep, on_progress=on_progress)
            repaired, problems = None, result.problems
    if as_json:
        console.print_json(
            {
                **dataclasses.asdict(result),
                "directory": str(result.directory),
                "problems": [dataclasses.asdict(problem) for problem in problems],
                "repaired": () if repaired is None else repaired.repaired + repaired.changed,
            }
        )
    else:
        console.say(
            f"{result.directory}: {counted(result.num_shards, 'shard')}, "
            f"{counted(result.num_frames, 'frame')}, "
            f"{bytes_text(result.num_bytes)} checked"
        )
    if repaired is not None:
        for file in repaired.repaired:
            console.warn(f"rebuilt, byte-identical: {file}")
        for file in repaired.changed:
            console.warn(f"rebuilt, other bytes (another version of PyAV or simplejpeg): {file}")
    remedy = RERUN if repair else _repair_hint(name, root)
    finish({problem.file: problem.message for problem in problems}, "damaged", remedy)


def _repair_hint(name: str, root: Path) -> str:
    """Return what mends a damaged set: a repair needs the videos, which its root has."""
    if "/" in name:  # its folder or URL, which says nothing of its videos
        return (
            "with the root of its videos, `wtours verify NAME --repair --root ROOT` rebuilds them; "
            "or `wtours copy` a whole copy of the set there"
        )
    command = shlex.join(("wtours", "verify", name, "--repair", *at_root(root)))
    return f"`{command}` rebuilds them from the downloaded videos"


def _verify_all(layout: Layout, *, as_json: bool) -> None:
    from wtours.diagnostics.verify_workspace import ONE_OF, verify_workspace

    with console.progress_bars("verify", "steps") as on_progress:
        report = verify_workspace(layout, on_progress=on_progress)
    if not any(report.counts.values()) and not report.problems:
        raise WtoursError(f"nothing was made yet under {place_text(layout.root)}: check --root")
    if as_json:
        console.print_json(dataclasses.asdict(report))
    else:
        counts = ", ".join(counted(n, ONE_OF[kind], kind) for kind, n in report.counts.items())
        console.say(f"{place_text(layout.root)}: {counts}, {bytes_text(report.bytes)} checked")
    remedy = (
        "`wtours verify NAME --repair` rebuilds shards; remove the rest, and rerun the commands "
        "that made it"
    )
    finish({problem.file: problem.message for problem in report.problems}, "damaged", remedy)
