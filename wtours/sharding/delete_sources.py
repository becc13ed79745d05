"""Deleting the videos of a shard set, once the set is whole to the last byte."""

import logging
from collections.abc import Iterable
from pathlib import Path

from wtours.errors import ShardError, VideoError
from wtours.progress import Progress, no_progress
from wtours.sharding.locks import set_lock
from wtours.sharding.plan import made_from_stream
from wtours.shards.schema import read_dataset
from wtours.shards.verify import verify_shards
from wtours.storage.working_copy import discard, place_of, store_of, working_copy_of
from wtours.text import counted
from wtours.workspace.layout import Layout
from wtours.workspace.videos import checked_video, downloaded_video

logger = logging.getLogger(__name__)


def delete_sources(
    layout: Layout, name: str, video_ids: Iterable[str], *, on_progress: Progress = no_progress
) -> list[Path]:
    """Delete the video files whose shards are in the set, and return their paths.

    Its receipt stays, so that one knows what it was; `download` fetches the file again. A video
    whose folder is a link is kept: its file lies outside of the workspace.

    Args:
        layout: The workspace; on a store the set and the videos are read and deleted there.
        name: The folder under <root>/shards; every byte of it is read first.
        video_ids: Which videos; those that the set does not hold are kept.
        on_progress: Called with the set's name and the bytes verified and in all.

    Raises:
        ShardError: the set is damaged; nothing is deleted.
    """
    directory = layout.shards_dir(name)
    with set_lock(layout, name):
        verified = verify_shards(place_of(directory), deep=True, on_progress=on_progress)
        problems = verified.problems
        if problems:
            raise ShardError(
                f"no video is deleted, since {problems[0].file} {problems[0].message} "
                f"({counted(len(problems), 'problem')} in all); run `wtours verify {name} --repair`"
            )
        held = {video.video_id: video.source_sha256 for video in read_dataset(directory).videos}
        deleted = []
        for video_id in video_ids:
            try:
                video = downloaded_video(layout, video_id)
                # Held against its receipt: another file may have taken its name.
                if working_copy_of(video.path) is None:
                    video = checked_video(layout, video_id, deep=True)
                else:
                    store, key = store_of(video.path)
                    if store.sha256(key) != video.sha256:
                        raise VideoError(
                            f"{place_of(video.path)} is not the file that was downloaded"
                        )
            except VideoError as error:
                logger.info("nothing is deleted of %s: %s", video_id, error)
                continue
            # Who keeps it elsewhere did not put it into the workspace.
            if video.path.parent.is_symlink():
                logger.warning("%s is kept: its folder is a link to another place", video.path)
            elif held.get(video_id) == video.sha256 and made_from_stream(directory, video_id) in (
                None,
                video.inputs.get("stream"),
            ):
                discard(video.path)
                logger.info("deleted %s", place_of(video.path))
                deleted.append(video.path)
    return deleted
