"""ATTRIBUTION.md: who made the works, where they are, under which license, and what was changed."""

from collections.abc import Iterable
from dataclasses import dataclass

from wtours.storage.atomic import RECEIPT_FILE, read_bytes, write_bytes
from wtours.text import escape_markdown, redact_url
from wtours.workspace.layout import Layout
from wtours.workspace.videos import download_receipt, video_file

_FACTS = (
    *("title", "channel", "source"),
    *("license_claimed", "license_observed", "license_observed_at"),
)
ATTRIBUTION_FILE = "ATTRIBUTION.md"
LICENSES_NOTE = (
    "The license claimed is the one the list of videos states; the license observed is what "
    "the source itself said when the video was downloaded. Not observed means not known."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One video that others made; None is "not known"."""

    video_id: str
    title: str | None
    channel: str | None
    source: str | None
    license_claimed: str | None
    license_observed: str | None
    license_observed_at: str | None = None
    sha256: str


def attribution(heading: str, changes: str, works: Iterable[Work]) -> str:
    """Return the whole text; what comes from outside is shown as it is, not as Markdown."""
    lines = [f"# {heading}", "", changes, "", LICENSES_NOTE]
    for work in works:
        observed = work.license_observed or "not observed"
        if work.license_observed and work.license_observed_at:
            observed += f" (on {work.license_observed_at})"
        rows = {
            "Title": work.title,
            "Channel": work.channel,
            "Source": work.source and redact_url(work.source),  # an older receipt may have it all
            "License claimed": work.license_claimed,
            "License observed": observed,
            "sha256 of the file": work.sha256,
        }
        lines += ["", f"## {escape_markdown(work.video_id)}", ""]
        lines += [
            f"- {name}: {escape_markdown(text or 'not known')}" for name, text in rows.items()
        ]
    return "\n".join(lines) + "\n"


def write_attribution(layout: Layout) -> None:
    """Write ATTRIBUTION.md of all downloaded videos, from their receipts, where it is not so."""
    works = []
    for path in sorted(layout.videos_dir.glob(f"*/{RECEIPT_FILE}")):
        receipt = download_receipt(layout, path.parent.name)
        if receipt is not None:
            stated = {name: receipt.facts.get(name) for name in _FACTS}
            works.append(Work(video_id=receipt.key, sha256=video_file(receipt).sha256, **stated))
    text = attribution(
        "Attribution of the videos in this folder",
        "Changes made to each: none; its pictures as the source serves them.",
        works,
    )
    path, data = layout.videos_dir / ATTRIBUTION_FILE, text.encode()
    try:
        is_there = read_bytes(path) == data
    except FileNotFoundError:
        is_there = False
    if not is_there:
        write_bytes(path, data)
