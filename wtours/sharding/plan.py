"""What a shard set takes of each video, and which segments are still missing.

`receipts/<video_id>.json` records it, so that the index can be written again when the video itself
is gone.
"""

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from wtours.errors import ShardError, VideoError
from wtours.execution.parts import Part
from wtours.media.image import require_encoder
from wtours.media.reader import open_video
from wtours.sharding.duration_match import damaged_receipt, duration_of, matching_videos
from wtours.sharding.segment import (
    STAGE,
    FinishedSegment,
    SegmentTask,
    finished_segment,
)
from wtours.shards.params import ShardParams, in_words
from wtours.shards.schema import MAX_SEGMENTS, SourceFacts, set_remedy
from wtours.storage.atomic import RECEIPTS_FOLDER
from wtours.storage.object_store import open_store
from wtours.storage.receipts import (
    Receipt,
    parse_receipt,
    read_receipt,
    versions_of,
    write_receipt,
)
from wtours.storage.working_copy import discard, working_copy_of
from wtours.text import counted
from wtours.workspace.layout import Layout
from wtours.workspace.videos import (
    DownloadedVideo,
    checked_video,
    downloaded_video,
    refusals_of_one_video,
)

_COPIED = ("source", "title", "channel", "license_claimed", "license_observed")
_MEASURED = ("frame_rate", "width", "height", "last_pts_us")
_US = 1_000_000


@dataclass(frozen=True, slots=True)
class VideoPlan:
    """One video's part of a shard set, as its receipt records it."""

    video_id: str
    source_sha256: str
    facts: SourceFacts
    stream: str | None = None
    """Of a file with several, as `DownloadedVideo.inputs` has it."""

    def is_of(self, video: DownloadedVideo) -> bool:
        """Return whether the frames are of this file, and of the stream that is taken of it."""
        stream = video.inputs.get("stream")
        return video.sha256 == self.source_sha256 and self.stream in (None, stream)

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
    """What this run, or its part, has to do of one video."""

    plan: VideoPlan
    video: DownloadedVideo | None
    """None: its file was deleted after all its segments were finished."""
    missing: tuple[int, ...]
    num_kept: int
    """Segments that are finished."""
    seconds: float
    """Duration of what is missing."""


def plan_videos(
    layout: Layout,
    directory: Path,
    video_ids: Sequence[str],
    params: ShardParams,
    part: Part | None = None,
) -> tuple[list[VideoWork], dict[str, str]]:
    """Publish the plan of each video.

    Returns:
        What is to be done, and by video id why a video that was asked for cannot be sharded.

    Raises:
        ShardError: the set was begun with other parameters, or with other videos to match.
        MissingPackageError: the encoder of the codec is not installed.
        DiskFullError: there is no room to copy a video here.
    """
    require_same_params(directory, params)
    require_encoder(params.codec)
    published = {plan.video_id: plan for plan in published_plans(directory)}
    limits_us, failed = dict[str, int | None].fromkeys(video_ids), dict[str, str]()
    if params.match is not None:
        facts = {video_id: plan.facts for video_id, plan in published.items()}
        limits_us, failed = matching_videos(layout, directory, video_ids, params.match, facts)
    works = []
    for video_id, limit_us in limits_us.items():
        done = published.get(video_id)
        try:
            with refusals_of_one_video():
                if done is not None and working_copy_of(directory / "x") is not None:
                    video = downloaded_video(layout, video_id)
                    if (
                        not video.path.is_file()  # it and all shards of it are on a store only
                        and done.is_of(video)
                        and not done.missing_segments(directory, params)
                    ):
                        raise VideoError("its file is not needed here")
                video = checked_video(layout, video_id)
            duration_us = duration_of(video.receipt)
            plan = _publish_plan(directory, video, params, limit_us)
        except VideoError as error:
            if done is None or done.missing_segments(directory, params):
                failed[video_id] = str(error)
            else:
                works.append(VideoWork(done, None, (), done.facts.segments, 0.0))
            continue
        segments = range(plan.facts.segments)
        own = {s for s in segments if part is None or part.has(video_id, s)}
        missing = tuple(s for s in plan.missing_segments(directory, params) if s in own)
        end_us = min(duration_us, limit_us or duration_us)
        lengths_us = (min(params.segment_us, end_us - s * params.segment_us) for s in missing)
        works.append(
            VideoWork(plan, video, missing, len(own) - len(missing), sum(lengths_us) / _US)
        )
    return works, failed


