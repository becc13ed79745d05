"""Workspaces for the tests of `prepare`, and what `analyze` then `shard` publish of them."""

import hashlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.support.analyze_cases import write_scenes
from tests.support.sharded_videos import publish_video
from wtours.analyze.pipeline import analyze_videos
from wtours.cli.sets.places import needs_tables, shard_workspace
from wtours.media.limits import MAX_LOSS
from wtours.prepare.plan import PrepareOptions
from wtours.sharding.build import build_shards
from wtours.shards.params import ShardParams
from wtours.storage.atomic import TEMP_PREFIX
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry

SMALL = ShardParams(frames_per_second="5", shard_seconds=60, short_side=32)
SECONDS = (40, 25, 20, 50)
"""Scenes of the longer video: three segments of a minute, a cut in two of them."""


def write_walk(path: Path, *, seconds: tuple[float, ...] = SECONDS) -> Path:
    """Write a small video of several minutes: cheap to decode, with cuts and several keyframes."""
    return write_scenes(path, seconds=seconds, rate=5, size="96x64", g=20)


def workspace(root: Path, videos: dict[str, Path]) -> Layout:
    """Return a workspace with these videos downloaded."""
    layout = Layout(root)
    for video_id, path in videos.items():
        publish_video(layout, video_id, path)
    return layout


def entries(*video_ids: str) -> list[VideoEntry]:
    """Return entries of a manifest."""
    return [
        VideoEntry(id=video_id, title=video_id, sources=(f"file:{video_id}.mp4",))
        for video_id in video_ids
    ]


def prepare_options(params: ShardParams = SMALL, **options: Any) -> PrepareOptions:
    """Return what the tests ask for."""
    return PrepareOptions(params=params, **options)


def store_workspace(url: str, *, is_part: bool = False) -> AbstractContextManager[Layout]:
    """Return this machine's working copy of a root on a store, as the command takes it."""
    return shard_workspace(
        *("default", MAX_LOSS, Path(url), "ray"), needs=needs_tables, is_part=is_part
    )


def published(layout: Layout) -> dict[str, str]:
    """Return the sha256 of every file under its final name in analysis/ and shards/, by path."""
    return {
        path.relative_to(layout.root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("analysis", "shards")
        for path in sorted((layout.root / folder).rglob("*"))
        if path.is_file() and not path.name.startswith(TEMP_PREFIX)
    }


def leftovers(layout: Layout) -> list[Path]:
    """Return what writers that were killed have left; the next run sweeps it."""
    return sorted(layout.root.rglob(f"{TEMP_PREFIX}*"))


def apart(
    layout: Layout, video_ids, params: ShardParams = SMALL, **analysis: Any
) -> dict[str, str]:
    """Run `analyze`, then `shard`; return what they have published."""
    report = analyze_videos(layout, video_ids, **analysis)
    assert not report.failed
    assert not build_shards(layout, video_ids, params=params).failed
    return published(layout)
