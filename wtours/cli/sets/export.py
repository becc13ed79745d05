"""The command that writes a shard set in the layouts of others: shards export."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from wtours.cli import console
from wtours.cli.options import (
    ROOT,
    AsJson,
    Root,
    named_or_folder,
    out_option,
    refuse_unused,
)
from wtours.cli.sets.places import SetHere
from wtours.errors import UsageError
from wtours.text import bytes_text, counted
from wtours.workspace.layout import Layout

if TYPE_CHECKING:
    from wtours.exporting.units import Exporter

ExportLayout = Literal["imagefolder", "hf", "lance", "mds", "davis", "vjepa", "mp4"]
"""The layouts that a shard set can be exported to."""

_OF_CLIPS = ("davis", "vjepa", "mp4")
_CLIP_SECONDS = 10.0


def export_of_shards(
    name: SetHere = "default",
    to: Annotated[
        ExportLayout, typer.Option(metavar="FORMAT", help=f"{', '.join(get_args(ExportLayout))}.")
    ] = "imagefolder",
    out: Annotated[
        Path | None, out_option("The folder.", show_default="NAME-LAYOUT", file_okay=False)
    ] = None,
    clip_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", help="Longest clip, for davis, vjepa and mp4.")
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
    V-JEPA's list of them.

    Example: wtours shards export default --to hf --out walks-hf
    """
    from wtours.exporting.export import export_shards
    from wtours.exporting.images import SplitImageFolderExporter
    from wtours.shards.index import ShardIndex
    from wtours.shards.split import read_split

    if by_split or to not in _OF_CLIPS:
        beside = "--by-split" if by_split else f"--to {to}"
        refuse_unused(beside, {"--clip-seconds": clip_seconds != _CLIP_SECONDS})
    directory = named_or_folder(name, Layout(root).shards_dir)
    index = ShardIndex.open(directory)
    if by_split and to != "imagefolder":
        raise UsageError(f"--by-split is for --to imagefolder, not {to}")
    split = read_split(index, "train").sha256 if by_split else None
    exporter = SplitImageFolderExporter(split) if split else _exporter(to, clip_seconds)
    with console.progress_bars("export", "steps") as on_progress:
        report = export_shards(
            index,
            exporter,
            out or Path(f"{directory.name}-{to}"),
            on_progress=on_progress,
        )
    text = (
        f"{report.out}: {counted(report.frames, 'frame')}, {bytes_text(report.bytes)} of JPEG, in "
        f"{counted(report.units, 'part')} ({report.kept} were there)"
    )
    content = {**dataclasses.asdict(report), "out": str(report.out)}
    console.show(text, content, as_json=as_json)


def _exporter(to: ExportLayout, clip_seconds: float) -> "Exporter":
    from wtours.exporting.images import DavisExporter, ImageFolderExporter
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
