"""Adding one walk, as `wtours add SOURCE --id ID` does."""

from pathlib import Path

from wtours.acquire.add_video import Claims, add_walk
from wtours.acquire.options import FetchOptions
from wtours.acquire.own_walks import own_walks
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry


def add_one(
    source: Path | str,
    video_id: str | None,
    manifest: Path,
    layout: Layout,
    *,
    claims: Claims | None = None,
    options: FetchOptions | None = None,
) -> VideoEntry:
    """Return the entry of the walk."""
    (walk,) = own_walks([str(source)], layout)
    claims = claims or Claims()
    return add_walk(walk, video_id, manifest, layout, claims=claims, options=options)[0]
