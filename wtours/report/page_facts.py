"""What the page says of one video in words: its head, how it was measured, where it came from."""

from typing import Any
from urllib.parse import urlsplit

from wtours.analyze.shots import DEFAULT_CUT_DETECTOR
from wtours.report.data import MeasuredVideo, ReportVideo
from wtours.report.table6 import NOT_MEASURED
from wtours.text import clock, plain


def headline(video: ReportVideo) -> list[str]:
    """Return length, size, frames, cuts and lightness."""
    if video.measured is None:
        return [NOT_MEASURED]
    summary, cuts = video.measured.summary, video.measured.cuts
    low, mean, high = summary.lightness.min, summary.lightness.mean, summary.lightness.max
    return [
        clock(round(summary.seconds * 1e6)),
        f"{summary.width}x{summary.height}",
        f"{summary.frames:,} frames at {_rate(summary.frame_rate)} a second",
        f"{cuts} cut{'' if cuts == 1 else 's'}",
        f"lightness {mean:.1f} (darkest frame {low:.1f}, lightest {high:.1f})",
    ]


def measuring_facts(measured: MeasuredVideo | None) -> list[tuple[str, str]]:
    """Return (name, value) of how a video was measured; none if it was not."""
    if measured is None:
        return []
    summary = measured.summary
    facts = [
        ("Video measured, sha256", summary.video_sha256),
        ("Frames that the decoder repaired", f"{summary.corrupt_frames:,}"),
        ("Lightness", "mean CIELAB L* of every frame, 0 (black) to 100 (white)"),
        ("Cuts", f"PySceneDetect, {DEFAULT_CUT_DETECTOR}"),
    ]
    if measured.objects is None:
        facts.append(("Objects", f"{NOT_MEASURED}: {plain(summary.objects_not_measured)}"))
    else:
        objects = measured.objects.facts
        detector = objects.detector
        cap = "no cap" if detector.max_per_frame is None else f"{detector.max_per_frame}"
        facts += [
            ("Object detector", plain(detector.name)),
            ("Weights, sha256", plain(detector.weights_sha256)),
            ("Vocabulary", f"{len(detector.vocabulary):,} classes"),
            ("Looked at", f"{objects.frames_analysed:,} frames, {measured.objects.rate}"),
            ("Stored from a score of", f"{detector.threshold:g}"),
            ("At most per frame", f"{cap}; {objects.frames_at_cap:,} frames reach it"),
        ]
    versions = (f"{plain(name)} {plain(version)}" for name, version in measured.versions.items())
    return [*facts, ("Made by", ", ".join(sorted(versions)))]


def source_facts(video: ReportVideo) -> list[dict[str, Any]]:
    """Return (name, value, link or None) of where the video came from."""
    facts = video.download.receipt.facts if video.download is not None else {}
    observed = facts.get("license_observed")
    when = facts.get("license_observed_at")
    rows: list[tuple[str, object]] = [
        ("Source", facts.get("source") or video.entry.sources[0]),
        ("Title at the source", facts.get("title") or "not recorded"),
        ("Channel", facts.get("channel") or "not recorded"),
        ("License claimed by the dataset", video.entry.license_claimed),
        (
            "License observed at the download",
            f"{observed} ({when})" if observed and when else observed or "not observed",
        ),
        ("sha256", video.download.sha256 if video.download is not None else "not downloaded"),
    ]
    if video.download is not None:
        container = f"{facts.get('codec')}, {facts.get('width')}x{facts.get('height')}"
        rows.append(("File", f"{video.download.path.name}, {container}"))
    return [
        {"name": name, "value": plain(value), "link": _web_link(plain(value))}
        for name, value in rows
    ]


def _web_link(text: str) -> str | None:
    """Return the text if it is the address of a web page; a `javascript:` address is none."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    is_link = parts.scheme in ("http", "https") and parts.hostname and " " not in text
    return text if is_link else None


def _rate(frame_rate: str) -> str:
    """Return "60000/1001" as "59.94"."""
    top, _, bottom = frame_rate.partition("/")
    return f"{int(top) / int(bottom or 1):.4g}"
