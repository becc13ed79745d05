"""`--match-duration`: as many seconds of other videos as one walk has (the paper's Table 2a).

The rule: the videos in the order of the manifest, whole, until they are as long as the walk; the
last one is cut at the exact microsecond. Videos that are not downloaded are passed over, and named.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wtours.errors import ShardError, VideoError
from wtours.sharding.plan import published_plans
from wtours.shards.schema import MatchParams
from wtours.storage.receipts import read_receipt
from wtours.workspace.layout import Layout
from wtours.workspace.videos import downloaded_video


@dataclass(slots=True)
class Selection:
    """Which videos a shard set takes, and how much of each."""

    taken_us: dict[str, int | None] = field(default_factory=dict)
    """In order; a video's frames before this are taken; None: all of them."""
    passed_over: dict[str, str] = field(default_factory=dict)
    """Why a video that would have been taken was not."""


def match_of(layout: Layout, video_id: str) -> MatchParams:
    """Return how long a video of the workspace is; its file may be deleted by now.

    Raises:
        VideoError: it was never downloaded here.
    """
    receipt = read_receipt(layout.video_receipt(video_id))
    if receipt is None or receipt.status != "done":
        raise VideoError(
            f"--match-duration {video_id}: how long it is is known once it is downloaded here: run "
            f"`wtours download --video {video_id}`"
        )
    return MatchParams(video_id=video_id, duration_us=receipt.facts["duration_us"])


def matching_selection(
    layout: Layout, directory: Path, video_ids: Sequence[str], match: MatchParams
) -> Selection:
    """Return what to take of the videos, so that it is as long as the walk.

    Args:
        layout: The workspace.
        directory: The shard set, which stays with what it was begun with.
        video_ids: In the order of the manifest.
        match: The walk.

    Raises:
        ShardError: the videos are too short together; or the set was begun with other ones.
    """
    selection, left_us = Selection(), match.duration_us
    kept = {plan.video_id: plan.facts for plan in published_plans(directory)}
    for video_id in video_ids:
        if not left_us:
            break
        try:
            duration_us: int = downloaded_video(layout, video_id).receipt.facts["duration_us"]
        except VideoError as error:
            receipt = read_receipt(layout.video_receipt(video_id))
            if video_id not in kept or receipt is None:
                selection.passed_over[video_id] = str(error)
                continue
            duration_us = receipt.facts["duration_us"]  # sharded, and its file deleted since
        selection.taken_us[video_id] = None if duration_us <= left_us else left_us
        left_us -= min(duration_us, left_us)
    if left_us:
        found = (match.duration_us - left_us) / 1e6
        raise ShardError(
            f"{match.video_id} has {match.duration_us / 1e6:.1f} s, and the downloaded videos to "
            f"take them from only {found:.1f} s; download more of them"
        )
    for video_id, facts in kept.items():
        if selection.taken_us.get(video_id, -1) != facts["taken_us"]:
            raise ShardError(
                f"shard set {directory.name!r} was begun with other videos, or with another part "
                f"of {video_id}, as long as {match.video_id}; choose another --name"
            )
    return selection
