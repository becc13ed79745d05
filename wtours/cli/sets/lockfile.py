"""The commands that cite a shard set and make it again: lock, sync, attest."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from wtours.cli import console
from wtours.cli.acquire import AllowUnknownLicense
from wtours.cli.next_command import note_pretrain
from wtours.cli.options import (
    FINISHED_WITH_FAILURES,
    ROOT,
    AsJson,
    Deep,
    FromDir,
    Jobs,
    Root,
    executor_of,
    named_or_folder,
    out_option,
    set_argument,
    set_option,
)
from wtours.cli.sets.places import (
    SetHere,
    needs_every_receipt,
    place_text,
    reading_workspace,
    shard_set,
    shard_workspace,
)
from wtours.execution.executor import default_jobs
from wtours.storage.remote_calls import shown
from wtours.text import counted


def lock(
    name: SetHere = "default",
    out: Annotated[
        Path | None, out_option("The lock file.", show_default="NAME.lock", dir_okay=False)
    ] = None,
    deep: Deep = False,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Write down what a shard set is: sources, parameters, versions and the hash of every shard.

    Publish the file, and cite its set hash; `wtours sync` makes the same set of it.

    Example: wtours lock default
    """
    from wtours.lockfile.lock import SUFFIX, lock_shards

    with (
        reading_workspace(
            root, "videos", f"shards/{Path(name).name}", needs=needs_every_receipt
        ) as layout,
        console.progress_bars("lock", "bytes") as on_progress,
    ):
        directory = named_or_folder(name, layout.shards_dir)
        path = out or Path(f"{directory.name}{SUFFIX}")
        locked = lock_shards(layout, directory, path, deep=deep, on_progress=on_progress)
    frames = sum(shard.frames for shard in locked.shards)
    text = (
        f"{path}: {counted(len(locked.videos), 'video')}, "
        f"{counted(len(locked.shards), 'shard')}, {counted(frames, 'frame')}\n"
        f"set sha256 {locked.set_sha256}"
    )
    console.show(text, locked.model_dump(mode="json"), as_json=as_json)


def sync(
    lock_file: Annotated[Path, typer.Argument(metavar="FILE", help="The lock file.")],
    name: Annotated[
        str | None,
        set_option("NAME", "Name of the shard set that is made.", show_default="the lock's"),
    ] = None,
    from_dir: FromDir = None,
    blur_boxes: Annotated[
        Path | None,
        typer.Option(help="The boxes of a blurred set: its blur_boxes.parquet.", dir_okay=False),
    ] = None,
    where_table: Annotated[
        Path | None,
        typer.Option(help="The seconds of a set with --where: quality.parquet.", dir_okay=False),
    ] = None,
    allow_unknown_license: AllowUnknownLicense = False,
    jobs: Jobs = default_jobs(),
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Make the shard set of a lock: fetch its videos, write their shards, compare every byte.

    What differs is named: a video that is another file, a version, a shard. Examples:

    wtours sync default.lock

    wtours sync default.lock --from-dir ~/videos
    """
    from wtours.acquire.options import FetchOptions
    from wtours.lockfile.lock import read_lock
    from wtours.lockfile.sync import differing_versions, sync_shards

    locked = read_lock(lock_file)
    for line in differing_versions(locked):
        console.warn(f"warning: {line}: the bytes may differ")
    with (
        shard_workspace(name or locked.name, 1.0, root) as layout,
        console.progress_bars("sync", "percent") as on_progress,
        executor_of("processes", jobs, None, layout) as executor,
    ):
        report = sync_shards(
            layout,
            locked,
            name=name,
            from_dir=from_dir,
            blur_boxes=blur_boxes,
            where_table=where_table,
            options=FetchOptions(allow_unknown_license=allow_unknown_license),
            executor=executor,
            on_progress=on_progress,
        )
        directory = place_text(report.directory)
    if as_json:
        console.print_json({**dataclasses.asdict(report), "directory": directory})
    else:
        console.say(
            f"{directory}: {report.num_same:,} of {counted(report.num_shards, 'shard')} as in "
            f"{lock_file}, byte for byte"
        )
    if report.set_sha256 == locked.set_sha256 and not report.differences:
        console.note(f"set sha256 {report.set_sha256}, as locked")
        if report.index_sha256 != locked.index_sha256:
            console.note(
                "the index is not the locked one (cuts and lightness come from `wtours analyze`, "
                "then `wtours shard`): frames are the same, clips may differ"
            )
        if not as_json:
            note_pretrain(name or locked.name, root)
        return
    for item, problem in report.differences.items():
        console.warn(f"differs: {item}: {problem}")
    console.warn(
        f"{counted(len(report.differences), 'difference')}, this is not the locked set: bring what "
        f"is named above to the lock's state (the same file, the same version), remove "
        f"{report.directory} and rerun the command"
    )
    raise typer.Exit(FINISHED_WITH_FAILURES)


def attest(
    a: Annotated[str, set_argument("A", "A shard set: NAME, DIR or URL.")],
    b: Annotated[str, set_argument("B", "Another one: NAME, DIR or URL.")],
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Compare two shard sets frame by frame: bytes, then pixels, then the perceptual distance.

    Exit code 0: every frame is in both with the same bytes; 3: they differ.

    Example: wtours attest default /mnt/other-lab/default
    """
    from wtours.comparison.attest import attest as attest_sets
    from wtours.shards.params import OPTIONS

    sets = [shard_set(text, root) for text in (a, b)]
    with console.progress_bars("attest", "steps") as on_progress:
        found = attest_sets(sets[0], sets[1], on_progress=on_progress)
    if as_json:
        console.print_json({"same": found.same, **found.to_json()})
    else:
        console.print_table(
            f"A {shown(str(sets[0]))}: set sha256 {found.set_sha256_a}\n"
            f"B {shown(str(sets[1]))}: set sha256 {found.set_sha256_b}",
            (
                *("video", "source", "A", "B", "paired", "same bytes", "same pixels", "other"),
                *("PSNR min dB", "mean", "dHash max"),
            ),
            [
                (
                    video.video_id,
                    {True: "same", False: "another file", None: "in one set"}[video.same_source],
                    *(f"{n:,}" for n in (video.frames_a, video.frames_b, video.paired)),
                    *(f"{n:,}" for n in (video.same_bytes, video.same_pixels)),
                    f"{video.different + video.undecodable:,}",
                    *(_shown(x) for x in (video.psnr_min_db, video.psnr_mean_db)),
                    _shown(video.dhash_max),
                )
                for video in found.videos
            ],
        )
        for video in found.videos:
            if video.first_difference is not None:
                console.say(f"first difference of {video.video_id}: {video.first_difference}")
        for parameter, values in found.params.items():
            option = OPTIONS.get(parameter, f"parameter {parameter}")
            console.say(f"{option}: {values[0]} in A, {values[1]} in B")
        console.say("the same frames, byte for byte" if found.same else "not the same frames")
    if not found.same:
        raise typer.Exit(FINISHED_WITH_FAILURES)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
