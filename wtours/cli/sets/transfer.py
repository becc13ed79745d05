"""The commands that bring a shard set elsewhere: copy, push, pull, shards export and card."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from wtours.cli import console
from wtours.cli.next_command import note_pretrain
from wtours.cli.options import ROOT, AsJson, Root, named_or_folder, out_option, refuse_unused
from wtours.cli.sets.places import SetHere, SetOrFolder, shard_set
from wtours.errors import UsageError
from wtours.hub.repository import SCHEME
from wtours.storage.remote_calls import shown
from wtours.text import bytes_text, counted, listed
from wtours.workspace.layout import Layout

if TYPE_CHECKING:
    from wtours.exporting.units import Exporter

ExportLayout = Literal["imagefolder", "hf", "lance", "mds", "davis", "vjepa", "mp4", "lerobot"]
"""The layouts that a shard set can be exported to."""

_OF_CLIPS = ("davis", "vjepa", "mp4", "lerobot")
_CLIP_SECONDS = 10.0


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
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Files at a time.")] = 4,
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
    _copy_set(*places, deep=deep, jobs=jobs, as_json=as_json)


def _copy_set(
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
        _copy_set(directory, _required_url(url), as_json=as_json)
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
    _copy_set(_required_url(url), named_or_folder(name, Layout(root).shards_dir), as_json=as_json)
    if not as_json:
        note_pretrain(name, root)


def card_of_shards(
    name: SetHere = "default",
    out: Annotated[
        Path | None, out_option("Where to.", metavar="DIR", show_default="the set's folder")
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


def export_of_shards(
    name: SetOrFolder = "default",
    to: Annotated[
        ExportLayout, typer.Option(metavar="FORMAT", help=f"{', '.join(get_args(ExportLayout))}.")
    ] = "imagefolder",
    out: Annotated[
        Path | None, out_option("The folder.", show_default="NAME-LAYOUT", file_okay=False)
    ] = None,
    clip_seconds: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Longest clip, for davis, vjepa, mp4 and lerobot."),
    ] = _CLIP_SECONDS,
    by_split: Annotated[
        bool,
        typer.Option(
            "--by-split",
            help="imagefolder: below train/ and val/, by `wtours shards split`.",
        ),
    ] = False,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Write a shard set in another layout; run it again to resume.

    imagefolder: a folder of JPEGs a video. hf: Parquet for Hugging Face datasets. lance: a table.
    mds: mosaicml-streaming. davis: sequences of JPEGs. mp4: short H.264 clips; vjepa: those and
    V-JEPA's list of them. lerobot: episodes of LeRobot v3.0.

    Examples:

    wtours shards export default --to hf --out walks-hf

    wtours shards export s3://bucket/shards/venice_30 --to mds
    """
    from wtours.exporting.export import export_shards
    from wtours.exporting.images import SplitImageFolderExporter
    from wtours.shards.index import ShardIndex
    from wtours.shards.range_reads.remote import FetchPolicy
    from wtours.shards.split import read_split

    if by_split or to not in _OF_CLIPS:
        beside = "--by-split" if by_split else f"--to {to}"
        refuse_unused(beside, {"--clip-seconds": clip_seconds != _CLIP_SECONDS})
    place = shard_set(name, root)
    # Each frame is read once: none is kept on this machine.
    index = ShardIndex.open(place, policy=FetchPolicy(cache_dir=None, memory_bytes=0))
    if by_split and to != "imagefolder":
        raise UsageError(f"--by-split is for --to imagefolder, not {to}")
    split = read_split(index, "train").sha256 if by_split else None
    exporter = SplitImageFolderExporter(split) if split else _exporter(to, clip_seconds)
    with console.progress_bars("export", "steps") as on_progress:
        report = export_shards(
            index,
            exporter,
            out or Path(f"{shown(str(place)).rpartition('/')[2]}-{to}"),
            on_progress=on_progress,
        )
    text = (
        f"{report.out}: {counted(report.frames, 'frame')}, {bytes_text(report.bytes)} of images, "
        f"in {counted(report.units, 'part')} ({report.kept} were there)"
    )
    content = {**dataclasses.asdict(report), "out": str(report.out)}
    console.show(text, content, as_json=as_json)


def _exporter(to: ExportLayout, clip_seconds: float) -> "Exporter":
    from wtours.exporting.images import DavisExporter, ImageFolderExporter
    from wtours.exporting.lerobot import LeRobotExporter
    from wtours.exporting.mds import MdsExporter
    from wtours.exporting.tables import HuggingFaceExporter, LanceExporter
    from wtours.exporting.videos import Mp4Exporter, VJepaExporter

    match to:
        case "imagefolder":
            return ImageFolderExporter()
        case "hf":
            return HuggingFaceExporter()
        case "lance":
            return LanceExporter()
        case "mds":
            return MdsExporter()
        case "davis":
            return DavisExporter(clip_seconds)
        case "mp4":
            return Mp4Exporter(clip_seconds)
        case "vjepa":
            return VJepaExporter(clip_seconds)
        case "lerobot":
            return LeRobotExporter(clip_seconds)
