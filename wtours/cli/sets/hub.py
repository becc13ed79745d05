"""The commands that publish a shard set and get one: push, pull, shards card."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from wtours.cli import console
from wtours.cli.next_command import note_pretrain
from wtours.cli.options import ROOT, AsJson, Root, named_or_folder
from wtours.cli.sets.copy import copy_set
from wtours.cli.sets.places import SetHere
from wtours.errors import UsageError
from wtours.hub.repository import SCHEME
from wtours.text import bytes_text, counted, listed
from wtours.workspace.layout import Layout


def push(
    name: SetHere,
    url: Annotated[
        str, typer.Argument(metavar="URL", help="hf://datasets/OWNER/NAME, s3://BUCKET/PATH, …")
    ],
    public: Annotated[
        bool,
        typer.Option("--public", help="Make a new repository of the Hub public; else private."),
    ] = False,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Publish a shard set on the Hugging Face Hub or an object store; rerun to resume.

    Every file is compared by its digest at the end. A card and croissant.json go to the Hub too;
    log in with `hf auth login` or set HF_TOKEN. To an object store it is `wtours copy`.

    Examples:

    wtours push venice_30 hf://datasets/your-name/walks-venice

    wtours push venice_30 s3://bucket/shards/venice_30
    """
    directory = named_or_folder(name, Layout(root).shards_dir)
    if not url.startswith(SCHEME):
        copy_set(directory, _required_url(url), as_json=as_json)
        return
    from wtours.hub.push import push_shards

    _note_licenses(directory)
    with console.progress_bars("push", "bytes") as on_progress:
        report = push_shards(directory, url, public=public, on_progress=on_progress)
    text = (
        f"{report.destination}: {counted(report.files, 'file')}, {bytes_text(report.bytes)}; "
        f"{report.files_sent} sent, {report.files - report.files_sent} there already"
    )
    console.show(text, dataclasses.asdict(report), as_json=as_json)


def pull(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="hf://datasets/OWNER/NAME, s3://BUCKET/PATH, …")
    ],
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|DIR", help="The shard set to make.", show_default="the URL's last part"
        ),
    ] = None,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Get a shard set from the Hugging Face Hub or an object store; rerun the command to resume.

    It is `wtours copy`: each file is compared with the sha256 of dataset.json.

    Example: wtours pull hf://datasets/your-name/walks-venice venice_30
    """
    name = name or _required_url(url).rstrip("/").rpartition("/")[2].partition("@")[0]
    copy_set(_required_url(url), named_or_folder(name, Layout(root).shards_dir), as_json=as_json)
    if not as_json:
        note_pretrain(name, root)


def card_of_shards(
    name: SetHere = "default",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Where to.", show_default="the set's folder"
        ),
    ] = None,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Write a shard set's dataset card (README.md) and croissant.json; run it when the set grows.

    Licenses are those that the sources stated. No file of the set changes.

    Example: wtours shards card venice_30
    """
    from wtours.exporting.set_card import write_set_cards

    directory = named_or_folder(name, Layout(root).shards_dir)
    files = [str(path) for path in write_set_cards(directory, out or directory)]
    console.show("\n".join(files), {"files": files}, as_json=as_json)


def _required_url(url: str) -> str:
    if "://" not in url:
        raise UsageError(f"{url} is no URL; between folders use `wtours copy`")
    return url


def _note_licenses(directory: Path) -> None:
    """Say which videos may not be the user's to give away."""
    from wtours.shards.schema import read_dataset

    unknown = [v.video_id for v in read_dataset(directory).videos if v.license_observed is None]
    if unknown:
        shown = listed(unknown, most=5)
        console.note(f"no license was observed of {shown}: make sure that you may publish them")
