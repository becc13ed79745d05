"""What a shard set takes of each video, and which segments are still missing.

`receipts/<video_id>.json` records it, so that the index can be written again when the video itself
is gone.

With `--match-duration` the set takes as many seconds of other videos as one walk has (the paper's
Table 2a): the videos in the order of the manifest, whole, until they are as long as the walk; the
last one is cut at the exact microsecond. Videos that are not downloaded are skipped, and named.
"""

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from wtours.errors import ShardError, VideoError
from wtours.execution.parts import Part
from wtours.media.reader import open_video
from wtours.sharding.segment import (
    RECEIPTS_FOLDER,
    STAGE,
    FinishedSegment,
    SegmentTask,
    finished_segment,
    receipt_inputs,
)
from wtours.shards.schema import MAX_SEGMENTS, MatchParams, ShardParams, SourceFacts
from wtours.storage.atomic import remove
from wtours.storage.receipts import Receipt, read_receipt, versions_of, write_receipt
from wtours.workspace.layout import Layout
from wtours.workspace.videos import DownloadedVideo, downloaded_video

_COPIED = ("source", "title", "channel", "license_claimed", "license_observed")
_MEASURED = ("frame_rate", "width", "height", "last_pts_us")
_DAMAGED = "the receipt of {0} is damaged: run `wtours download --video {0}`"
_US = 1_000_000


@dataclass(frozen=True, slots=True)
class VideoPlan:
    """One video's part of a shard set, as its receipt records it."""

    video_id: str
    source_sha256: str
    facts: SourceFacts

    def segments(self, directory: Path, params: ShardParams) -> list[FinishedSegment | None]:
        """Return every segment; None: it has no receipt, or one of something else."""
        return [
            finished_segment(directory, self.video_id, self.source_sha256, segment, params)
            for segment in range(self.facts.segments)
        ]

    def missing_segments(self, directory: Path, params: ShardParams) -> list[int]:
        """Return the numbers of the segments that are not finished."""
        return [n for n, segment in enumerate(self.segments(directory, params)) if segment is None]


@dataclass(frozen=True, slots=True)
class VideoWork:
    """What this run has to do of one video."""

    plan: VideoPlan
    video: DownloadedVideo | None
    """None: its file was deleted after all its segments were finished."""
    missing: tuple[int, ...]
    num_kept: int
    """Segments of this run's part that are finished."""

    def seconds(self, params: ShardParams) -> float:
        """Return the duration of what is missing."""
        if self.video is None:
            return 0.0
        duration_us = duration_of(self.video.receipt)
        duration_us = min(duration_us, self.plan.facts.taken_us or duration_us)
        starts_us = (segment * params.segment_us for segment in self.missing)
        return sum(min(params.segment_us, duration_us - start) for start in starts_us) / _US


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What this run has to do."""

    works: tuple[VideoWork, ...]
    failed: dict[str, str]
    """Why a video that was asked for cannot be sharded, by video id."""


@dataclass(frozen=True, slots=True)
class _Selection:
    limit_us: dict[str, int | None] = field(default_factory=dict)
    """In order; only a video's frames before this are taken; None: all of them."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Why a video that would have been taken was not."""


def plan_shards(
    layout: Layout,
    directory: Path,
    video_ids: Sequence[str],
    params: ShardParams,
    part: Part | None = None,
) -> ShardPlan:
    """Publish the plan of each video, and return what this run (or its part) has to do.

    Raises:
        ShardError: the set was begun with other parameters, or with other videos to match.
    """
    require_same_params(directory, params)
    selection = _Selection(dict.fromkeys(video_ids))
    if params.match is not None:
        selection = _matching_selection(layout, directory, video_ids, params.match)
    published = {plan.video_id: plan for plan in published_plans(directory)}
    works, failed = [], dict(selection.skipped)
    for video_id, limit_us in selection.limit_us.items():
        try:
            video = downloaded_video(layout, video_id)
            duration_of(video.receipt)
            plan = _publish_plan(directory, video, params, limit_us)
        except VideoError as error:
            done = published.get(video_id)
            if done is None or done.missing_segments(directory, params):
                failed[video_id] = str(error)
            else:
                works.append(VideoWork(done, None, (), done.facts.segments))
            continue
        segments = range(plan.facts.segments)
        own = {s for s in segments if part is None or part.has(video_id, s)}
        missing = tuple(s for s in plan.missing_segments(directory, params) if s in own)
        works.append(VideoWork(plan, video, missing, len(own) - len(missing)))
    return ShardPlan(tuple(works), failed)


