"""The commands that bring the videos of a manifest: render, download."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wtours.acquire.ytdlp.formats import DEFAULT_MAX_HEIGHT, SelectedFormat
from wtours.cli import console
from wtours.cli.next_command import note_next
from wtours.cli.options import (
    ROOT,
    AsJson,
    FromDir,
    ManifestOption,
    MaxHeight,
    MaxLoss,
    Root,
    Videos,
    chosen_manifest,
    finish,
    refuse_unused,
    set_option,
)
from wtours.cli.sets.places import needs_tables, shard_set, workspace
from wtours.media.file_types import Codec
from wtours.media.limits import MAX_LOSS
from wtours.storage.store import is_url
from wtours.text import bytes_text, seconds_text
from wtours.workspace.layout import Layout

if TYPE_CHECKING:
    from wtours.acquire.dry_run import Planned
    from wtours.acquire.options import FetchOptions
    from wtours.acquire.sources import Sources


_INTERVAL = 1.0

MaxSize = Annotated[
    str, typer.Option(metavar="SIZE", help="Refuse a video at a URL with more bytes: 500M, 200G.")
]

AllowUnknownLicense = Annotated[
    bool,
    typer.Option("--allow-unknown-license", help="Also fetch where the source states no license."),
]


def render(
    manifest: ManifestOption = Path("demo"),
    videos: Videos = None,
    eval_sets: Annotated[
        bool,
        typer.Option(
            "--eval-sets", help="Also make small labeled sets of them: voc, davis, ade20k."
        ),
    ] = False,
    shards: Annotated[
        str | None,
        set_option("NAME|DIR|URL", "Also write depth, flow, masks and poses of this set's frames."),
    ] = None,
    interval: Annotated[
        float, typer.Option(help="--shards: seconds from a frame to the one its flow leads to.")
    ] = _INTERVAL,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Render the manifest's synthetic walks, each with its ground truth, into ROOT/rendered.

    With --shards, the truth of the set's frames comes as files for `wtours layer make`. Examples:

    wtours render --manifest demo

    wtours render --manifest demo --shards default --interval 0.5
    """
    from wtours.synthetic.demo import render_walks

    if shards is None:
        refuse_unused("walks alone (no --shards)", {"--interval": interval != _INTERVAL})
    entries = chosen_manifest(manifest).select(videos or ())
    with console.progress_bars("render", "percent") as on_progress:
        paths = render_walks(entries, Layout(root), on_progress=on_progress)
    sets: list[Path] = []
    if eval_sets:
        from wtours.synthetic.eval_sets import publish_eval_sets

        *train, val = (path.stem for path in paths)
        sets = list(publish_eval_sets(paths[0].parent, train=train or [val], val=val))
    truth = None if shards is None else _publish_truth(shards, interval, root)
    if as_json:
        content = {"videos": list(map(str, paths)), "eval_sets": list(map(str, sets))}
        console.print_json(content if truth is None else content | {"truth": str(truth)})
        return
    for path in paths:
        console.say(f"rendered {path}")
    for path in sets:
        console.say(f"labeled set {path}")
    if shards is not None and truth is not None:
        console.say(f"truth of the frames {truth}")
        origin = f"external:{truth / 'depth'}"
        note_next("layer", "make", "depth", "--from", origin, "--shards", shards, root=root)
        return
    from_dir = str(Layout(root).rendered_dir)
    note_next("download", "--from-dir", from_dir, manifest=manifest, videos=videos, root=root)


def _publish_truth(shards: str, interval: float, root: Path) -> Path:
    """Write the truth of a set's frames beside the walks; return the folder."""
    from wtours.shards.index import ShardIndex
    from wtours.synthetic.truth_files import publish_truth_files

    rendered, index = Layout(root).rendered_dir, ShardIndex.open(shard_set(shards, root))
    with console.progress_bars("truth", "steps") as on_progress:
        publish_truth_files(
            index,
            rendered,
            rendered / "layers",
            interval_seconds=interval,
            on_progress=on_progress,
        )
    return rendered / "layers"


