"""The commands that say how things stand: list, doctor."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wtours.acquire.ytdlp.formats import DEFAULT_MAX_HEIGHT
from wtours.cli import console
from wtours.cli.options import (
    ROOT,
    AsJson,
    ManifestOption,
    MaxHeight,
    Root,
    Videos,
    chosen_manifest,
)
from wtours.cli.sets.places import needs_receipts, reading_workspace, workspace
from wtours.storage.store import as_location
from wtours.text import bytes_text, counted, seconds_text
from wtours.workspace.layout import Layout

if TYPE_CHECKING:
    from wtours.diagnostics.doctor import Check
    from wtours.diagnostics.status import VideoState


def list_videos(
    manifest: ManifestOption = None, root: Root = ROOT, as_json: AsJson = False
) -> None:
    """Show every video of the manifest and what is done of it.

    Example: wtours list --json
    """
    from wtours.diagnostics.status import video_states

    entries = chosen_manifest(manifest).videos
    with reading_workspace(root, "videos", "analysis", "shards", needs=needs_receipts) as layout:
        states = video_states(entries, layout)
    if as_json:
        console.print_json([asdict(state) for state in states])
        return
    console.print_table(
        f"{counted(len(states), 'video')} under {as_location(root)}",
        ("video", "title", "downloaded", "analyzed", "shard sets"),
        [_state_row(state) for state in states],
    )


def doctor(
    manifest: ManifestOption = None,
    videos: Videos = None,
    max_height: MaxHeight = DEFAULT_MAX_HEIGHT,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Check that this machine can do the work: exit 1 if something required is missing.

    Example: wtours doctor --video venice
    """
    from wtours.diagnostics.doctor import diagnose

    entries = chosen_manifest(manifest).select(videos or ())
    _finish_checks(list(diagnose(entries, Layout(root), max_height=max_height)), as_json=as_json)


def cluster_doctor(
    address: Annotated[str, typer.Option(metavar="ADDRESS", help="Of the Ray cluster.")] = "auto",
    scratch: Annotated[
        Path | None,
        typer.Option(
            help="A folder of each node's own disk.",
            show_default="its temporary one",
            file_okay=False,
        ),
    ] = None,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Check that every node sees the root and has the same versions: exit 1 if one must not work.

    Example: wtours cluster doctor --root /shared/walks
    """
    from wtours.diagnostics.cluster import diagnose_cluster

    with workspace(root, needs=needs_receipts, executor="ray") as layout:
        checks = list(diagnose_cluster(layout, address, scratch=scratch))
    _finish_checks(checks, as_json=as_json)


def _finish_checks(checks: "list[Check]", *, as_json: bool) -> None:
    if as_json:
        console.print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            mend = f"; {check.remedy}" if check.remedy else ""
            console.say(f"{check.status:8} {check.name}: {check.found}{mend}")
    if problems := sum(check.status == "problem" for check in checks):
        console.warn(
            f"{counted(problems, 'problem')}: do what their lines say and rerun the command"
        )
        raise typer.Exit(1)


def _state_row(state: "VideoState") -> tuple[str, ...]:
    downloaded = {"missing": "no", "done": "yes"}.get(state.download, f"failed: {state.error}")
    if state.duration_seconds is not None and state.bytes is not None:
        downloaded = (
            f"{seconds_text(state.duration_seconds)}, {state.width}x{state.height} "
            f"{state.codec}, {bytes_text(state.bytes)}"
        )
    analyzed = "yes" if state.analysed else "no"
    return state.id, state.title, downloaded, analyzed, ", ".join(state.shard_sets) or "none"
