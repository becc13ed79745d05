"""The commands that divide a shard set into parts, and look for what two sets share."""

from collections import Counter
from dataclasses import asdict
from typing import Annotated

import typer

from wtours.cli import console
from wtours.cli.options import (
    FINISHED_WITH_FAILURES,
    ROOT,
    AsJson,
    Root,
    named_or_folder,
    set_argument,
)
from wtours.cli.sets.places import SetHere, shard_set
from wtours.text import counted, seconds_text
from wtours.workspace.layout import Layout


def split(
    name: SetHere = "default",
    val_share: Annotated[
        float, typer.Option(metavar="SHARE", help="Of the blocks, for validation.")
    ] = 0.1,
    block_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", help="Length of a block of a video.")
    ] = 300.0,
    gap_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", help="Least time between two parts.")
    ] = 30.0,
    seed: Annotated[int, typer.Option(help="Another seed, other blocks.")] = 0,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Divide a shard set into train and val: blocks in time, far apart, in split.json beside it.

    Then: wtours pretrain --set data.split=train, or ClipDataset(index, split="val").

    Example: wtours shards split default --val-share 0.1
    """
    from wtours.shards.index import ShardIndex
    from wtours.shards.split import frames_of_parts, split_path, split_shards

    index = ShardIndex.open(named_or_folder(name, Layout(root).shards_dir))
    content = split_shards(
        index, val_share=val_share, block_seconds=block_seconds, gap_seconds=gap_seconds, seed=seed
    )
    stretches = Counter(block.part for block in content.blocks)
    parts = {
        part: {"frames": frames, "stretches": stretches[part]}
        for part, frames in frames_of_parts(index, content).items()
    }
    shown = "; ".join(
        f"{part}: {counted(of_part['frames'], 'frame')} in "
        f"{counted(of_part['stretches'], 'stretch', 'stretches')}"
        for part, of_part in parts.items()
    )
    text = f"{split_path(index)}: {shown}; at least {gap_seconds:g} s between"
    console.show(text, {"file": str(split_path(index)), "parts": parts}, as_json=as_json)


def overlap(
    a: Annotated[str, set_argument("A", "A shard set: NAME, DIR or URL.")],
    b: Annotated[str, set_argument("B", "Another one: NAME, DIR or URL.")],
    every_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", help="Between the frames of A that are looked for.")
    ] = 1.0,
    max_distance: Annotated[
        int,
        typer.Option(min=0, max=16, metavar="BITS", help="Bits of 64 in which hashes may differ."),
    ] = 4,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Look for the same videos, and for frames that nearly equal, in two shard sets.

    Exit code 0: none; 3: there are some.

    Example: wtours shards overlap train_set benchmark_set
    """
    from wtours.comparison.overlap import find_overlap

    sets = [shard_set(text, root) for text in (a, b)]
    with console.progress_bars("overlap", "steps") as on_progress:
        found = find_overlap(
            sets[0],
            sets[1],
            every_seconds=every_seconds,
            max_distance=max_distance,
            on_progress=on_progress,
        )
    if as_json:
        console.print_json({"none": found.none, **asdict(found)})
    else:
        for video_a, video_b, reason in found.same_videos:
            console.say(f"the same video: {video_a} in A, {video_b} in B ({reason})")
        if found.stretches:
            console.print_table(
                "Frames of A that are nearly a frame of B",
                ("A", "from", "to", "frames", "B", "from", "to", "least distance"),
                [
                    (
                        stretch.video_a,
                        *(seconds_text(t / 1e6) for t in (stretch.start_us_a, stretch.end_us_a)),
                        f"{stretch.frames}",
                        stretch.video_b,
                        *(seconds_text(t / 1e6) for t in (stretch.start_us_b, stretch.end_us_b)),
                        f"{stretch.min_distance}",
                    )
                    for stretch in found.stretches
                ],
            )
        console.say(
            f"{counted(found.frames_a, 'frame')} of A against {found.frames_b:,} of B: "
            f"{found.num_near:,} nearly equal; {found.flat:,} too flat to tell"
        )
    if not found.none:
        raise typer.Exit(FINISHED_WITH_FAILURES)
