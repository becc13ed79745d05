"""The dataset card of an export: README.md as the Hub shows it."""

from wtours.shards.identity import set_sha256
from wtours.shards.index import ShardIndex
from wtours.text import bytes_text, escape_markdown

_LICENSES = {
    # What sources state, and the Hub's identifier where it is beyond doubt.
    "Creative Commons Attribution license (reuse allowed)": "cc-by-3.0",
    "CC0": "cc0-1.0",
}


def dataset_card(index: ShardIndex) -> str:
    """Return the card: license, sources, what was done to the frames, and the hash to cite."""
    dataset = index.dataset
    params = dataset.params
    observed = {video.license_observed for video in dataset.videos}
    only = next(iter(observed)) if len(observed) == 1 else None
    rows = "\n".join(
        f"| {video.video_id} | {escape_markdown(video.title or '')} | "
        f"{escape_markdown(video.source or '')} | "
        f"{escape_markdown(video.license_observed or 'not observed')} | {video.frames:,} |"
        for video in dataset.videos
    )
    rate = "every frame" if params.rate is None else f"{params.frames_per_second} frames a second"
    return f"""---
license: {_LICENSES.get(only or "", "other")}
task_categories:
- image-feature-extraction
tags:
- video
- egocentric
- self-supervised-learning
pretty_name: {dataset.name}
---

# {escape_markdown(dataset.name)}

{dataset.frames:,} frames ({bytes_text(dataset.bytes)}) of {len(dataset.videos)} videos, {rate},
short side at most {params.short_side} pixels, JPEG of quality {params.quality}.
Each frame has its video, its time in the video (`pts_us`, microseconds) and its shot.

Set hash, to cite and to check (`wtours attest`): `{set_sha256(dataset.shards)}`

| video | title | source | license observed | frames |
|---|---|---|---|---|
{rows}

The videos are their makers'; the licenses are what the sources stated when they were fetched.
"""
