"""A small HLS stream as ffmpeg writes it: a playlist, and fragments of one second each."""

from pathlib import Path

from tests.support.http_server import Resource
from tests.support.video_clips import write_clip

PLAYLIST = "/walk.m3u8"
NUM_FRAGMENTS = 6


def write_hls(folder: Path, *, kind: str = "mpegts") -> dict[str, Resource]:
    """Return the stream's resources by path: the playlist, and /walk0.ts (or .m4s) and so on."""
    write_clip(
        folder / "walk.m3u8",
        source=f"testsrc2=size=160x120:rate=30:duration={NUM_FRAGMENTS}",
        f="hls",
        hls_time=1,
        hls_list_size=0,
        hls_playlist_type="vod",
        hls_segment_type=kind,
    )
    resources = {f"/{p.name}": Resource(p.read_bytes()) for p in folder.iterdir()}
    resources[PLAYLIST].content_type = "application/vnd.apple.mpegurl"
    return resources