def _publish_plan(
    directory: Path, video: DownloadedVideo, params: ShardParams, limit_us: int | None
) -> VideoPlan:
    """Publish and return the plan of a video.

    If the set holds shards of another file of this video, they are removed first.

    Raises:
        VideoError: the video's receipt is damaged, or it would have too many segments.
    """
    measured = video.receipt.facts
    try:
        values = {name: measured.get(name) for name in (*_COPIED, *_MEASURED)}
        last_us = measured["last_pts_us"] if limit_us is None else limit_us - 1
        num_segments = min(measured["last_pts_us"], last_us) // params.segment_us + 1
        if num_segments > MAX_SEGMENTS:
            raise VideoError(
                f"{video.video_id} would have {num_segments} segments, and {MAX_SEGMENTS} are "
                f"allowed: raise --shard-seconds"
            )
        facts = SourceFacts.model_validate(
            {**values, "taken_us": limit_us, "segments": num_segments}
        )
    except (ValidationError, KeyError, TypeError) as error:
        raise VideoError(_DAMAGED.format(video.video_id)) from error
    _remove_if_of_another_source(directory, video)
    receipt = Receipt(
        stage=STAGE,
        key=video.video_id,
        inputs=receipt_inputs(video.sha256),
        params=params.recorded(),
        versions=versions_of(),
        facts=facts.model_dump(),
    )
    write_receipt(directory / RECEIPTS_FOLDER / f"{video.video_id}.json", receipt)
    return VideoPlan(video.video_id, video.sha256, facts)


def _remove_if_of_another_source(directory: Path, video: DownloadedVideo) -> None:
    folder = directory / RECEIPTS_FOLDER
    old = read_receipt(folder / f"{video.video_id}.json")
    if old is not None and old.inputs != receipt_inputs(video.sha256):
        # A video id has no dash, so this pattern names no other video's files.
        for path in [*folder.glob(f"{video.video_id}-*"), *directory.glob(f"{video.video_id}-*")]:
            remove(path)


def published_plans(directory: Path) -> list[VideoPlan]:
    """Return the plan of every video that was ever sharded into this set, by video id."""
    plans = []
    for receipt in _receipts(directory):
        if "segments" in receipt.facts:
            try:
                facts = SourceFacts.model_validate(receipt.facts)
                plans.append(VideoPlan(receipt.key, receipt.inputs["video"], facts))
            except (ValidationError, KeyError):
                continue  # damaged: as if there were none
    return plans


def recorded_params(directory: Path) -> ShardParams:
    """Return the parameters that the set was begun with.

    Raises:
        ShardError: nothing was begun there.
    """
    for receipt in _receipts(directory):
        return ShardParams.from_recorded(receipt.params)
    raise ShardError(f"{directory} has no receipts of shards; run `wtours shard`")


def require_same_params(directory: Path, params: ShardParams) -> None:
    """Refuse parameters other than those that the set was begun with.

    Raises:
        ShardError: it names the parameter and both values.
    """
    recorded = params.recorded()
    for receipt in _receipts(directory):
        for name in {**recorded, **receipt.params}:
            present, wanted = receipt.params.get(name), recorded.get(name)
            if name == "pixels" and present != wanted:
                raise ShardError(
                    f"shard set {directory.name!r} was begun by a version of wtours that made "
                    f"other pixels of the same frames; choose another --name (this one stays "
                    f"readable)"
                )
            if present != wanted:
                raise ShardError(
                    f"shard set {directory.name!r} has {name} {present}, not {wanted}; "
                    f"choose another --name, or the same {name}"
                )


