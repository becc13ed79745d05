"""What one set shares with another is found: by the file, by the source, by the look of frames."""

import numpy as np
import pytest
import simplejpeg

from tests.support.shard_set import write_shard_set
from tests.wtours.comparison.test_attest import jpegs_of, rewrite
from wtours.comparison.overlap import find_overlap
from wtours.errors import UsageError
from wtours.shards.schema import read_dataset
from wtours.storage.atomic import write_json


def with_sources(directory, **sources):
    """Give each video another file's sha256, and a source."""
    dataset = read_dataset(directory)
    videos = tuple(
        video.model_copy(
            update={
                "source_sha256": f"{sources[video.video_id][0]:064x}",
                "source": sources[video.video_id][1],
            }
        )
        for video in dataset.videos
    )
    changed = dataset.model_copy(update={"videos": videos})
    write_json(directory / "dataset.json", changed.model_dump(mode="json"))
    return directory


@pytest.fixture
def two(tmp_path):
    one = write_shard_set(tmp_path / "a", num_frames=12, size=(64, 96), videos=("x", "y"))
    # The same pattern as "x" under another name; "z" is "y"'s.
    two = write_shard_set(tmp_path / "b", num_frames=12, size=(64, 96), videos=("p", "z"))
    return one, two


def test_recoded_frames_are_found_where_they_are_and_others_are_not(two):
    one, other = two
    with_sources(one, x=(1, None), y=(2, None))
    mine = jpegs_of(one)
    flat = simplejpeg.encode_jpeg(np.full((64, 96, 3), 9, np.uint8))
    noise = np.random.default_rng(5).integers(0, 256, (64, 8, 12, 3), dtype=np.uint8)

    def change(number, _):
        if number == 0:
            return flat
        if 4 <= number < 9:  # four seconds of "x", recoded
            return simplejpeg.encode_jpeg(simplejpeg.decode_jpeg(mine[number]), quality=40)
        return simplejpeg.encode_jpeg(noise[number].repeat(8, 0).repeat(8, 1))

    rewrite(other, change)
    with_sources(other, p=(3, None), z=(4, None))
    found = find_overlap(one, other)
    assert found.same_videos == ()
    assert found.flat == 1
    assert (found.frames_a, found.frames_b) == (24, 23)
    by_video = {(s.video_a, s.video_b): s for s in found.stretches}
    leak = by_video["x", "p"]
    assert (leak.start_us_a, leak.end_us_a, leak.frames) == (4_000_000, 8_000_000, 5)
    assert (leak.start_us_b, leak.end_us_b) == (4_000_000, 8_000_000)
    assert by_video["y", "z"].frames == 12
    assert by_video.keys() == {("x", "p"), ("y", "z")}


def test_the_same_file_and_the_same_source_are_said(two):
    one, other = two
    with_sources(one, x=(1, "https://a.example/v"), y=(2, "https://a.example/w"))
    with_sources(other, p=(1, None), z=(9, "https://a.example/w"))
    found = find_overlap(one, other, max_distance=0)
    assert found.same_videos == (("x", "p", "sha256"), ("y", "z", "source"))
    for wrong in (0, 1e-7, float("nan")):
        with pytest.raises(UsageError, match="--every-seconds"):
            find_overlap(one, other, every_seconds=wrong)
