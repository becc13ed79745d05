"""What a clip costs, ours and others', and what `wtours shard` costs.

    make bench-shards
    python -m benchmarks.bench_shards --seconds 20 --peers /tmp/peers

Processor time, not the clock, wherever programs are compared: other work on the machine then
changes little. The peers are no dependencies:

    pip install --no-deps --target /tmp/peers eva-decord pylance lance-namespace torchcodec
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.rows import Row, publish_rows
from benchmarks.shards import peers as shard_peers
from benchmarks.shards import sources as shard_sources
from benchmarks.shards.codecs import measure as measure_codecs
from benchmarks.shards.exports import measure as measure_exports
from benchmarks.shards.index import write_made_up_set
from benchmarks.shards.layers import measure as measure_layers
from benchmarks.shards.peers import GetClip
from benchmarks.shards.sharing import measure as measure_sharing

NUM_CLIPS, ROUNDS = 40, 5
AUTHORS_GOALS = {"walk_4k60": 300, "walk_720p60": 40}


def main() -> int:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=120, help="length of the videos")
    parser.add_argument("--peers", type=Path, help="folder that the peers are installed in")
    options = parser.parse_args()
    if options.peers is not None:
        sys.path.append(str(options.peers))
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="wtours-bench-") as name:
        folder = Path(name)
        for source in shard_sources.SOURCES:
            video = shard_sources.source_video(source, options.seconds)
            rows += _source_rows(source.video_id, video, options.seconds)
            work = folder / source.video_id
            shards, cost, idle = shard_sources.sharded(source, video, work)
            rows += _shard_rows(source.video_id, video, cost, work)
            rows += _part_rows(source.video_id, video, options.seconds, cost, idle)
            rows.append(_shown(f"{source.video_id}: again, all done", idle.cpu_seconds, "CPU-s"))
            rows += _clip_rows(source.video_id, video, shards, work)
            shutil.rmtree(work)
        rows += _codec_rows(source.video_id, video)
        rows += _index_rows(folder)
        rows += _sharing_rows(folder)
        rows += _export_rows(folder / "exports")
        rows += _layer_rows(folder / "layers")
    return publish_rows("shards", rows)


def _source_rows(name: str, video: Path, seconds: int) -> list[Row]:
    rate = video.stat().st_size * 8 / seconds / 1e6
    return [_shown(f"{name}: {seconds} s of H.264", rate, "Mbit/s")]


def _shard_rows(name: str, video: Path, cost: shard_sources.Cost, work: Path) -> list[Row]:
    """Compare `wtours shard` with ffmpeg and tar, one thread each."""
    peer = shard_sources.ffmpeg_then_tar(video, work / "ffmpeg")
    shutil.rmtree(work / "ffmpeg")
    return [
        _at_most(f"{name}: wtours shard", cost.cpu_seconds / peer.cpu_seconds, 1, "x ffmpeg, tar"),
        _shown(f"{name}: ffmpeg to JPEG, then tar", peer.cpu_seconds, "CPU-seconds"),
        _at_most(f"{name}: wtours shard, peak memory", cost.peak_mib, 1024, "MiB"),
    ]


def _part_rows(
    name: str, video: Path, seconds: int, cost: shard_sources.Cost, idle: shard_sources.Cost
) -> list[Row]:
    """Return how much of the stage is decoding, reducing and JPEG, which any way needs."""
    spent = shard_sources.inherent_seconds(video, seconds) | {"starting": idle.cpu_seconds}
    spent["all else"] = cost.cpu_seconds - sum(spent.values())
    return [
        _shown(f"{name}: wtours shard, {part}", value / cost.cpu_seconds, "of its CPU-seconds")
        for part, value in spent.items()
    ]


def _clip_rows(name: str, video: Path, shards: Path, work: Path) -> list[Row]:
    """Compare a clip with others' ways, in one run; every other's way is a ratio to ours."""
    tars_mb = sum(path.stat().st_size for path in shards.glob("*.tar")) / 1e6
    ours = shard_peers.ours(shards)
    seconds, memory = _alternating(ours, shard_peers.from_memory(shards, NUM_CLIPS))
    rows = [
        _shown(f"{name}: a clip", seconds * 1000, f"CPU-ms; {tars_mb:.0f} MB on disk"),
        _at_most(f"{name}: a clip", seconds / memory, 1.3, "x decoding and cropping in memory"),
        _peer(
            f"{name}: decord, the authors' way",
            lambda: shard_peers.authors(video),
            ours,
            AUTHORS_GOALS[name],
            f"{video.stat().st_size / 1e6:.0f} MB on disk",
            num_clips=3,
        ),
    ]
    if name != "walk_720p60":  # the shards are alike, so once is enough
        return rows
    lance = work / "lance"
    reduced = shard_sources.reduced_video(video, work / "reduced.mp4")
    rows += [
        _peer(
            f"{name}: plain webdataset with PIL",
            lambda: shard_peers.plain_webdataset(shards),
            ours,
            1,
            f"{tars_mb:.0f} MB on disk, in order",
        ),
        _peer(
            f"{name}: Lance",
            lambda: shard_peers.lance_clips(shards, lance),
            ours,
            1,
            "the same JPEGs",
        ),
        _peer(
            f"{name}: Lance, before decoding",
            lambda: shard_peers.lance_jpegs(shards, lance),
            shard_peers.our_jpegs(shards),
            1,
            "the JPEGs of a clip from the disk's cache; decoding and cropping are the same",
        ),
        _peer(
            f"{name}: torchcodec, 512 high, 1 s GOPs",
            lambda: shard_peers.torchcodec_video(reduced),
            ours,
            1,
            f"{reduced.stat().st_size / 1e6:.0f} MB on disk",
        ),
    ]
    return rows


def _codec_rows(name: str, video: Path) -> list[Row]:
    """Return what a clip costs in each codec, and the bytes, the encoding and the quality."""
    return [
        _shown(
            f"{name}: a clip of {cost.name}",
            cost.clip_ms,
            f"CPU-ms; {cost.kilobytes:.1f} kB and {cost.encode_ms:.1f} CPU-ms to encode a frame; "
            f"{cost.psnr_db:.1f} dB",
        )
        for cost in measure_codecs(video)
    ]


def _index_rows(folder: Path) -> list[Row]:
    """Open made-up sets of three million and of a few thousand frames, each in a fresh process."""
    sizes = {"large": 300_600, "small": 1800}
    measured = {}
    for name, frames_per_video in sizes.items():
        write_made_up_set(folder / name, num_videos=10, frames_per_video=frames_per_video)
        runs = [
            json.loads(
                subprocess.run(
                    [sys.executable, "-m", "benchmarks.shards.index", str(folder / name)],
                    check=True,
                    capture_output=True,
                ).stdout
            )
            for _ in range(ROUNDS)
        ]
        measured[name] = {key: min(run[key] for run in runs) for key in runs[0]}
    large, small = measured["large"], measured["small"]
    what = f"{large['frames']:,} frames of 10 videos"
    growth = large["find_seconds"] / small["find_seconds"]
    return [
        _at_most(f"{what}: open", large["open_seconds"] + large["list_seconds"], 2, "seconds"),
        _at_most(f"{what}: peak memory of the process", large["peak_mib"], 200, "MiB"),
        _at_most(f"{what}: first clip", large["first_clip_seconds"], 0.2, "seconds"),
        _shown(f"{what}: to find a clip's frames", large["find_seconds"] * 1e6, "CPU-us"),
        _at_most(f"{what}: to find a clip's frames", growth, 1.5, "x the same for 18,000 frames"),
    ]


def _alternating(*ways: GetClip) -> list[float]:
    """Return the CPU-seconds of a clip each way: the best round, clips taken in turn."""
    best = [math.inf for _ in ways]
    for _ in range(ROUNDS):
        spent = [0.0 for _ in ways]
        for _ in range(NUM_CLIPS):
            for number, way in enumerate(ways):
                start = time.process_time()
                way()
                spent[number] += time.process_time() - start
        best = [min(known, sum_ / NUM_CLIPS) for known, sum_ in zip(best, spent, strict=True)]
    return best


def _cpu_seconds(get_clip: GetClip, num_clips: int) -> float:
    get_clip()
    start = time.process_time()
    for _ in range(num_clips):
        get_clip()
    return (time.process_time() - start) / num_clips


def _peer(
    name: str,
    make: Callable[[], GetClip],
    ours: GetClip,
    goal: float,
    note: str,
    num_clips: int = NUM_CLIPS,
) -> Row:
    """Return how many times the CPU-seconds of our clip another's takes; or why it is not known."""
    try:
        way = make()
    except (ImportError, OSError, RuntimeError) as error:
        reason = f"not measured: {' '.join(str(error).split())[:100]}"
        return Row(name=name, value=None, unit="x ours", goal=f">= {goal}", reason=reason)
    if num_clips == NUM_CLIPS:  # near enough to be taken in turn with ours, load being what it is
        our_seconds, value = _alternating(ours, way)
    else:
        our_seconds, value = _cpu_seconds(ours, NUM_CLIPS), _cpu_seconds(way, num_clips)
    ratio = value / our_seconds
    unit = f"x ours; {value * 1000:.0f} CPU-ms; {note}"
    return Row(name=name, value=ratio, unit=unit, goal=f">= {goal}", holds=ratio >= goal)


