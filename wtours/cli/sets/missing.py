"""The command that says what is not finished of a shard set: shards missing."""

from typing import Annotated

import typer

from wtours.cli import console
from wtours.cli.options import FINISHED_WITH_FAILURES, ROOT, AsJson, Root
from wtours.cli.sets.places import SetName, needs_every_receipt, reading_workspace
from wtours.errors import UsageError
from wtours.text import counted
from wtours.workspace.layout import checked_name


def missing_of_shards(
    name: SetName = "default",
    parts: Annotated[
        int | None,
        typer.Option("--parts", min=1, max=10_000, help="N of --part i/N: name the parts instead."),
    ] = None,
    as_array: Annotated[
        bool,
        typer.Option(
            "--array", help="Only the unfinished parts, for `sbatch --array=`; needs --parts."
        ),
    ] = False,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Show which segments of a shard set are not finished, or which parts; exit 3 if any.

    Example: sbatch --array=$(wtours shards missing wt_all --parts 64 --array) part.sh
    """
    from wtours.sharding.missing import array_expression, missing_segments, unfinished_parts

    if as_array and parts is None:
        raise UsageError("--array needs --parts N, the N of the --part i/N that were run")
    folder = f"shards/{checked_name(name, 'shard set')}"
    with reading_workspace(root, folder, needs=needs_every_receipt) as layout:
        directory = layout.shards_dir(name)
        missing = missing_segments(directory)
        numbers = [] if parts is None else unfinished_parts(directory, parts)
    if as_json:
        content: dict[str, object] = {"missing": missing}
        if parts is not None:
            content |= {"parts": numbers, "array": array_expression(numbers)}
        console.print_json(content)
    elif as_array:
        console.say(array_expression(numbers))
    elif parts is not None:
        console.say(", ".join(f"{number}/{parts}" for number in numbers) or "none")
    else:
        for video_id, segments in missing.items():
            console.say(f"{video_id}: {array_expression(segments)}")
        console.say(f"missing: {counted(sum(map(len, missing.values())), 'segment')}")
    if missing:
        console.note("run `wtours shard` again, or the parts that are named, with the same options")
        raise typer.Exit(FINISHED_WITH_FAILURES)
