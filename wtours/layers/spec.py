"""What `--from external:PATH` names, by the path's ending and what is there."""

from pathlib import Path

from wtours.errors import ShardError
from wtours.layers.external import table_source, track_source
from wtours.layers.files import ArraySource, FileSource
from wtours.layers.source import LayerSource
from wtours.shards.index import ShardIndex

_TRACKS = (".gpx", ".csv")


def external_source(
    index: ShardIndex,
    path: Path,
    *,
    start: str | None = None,
    max_gap_seconds: float = 5.0,
    allow_missing: bool = False,
) -> LayerSource:
    """Return what a file or a folder gives for the frames of a set.

    Args:
        index: The frames.
        path: A table .parquet; a track .gpx or .csv; a .npy; or a folder: with `<video_id>` .gpx,
            .csv or .npy, or with a .npy or .png for each frame, named by sample keys.
        start: Of a track; see `track_source`.
        max_gap_seconds: Of a track.
        allow_missing: Frames without a value are allowed.

    Raises:
        ShardError: it is none of these, is damaged, or does not fit the frames.
        UsageError: start is no moment.
    """
    suffix = path.suffix.lower()
    if not path.exists():
        raise ShardError(f"{path} is not there; check the path after external:")
    if path.is_dir():
        names = {p.name for p in path.iterdir()}
        ids = [video.video_id for video in index.videos]
        if any(f"{video_id}{suffix}" in names for video_id in ids for suffix in _TRACKS):
            suffix = _TRACKS[0]
        elif any(f"{video_id}.npy" in names for video_id in ids):
            suffix = ".npy"
        else:
            return FileSource(index, path, allow_missing=allow_missing)
    if suffix == ".parquet":
        return table_source(index, path, allow_missing=allow_missing)
    if suffix == ".npy":
        return ArraySource(index, path)
    if suffix in _TRACKS:
        return track_source(
            index,
            path,
            start=start,
            max_gap_seconds=max_gap_seconds,
            allow_missing=allow_missing,
        )
    raise ShardError(f"{path}: give a .parquet, .gpx, .csv or .npy, or a folder")