def _publish_plan(
    directory: Path, video: DownloadedVideo, params: ShardParams, limit_us: int | None
) -> VideoPlan:
    """Publish and return the plan of a video.

    If the set holds shards of another file of this video, or of another stream of it, they are
    removed first.

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
        raise damaged_receipt(video.video_id) from error
    _remove_if_of_another_source(directory, video)
    receipt = Receipt(
        stage=STAGE,
        key=video.video_id,
        inputs=video.inputs,
        params=params.recorded(),
        versions=versions_of(),
        facts=facts.model_dump(),
    )
    write_receipt(directory / RECEIPTS_FOLDER / f"{video.video_id}.json", receipt)
    return VideoPlan(video.video_id, video.sha256, facts, video.inputs.get("stream"))


def _remove_if_of_another_source(directory: Path, video: DownloadedVideo) -> None:
    folder = directory / RECEIPTS_FOLDER
    old = read_receipt(folder / f"{video.video_id}.json")
    if old is not None and not video.has_made(old):
        # A video id has no dash, so this pattern names no other video's files.
        receipts = sorted(folder.glob(f"{video.video_id}-*"))  # a receipt before its rows
        shards = [directory / f"{path.stem}.tar" for path in receipts]  # on a store alone
        for path in [*receipts, *shards, *directory.glob(f"{video.video_id}-*")]:
            discard(path)


def published_plans(directory: Path) -> list[VideoPlan]:
    """Return the plan of every video that was ever sharded into this set, by video id."""
    plans = []
    for receipt in _receipts(directory):
        if "segments" in receipt.facts:
            try:
                facts = SourceFacts.model_validate(receipt.facts)
                made_from = receipt.inputs["video"], facts, receipt.inputs.get("stream")
                plans.append(VideoPlan(receipt.key, *made_from))
            except (ValidationError, KeyError):
                continue  # damaged: as if there were none
    return plans


def made_from_stream(place: Path | str, video_id: str) -> str | None:
    """Return which stream of a video's file the frames of a set are from, by its receipt there.

    Args:
        place: The set: its folder, or its URL.
        video_id: A video of it.

    Returns:
        None: the file has one, or the set is older than that, or has no receipts.
    """
    store, key = open_store(place), f"{RECEIPTS_FOLDER}/{video_id}.json"
    receipt = None if store.stat(key) is None else parse_receipt(store.get(key))
    return None if receipt is None else receipt.inputs.get("stream")


def recorded_params(directory: Path) -> ShardParams:
    """Return the parameters that the set was begun with.

    Raises:
        ShardError: nothing was begun there.
    """
    for receipt in _receipts(directory):
        return ShardParams.from_recorded(receipt.params)
    raise ShardError(f"{directory} has no receipts of shards; {set_remedy(directory)}")


def require_same_params(directory: Path, params: ShardParams) -> None:
    """Refuse parameters other than those that the set was begun with.

    Raises:
        ShardError: it names the parameter and both values.
    """
    recorded = params.recorded()
    for receipt in _receipts(directory):
        # The codec first: quality and subsampling differ with it.
        for name in dict.fromkeys(("codec", *recorded, *receipt.params)):
            present, wanted = receipt.params.get(name), recorded.get(name)
            if name == "pixels" and present != wanted:
                raise ShardError(
                    f"shard set {directory.name!r} was begun by a version of wtours that made "
                    f"other pixels of the same frames; choose another name by --shards "
                    f"(this one stays readable)"
                )
            if present != wanted:
                raise ShardError(
                    f"shard set {directory.name!r} was begun {in_words(name, present, wanted)}; "
                    f"choose another name by --shards, or the same options"
                )


def _receipts(directory: Path) -> Iterator[Receipt]:
    """Yield every readable receipt of a video in the set, by name; not those of its segments.

    A video's is published before any of its segments, with the same parameters. A video id has no
    dash, and the name of a segment has one: of a large set a hundredth of the receipts is read.
    """
    names = (path for path in (directory / RECEIPTS_FOLDER).glob("*.json") if "-" not in path.name)
    for path in sorted(path for path in names if not path.name.startswith(".")):
        receipt = read_receipt(path)
        if receipt is not None and receipt.stage == STAGE:
            yield receipt


def unfinished_videos(
    directory: Path, plans: Iterable[VideoPlan], params: ShardParams
) -> dict[str, str]:
    """Return how much is missing of each video that is not finished, by video id."""
    missing = [(plan, len(plan.missing_segments(directory, params))) for plan in plans]
    return {
        plan.video_id: f"{count} of {counted(plan.facts.segments, 'segment')} "
        f"{'is' if count == 1 else 'are'} missing: run `wtours shard`"
        for plan, count in missing
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
            identity=video.identity,
            stream=video.stream,
            source_sha256=video.sha256,
            segment=segment,
            params=params,
            limit_us=limit_us,
        )
        for segment in segments
    ]
    if params.rate is not None or not tasks:
        return tasks
    with open_video(video.path, stream=video.stream) as reader:
        # Packets before the first frame are an edit list's lead-in: they are never shown.
        pts_us = [pts for pts in reader.packet_pts_us().tolist() if pts >= 0]
    numbered = []
    for task in tasks:
        first, end = (bisect.bisect_left(pts_us, moment) for moment in task.interval_us)
        of_task = tuple(pts_us[first:end])
        numbered.append(replace(task, native_first_index=first, native_pts_us=of_task))
    return numbered