def _at_most(name: str, value: float, goal: float, unit: str) -> Row:
    return Row(name=name, value=value, unit=unit, goal=f"<= {goal:g}", holds=value <= goal)


def _sharing_rows(folder: Path) -> list[Row]:
    """Return what a lock and pairs from a range cost."""
    rows = []
    values = measure_sharing(folder / "sharing")
    for name, value in values.items():
        if name.startswith("lock"):
            rows.append(Row(name=name, value=value, unit="s", goal="< 30", holds=value < 30))
        else:
            rows.append(_shown(name, value, name.rsplit(", ", 1)[1]))
    *_, fixed, drawn = values.values()
    share = fixed / drawn
    name, unit = "pairs from a range, decoded", "of the rate of fixed ones"
    return [*rows, Row(name=name, value=share, unit=unit, goal=">= 0.95", holds=share >= 0.95)]


def _export_rows(folder: Path) -> list[Row]:
    """Compare exports with copies of the files they write."""
    compared, parts = measure_exports(folder)
    rows: list[Row] = []
    for layout, found in compared.items():
        name = f"export to {layout}"
        seconds = f"{found.export.seconds:.2f} s, the copy {found.copy.seconds:.2f} s"
        rows += [
            Row(
                name=f"{name}, share of a copy's rate",
                value=found.rate,
                unit=f"of a copy of the same files; {seconds}",
                goal=">= 0.8",
                holds=found.rate >= 0.8,
            ),
            _shown(name, found.cpu, "x the CPU-seconds of a copy"),
        ]
    for part, value in parts.items():
        rows.append(_shown(f"export to hf, {part}", value, "x the CPU-seconds of a copy"))
    return rows


def _layer_rows(folder: Path) -> list[Row]:
    """Return the rate of clips with a layer beside the rate without."""
    without, with_flow = measure_layers(folder).values()
    name, unit = "clips with optical flow", "of the rate without"
    share = without / with_flow
    return [Row(name=name, value=share, unit=unit, goal=">= 0.7", holds=share >= 0.7)]


def _shown(name: str, value: float, unit: str) -> Row:
    return Row(name=name, value=value, unit=unit, reason="shown, no goal")


if __name__ == "__main__":
    sys.exit(main())
