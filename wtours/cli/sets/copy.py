"""The command that copies a shard set between disks and object stores."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from wtours.cli import console
from wtours.cli.options import ROOT, AsJson, Root
from wtours.cli.sets.places import SetOrFolder, shard_set
from wtours.text import bytes_text, counted


def copy(
    source: SetOrFolder,
    destination: Annotated[
        str,
        typer.Argument(
            metavar="NAME|DIR|URL",
            help="What becomes the set: a name under the root, a folder (with a /) or a URL.",
        ),
    ],
    deep: Annotated[
        bool,
        typer.Option("--deep/--quick", help="Read each file back from there, or trust the store."),
    ] = True,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, metavar="N", help="Files at a time.")
    ] = 4,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Copy a shard set between a disk and an object store; rerun the command to resume.

    Every file is compared with the sha256 of dataset.json as it is read.

    Examples:

    wtours copy venice_30 s3://bucket/shards/venice_30

    wtours copy gs://bucket/shards/venice_30 /mnt/nvme/venice_30
    """
    places = shard_set(source, root), shard_set(destination, root)
    copy_set(*places, deep=deep, jobs=jobs, as_json=as_json)


def copy_set(
    source: Path | str, destination: Path | str, *, deep: bool = True, jobs: int = 4, as_json: bool
) -> None:
    """Copy a shard set, and print what the copy holds."""
    from wtours.sharding.copy_set import copy_shards

    with console.progress_bars("copy", "bytes") as on_progress:
        result = copy_shards(source, destination, deep=deep, jobs=jobs, on_progress=on_progress)
    if as_json:
        console.print_json(dataclasses.asdict(result))
        return
    console.say(
        f"{result.destination}: {counted(result.files, 'file')}, {bytes_text(result.bytes)}; "
        f"{result.files_copied} copied, {result.files - result.files_copied} there already"
    )
    for name in result.files_left:
        console.note(f"not of the set, not copied: {name}")
