"""The commands on the user's own walks and manifest: add, pin."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wtours.acquire.ytdlp.formats import DEFAULT_MAX_HEIGHT
from wtours.cli import console
from wtours.cli.acquire import AllowUnknownLicense, MaxSize, say_choice
from wtours.cli.next_command import note_next
from wtours.cli.options import ROOT, AsJson, MaxHeight, MaxLoss, Root, Videos, finish, own_manifest
from wtours.cli.sets.places import needs_tables, workspace
from wtours.errors import DownloadError, ManifestError, UsageError
from wtours.media.limits import MAX_LOSS
from wtours.text import rate_text, seconds_text
from wtours.workspace.layout import OWN_MANIFEST, Layout, find_own_manifest

if TYPE_CHECKING:
    from wtours.acquire.own_walks import OwnWalk
    from wtours.workspace.manifest import VideoEntry

OwnManifest = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        "-m",
        envvar="WTOURS_MANIFEST",
        metavar="FILE",
        help=f"Your own manifest. Default: {OWN_MANIFEST} of this folder or one above it; made "
        "here if there is none.",
        dir_okay=False,
        show_default=False,
    ),
]


def add(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="PATH|URL", help="Video files, folders of them, http(s) URLs."),
    ],
    video_id: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="ID",
            help="Of one walk: a-z, 0-9 and _; names it everywhere.",
            show_default="made of the file's name",
        ),
    ] = None,
    join: Annotated[
        bool,
        typer.Option(
            "--join",
            help="The files are one recording that the camera has cut, in this order. "
            "GoPro's chapters are known by their names.",
        ),
    ] = False,
    manifest: OwnManifest = None,
    title: Annotated[
        str | None, typer.Option(metavar="TITLE", help="Of one walk.", show_default="the source's")
    ] = None,
    license_claimed: Annotated[
        str, typer.Option("--license", metavar="LICENSE", help="As you know it.")
    ] = "unknown",
    max_height: MaxHeight = DEFAULT_MAX_HEIGHT,
    max_size: MaxSize = "256G",
    allow_unknown_license: AllowUnknownLicense = False,
    stream: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Of a file with several videos: the one that ffprobe calls Stream #0:N.",
            show_default="the default one, else the largest",
        ),
    ] = None,
    max_loss: MaxLoss = MAX_LOSS,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Bring your own walks under the root, and into a manifest of your own.

    Every other command then finds them by it. What is there already is not added again.
    Examples:

    wtours add ~/footage

    wtours add walk.mov --id my_walk

    wtours add --join DJI_0001.MP4 DJI_0002.MP4
    """
    from wtours.acquire.add_video import Claims, add_walk
    from wtours.acquire.options import FetchOptions, parse_size
    from wtours.acquire.own_walks import own_walks

    path = own_manifest(manifest)
    done: list[tuple[OwnWalk, VideoEntry, bool]] = []
    rows: list[tuple[str, ...]] = []
    failed: dict[str, str] = {}
    with (
        workspace(root, "videos", needs=needs_tables) as layout,
        console.progress_bars("add", "bytes") as on_progress,
    ):
        walks = own_walks(sources, layout, join=join)
        if len(walks) > 1 and (video_id or title):
            raise UsageError(f"--id and --title are of one walk; {len(walks)} are given")
        for walk in walks:
            try:
                entry, is_new = add_walk(
                    walk,
                    video_id,
                    path,
                    layout,
                    claims=Claims(title=title, license_claimed=license_claimed, stream=stream),
                    options=FetchOptions(
                        max_height=max_height,
                        max_bytes=parse_size(max_size),
                        allow_unknown_license=allow_unknown_license,
                        max_loss=max_loss,
                    ),
                    on_selected=say_choice,
                    on_progress=on_progress,
                )
            except DownloadError as error:
                failed[walk.name] = str(error)
            else:
                done.append((walk, entry, is_new))
                rows.append(_row(walk, entry, is_new, layout))
    if as_json:
        refused = [{"file": name, "problem": problem} for name, problem in failed.items()]
        added = [
            {"file": walk.name, "is_new": is_new}
            | entry.model_dump(mode="json", exclude_defaults=True)
            for walk, entry, is_new in done
        ]
        console.print_json([*added, *refused])
    elif done:
        title_of_table = f"{len(done)} of {len(walks)} in {path}"
        columns = ("id", "file", "video", "")
        console.print_table(title_of_table, columns, rows)
        found = find_own_manifest(Path.cwd())
        is_found = found is not None and found.resolve() == path.resolve()
        note_next("analyze", manifest=None if is_found else path, root=root)
    _note_next_chapters(done)
    finish(failed, "could not be added")


def pin(
    manifest: OwnManifest = None,
    videos: Videos = None,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Write the sha256 of the downloaded videos into your own manifest, to be demanded later.

    Example: wtours pin
    """
    from wtours.workspace.manifest import load_manifest
    from wtours.workspace.manifest_edit import pin_videos
    from wtours.workspace.videos import checked_video

    path = own_manifest(manifest)
    if manifest is None and not path.exists():
        raise ManifestError(f"{path} is not there; `wtours add` makes one")
    ids = [entry.id for entry in load_manifest(path).select(videos or ())]
    pinned = {id: checked_video(Layout(root), id, deep=True).sha256 for id in ids}
    changed = pin_videos(path, pinned)
    content = {"manifest": str(path), "sha256": pinned, "changed": changed}
    text = f"{len(changed)} of {len(pinned)} newly pinned in {path}"
    console.show(text, content, as_json=as_json)


def _row(walk: "OwnWalk", entry: "VideoEntry", is_new: bool, layout: Layout) -> tuple[str, ...]:
    from wtours.workspace.videos import downloaded_video

    facts = downloaded_video(layout, entry.id).receipt.facts  # an entry need not state them
    chapters = len(entry.chapters)
    joined = f", {chapters + 1} chapters joined" if chapters else ""
    length = seconds_text(facts["duration_us"] / 1_000_000)
    return (
        entry.id,
        walk.name,
        f"{length}, {facts['width']}x{facts['height']}, {rate_text(facts['frame_rate'])}",
        f"{'added' if is_new else 'there already'}{joined}",
    )


def _note_next_chapters(done: "list[tuple[OwnWalk, VideoEntry, bool]]") -> None:
    """Name the chapters that lie beside a recording and were not given: it would be cut short."""
    from wtours.acquire.chapters import next_chapter

    for walk, entry, _ in done:
        following = next_chapter(walk.files[-1]) if walk.files else None
        if following is not None:
            console.warn(
                f"{entry.id}: {following.name} beside it is its recording's next chapter; to have "
                f"them joined, give both in one command, with another --id"
            )