def _receipts(directory: Path) -> Iterator[Receipt]:
    """Yield every readable receipt of the set, by name."""
    for path in sorted((directory / RECEIPTS_FOLDER).glob("[!.]*.json")):
        receipt = read_receipt(path)
        if receipt is not None and receipt.stage == STAGE:
            yield receipt


def unfinished_videos(
    directory: Path, plans: Iterable[VideoPlan], params: ShardParams
) -> dict[str, str]:
    """Return how much is missing of each video that is not finished, by video id."""
    counted = [(plan, len(plan.missing_segments(directory, params))) for plan in plans]
    return {
        plan.video_id: f"{count} of {plan.facts.segments} segments are missing: run `wtours shard`"
        for plan, count in counted
        if count
    }


def segment_tasks(
    video: DownloadedVideo,
    segments: Iterable[int],
    params: ShardParams,
    limit_us: int | None = None,
) -> list[SegmentTask]:
    """Return the tasks of a video's segments.

    Raises:
        VideoError: the video cannot be opened (it is, for "native", to list its packets).
    """
    tasks = [
        SegmentTask(
            video_id=video.video_id,
            video_path=str(video.path),
            source_sha256=video.sha256,
            segment=segment,
            params=params,
            limit_us=limit_us,
        )
        for segment in segments
    ]
    if params.rate is not None or not tasks:
        return tasks
    with open_video(video.path) as reader:
        # Packets before the first frame are an edit list's lead-in: they are never shown.
        pts_us = [pts for pts in reader.packet_pts_us().tolist() if pts >= 0]
    numbered = []
    for task in tasks:
        first, end = (bisect.bisect_left(pts_us, moment) for moment in task.interval_us)
        of_task = tuple(pts_us[first:end])
        numbered.append(replace(task, native_first_index=first, native_pts_us=of_task))
    return numbered


# A set as long as a walk.


def duration_of(receipt: Receipt) -> int:
    """Return the duration of a downloaded video in microseconds.

    Raises:
        VideoError: the receipt is damaged.
    """
    duration_us = receipt.facts.get("duration_us")
    if not isinstance(duration_us, int) or duration_us < 0:
        raise VideoError(_DAMAGED.format(receipt.key))
    return duration_us


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


def _matching_selection(
    layout: Layout, directory: Path, video_ids: Sequence[str], match: MatchParams
) -> _Selection:
    """Return what to take of the videos, in the manifest's order, to be as long as the walk.

    Raises:
        ShardError: the videos are too short together; or the set was begun with other ones.
    """
    selection, left_us = _Selection(), match.duration_us
    begun = {plan.video_id: plan.facts for plan in published_plans(directory)}
    for video_id in video_ids:
        if not left_us:
            break
        try:
            receipt = downloaded_video(layout, video_id).receipt
        except VideoError as error:
            old = read_receipt(layout.video_receipt(video_id))
            if video_id not in begun or old is None:
                selection.skipped[video_id] = str(error)
                continue
            receipt = old  # sharded, and its file deleted since
        duration_us = duration_of(receipt)
        selection.limit_us[video_id] = None if duration_us <= left_us else left_us
        left_us -= min(duration_us, left_us)
    if left_us:
        found = (match.duration_us - left_us) / 1e6
        raise ShardError(
            f"{match.video_id} has {match.duration_us / 1e6:.1f} s, and the downloaded videos to "
            f"take them from only {found:.1f} s; download more of them"
        )
    for video_id, facts in begun.items():
        if selection.limit_us.get(video_id, -1) != facts.taken_us:
            raise ShardError(
                f"shard set {directory.name!r} was begun with other videos, or with another part "
                f"of {video_id}, as long as {match.video_id}; choose another --name"
            )
    return selection
