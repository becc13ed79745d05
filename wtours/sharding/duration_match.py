"""`--match-duration`: as many seconds of other videos as one walk has (the paper's Table 2a).

The rule: the videos in the order of the manifest, whole, until they are as long as the walk; the
last one is cut at the exact microsecond. Videos that are not downloaded are skipped, and named.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from wtours.errors import ShardError, VideoError
from wtours.shards.params import MatchParams
from wtours.shards.schema import SourceFacts
from wtours.storage.receipts import Receipt, read_receipt
from wtours.workspace.layout import Layout
from wtours.workspace.videos import downloaded_video


def duration_of(receipt: Receipt) -> int:
    """Return the duration of a downloaded video in microseconds.

    Raises:
        VideoError: the receipt is damaged.
    """
    duration_us = receipt.facts.get("duration_us")
    if not isinstance(duration_us, int) or duration_us < 0:
        raise damaged_receipt(receipt.key)
    return duration_us


def damaged_receipt(video_id: str) -> VideoError:
    """Return the error for a download receipt that lacks what a shard set needs."""
    return VideoError(
        f"the receipt of {video_id} is damaged: run `wtours download --video {video_id}`"
    )


def match_params(layout: Layout, video_id: str) -> MatchParams:
    """Return the duration of a video of the workspace; its file may be deleted by now.

    Raises:
        VideoError: it was never downloaded here.
    """
    receipt = read_receipt(layout.video_receipt(video_id))
    if receipt is None or receipt.status != "done":
        raise VideoError(
            f"--match-duration {video_id}: its duration is unknown until it is downloaded here: "
            f"run `wtours download --video {video_id}`"
        )
    return MatchParams(video_id=video_id, duration_us=duration_of(receipt))


def matching_videos(
    layout: Layout,
    directory: Path,
    video_ids: Sequence[str],
    match: MatchParams,
    published: Mapping[str, SourceFacts],
) -> tuple[dict[str, int | None], dict[str, str]]:
    """Choose the videos, in the manifest's order, that are together as long as the walk.

    Returns:
        By video id the end of what is taken (None: all of it), and why a video was skipped.

    Raises:
        ShardError: the videos are too short together; or the set was begun with other ones.
    """
    limits_us: dict[str, int | None] = {}
    skipped: dict[str, str] = {}
    left_us = match.duration_us
    for video_id in video_ids:
        if not left_us:
            break
        try:
            receipt = downloaded_video(layout, video_id).receipt
        except VideoError as error:
            old = read_receipt(layout.video_receipt(video_id))
            if video_id not in published or old is None:
                skipped[video_id] = str(error)
                continue
            receipt = old  # sharded, and its file deleted since
        duration_us = duration_of(receipt)
        limits_us[video_id] = None if duration_us <= left_us else left_us
        left_us -= min(duration_us, left_us)
    if left_us:
        found = (match.duration_us - left_us) / 1e6
        raise ShardError(
            f"{match.video_id} has {match.duration_us / 1e6:.1f} s, and the downloaded videos to "
            f"take them from only {found:.1f} s; download more of them"
        )
    for video_id, facts in published.items():
        if limits_us.get(video_id, -1) != facts.taken_us:
            raise ShardError(
                f"shard set {directory.name!r} was begun with other videos, or with another part "
                f"of {video_id}, as long as {match.video_id}; choose another name by --shards"
            )
    return limits_us, skipped