def download(
    manifest: ManifestOption = None,
    videos: Videos = None,
    from_dir: FromDir = None,
    max_height: MaxHeight = DEFAULT_MAX_HEIGHT,
    codec: Annotated[
        Codec | None,
        typer.Option(metavar="CODEC", help="Insist on h264, vp9 or av1.", show_default="any"),
    ] = None,
    allow_unknown_license: AllowUnknownLicense = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Videos fetched at once.")] = 2,
    limit_rate: Annotated[
        str | None, typer.Option(metavar="RATE", help="Bytes a second in all, such as 2M.")
    ] = None,
    max_size: MaxSize = "256G",
    sleep: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Between requests to one host.")
    ] = 0.0,
    proxy: Annotated[
        str | None, typer.Option(metavar="URL", help="An HTTP or SOCKS proxy.")
    ] = None,
    cookies: Annotated[
        Path | None, typer.Option(help="Your cookies, in Netscape's format.", dir_okay=False)
    ] = None,
    cookies_from_browser: Annotated[
        str | None, typer.Option(metavar="BROWSER", help="For example firefox or chrome:Work.")
    ] = None,
    max_loss: MaxLoss = MAX_LOSS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be fetched, and fetch nothing.")
    ] = False,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Download the videos, verify that each file is complete, and record its provenance.

    A download that was stopped is resumed. Creative Commons passes, other licenses are
    refused. Examples:

    wtours download --video venice

    wtours download --from-dir ~/videos   (files named venice.mp4, …)
    """
    from wtours.acquire.download import download_videos
    from wtours.acquire.options import FetchOptions, parse_rate, parse_size
    from wtours.acquire.sources import Sources
    from wtours.workspace.attribution import write_attribution

    options = FetchOptions(
        max_height=max_height,
        codec=codec,
        allow_unknown_license=allow_unknown_license,
        jobs=jobs,
        limit_rate=parse_rate(limit_rate),
        max_bytes=parse_size(max_size),
        sleep_seconds=sleep,
        proxy=proxy,
        cookies_file=cookies,
        cookies_from_browser=cookies_from_browser,
        max_loss=max_loss,
    )
    loaded = chosen_manifest(manifest)
    entries, files_dir = loaded.select(videos or ()), loaded.path.parent
    if dry_run:
        sources = Sources(entries=entries, options=options, from_dir=from_dir, files_dir=files_dir)
        _show_plan(Layout(root), sources, as_json=as_json)
        return
    with (
        workspace(root, "videos", needs=needs_tables, rebuild=write_attribution) as layout,
        console.progress_bars("download", "bytes") as on_progress,
    ):
        report = download_videos(
            entries,
            layout,
            from_dir=from_dir,
            files_dir=files_dir,
            options=options,
            on_selected=say_choice,
            on_progress=on_progress,
        )
        if is_url(str(root)):
            write_attribution(layout)  # of what other machines have downloaded meanwhile, too
    if as_json:
        console.print_json(dataclasses.asdict(report))
    else:
        console.say(f"{len(report.done)} downloaded, {len(report.skipped)} already there")
    _say_other(report.skipped, options, layout)
    finish(report.failed, "could not be downloaded")
    if not as_json:
        note_next("analyze", manifest=manifest, videos=videos, root=root)


def say_choice(video_id: str, choice: SelectedFormat) -> None:
    """Say what is about to be fetched, and how large it is."""
    console.note(f"{video_id}: {choice.describe()}, {_size_text(choice)}, from {choice.source}")


def _say_other(video_ids: Sequence[str], options: "FetchOptions", layout: Layout) -> None:
    """Say which videos are there already in another way than was asked for."""
    from wtours.workspace.videos import downloaded_video

    for video_id in video_ids:
        video = downloaded_video(layout, video_id)
        height, codec = (video.receipt.facts[name] for name in ("height", "codec"))
        remove = f"remove {video.path.parent} first"
        if options.max_height > max(height, DEFAULT_MAX_HEIGHT):
            console.warn(
                f"{video_id}: there already with {height} lines; to fetch a larger one, {remove}"
            )
        if options.codec not in (None, codec):
            console.warn(
                f"{video_id}: there already as {codec}; to fetch it as {options.codec}, {remove}"
            )


def _show_plan(layout: Layout, sources: "Sources", *, as_json: bool) -> None:
    from wtours.acquire.dry_run import plan_downloads

    rows = list(plan_downloads(layout, sources))
    if as_json:
        console.print_json([dataclasses.asdict(row) for row in rows])
    else:
        cells = [
            (
                row.id,
                row.action,
                "?" if row.duration_seconds is None else seconds_text(row.duration_seconds),
                _size_text(row),
                row.what or "",
                row.source or "",
            )
            for row in rows
        ]
        console.print_table(
            "Nothing is fetched now", ("video", "", "length", "size", "what", "from"), cells
        )
        sizes = [row.bytes or 0 for row in rows if row.action == "fetch"]
        console.say(f"{len(sizes)} to fetch, {bytes_text(sum(sizes))} as far as is known")
    finish(
        {row.id: row.what or "" for row in rows if row.action == "fail"},
        "could not be downloaded",
        "fix what is named above; the others can be downloaded now",
    )


def _size_text(sized: "SelectedFormat | Planned") -> str:
    if sized.bytes is None:
        return "size not stated"
    return ("about " if sized.is_estimate else "") + bytes_text(sized.bytes)
