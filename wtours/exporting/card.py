"""The dataset card of a shard set or an export: README.md as the Hub shows it."""

import json

from wtours.shards.schema import Dataset, VideoRecord, set_sha256
from wtours.text import bytes_text, counted, escape_markdown, redact_url

_LICENSES = {
    # What sources state: the Hub's identifier and the address, where they are beyond doubt.
    "Creative Commons Attribution license (reuse allowed)": (
        "cc-by-3.0",
        "https://creativecommons.org/licenses/by/3.0/",
    ),
    "CC0": ("cc0-1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
}


def license_url(video: VideoRecord) -> str | None:
    """Return the address of the license that a video's source stated; None: it is in doubt."""
    return _LICENSES.get(video.license_observed or "", ("", None))[1]


def described(dataset: Dataset) -> str:
    """Return in a sentence how many frames of what they are."""
    params = dataset.params
    rate = "every frame" if params.rate is None else f"{params.frames_per_second} frames a second"
    return (
        f"{counted(dataset.frames, 'frame')} ({bytes_text(dataset.bytes)}) of "
        f"{counted(len(dataset.videos), 'video')}, {rate}, short side at most "
        f"{params.short_side} pixels, {params.encoding}."
    )


def dataset_card(dataset: Dataset, *, data_files: str | None = None) -> str:
    """Return the card: license, sources, what was done to the frames, and the hash to cite.

    Args:
        dataset: The shard set.
        data_files: Which files of the folder `datasets.load_dataset` reads; None: it reads none.
    """
    rows = "\n".join(
        f"| {video.video_id} | {escape_markdown(video.title or '')} | "
        f"{escape_markdown(redact_url(video.source or ''))} | "
        f"{escape_markdown(video.license_observed or 'not observed')} | {video.frames:,} |"
        for video in dataset.videos
    )
    configs = ""
    if data_files is not None:
        files = f"[{{split: train, path: {json.dumps(data_files)}}}]"
        configs = f"configs:\n- config_name: default\n  data_files: {files}\n"
    return f"""---
license: {_hub_license(dataset)}
task_categories:
- image-feature-extraction
tags:
- video
- egocentric
- self-supervised-learning
pretty_name: {json.dumps(dataset.name)}
{configs}---

# {escape_markdown(dataset.name)}

{described(dataset)}
Each frame has its video, its time in the video (`pts_us`, microseconds) and its shot.

Set hash, to cite and to check (`wtours attest`): `{set_sha256(dataset.shards)}`

| video | title | source | license observed | frames |
|---|---|---|---|---|
{rows}

The videos are their makers'; the licenses are what the sources stated when they were fetched.
"""


def _hub_license(dataset: Dataset) -> str:
    """Return the Hub's identifier: of several licenses "other", with one not observed "unknown"."""
    observed = {video.license_observed for video in dataset.videos}
    if None in observed:
        return "unknown"
    return (
        _LICENSES.get(next(iter(observed)) or "", ("other",))[0] if len(observed) == 1 else "other"
    )
