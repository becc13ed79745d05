"""What the page says of one video: its pictures, classes, shots, and where they came from."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np

from wtours.analyze.schema import DEFAULT_CUT_DETECTOR
from wtours.report.charts import HEIGHT, WIDTH, line
from wtours.report.data import MeasuredVideo, ReportVideo
from wtours.report.table6 import NOT_MEASURED
from wtours.report.thumbnails import Figure, Thumbnail
from wtours.text import clock, counted, plain, rate_text

_TOP_CLASSES = 12
_MAX_STRETCHES = 20
_VIDEO_FILES = (".mp4", ".m4v", ".webm", ".ogv", ".mov")


def video_section(
    video: ReportVideo,
    chart: dict[str, Any],
    figures: Sequence[Figure],
    *,
    problem: str,
    classes: Sequence[str],
) -> dict[str, Any]:
    """Return what the template shows of a video.

    Args:
        chart: Its row of Figure 2.
        problem: Why there are none; "" where there is no problem.
        classes: Those that have a color on this page, in the order of the colors.
    """
    title = plain(video.entry.title)
    shown = {
        group: [_figure(video, f, classes) for f in figures if f.moment.group == group]
        for group in ("spaced", "cuts", "extremes", "shots")
    }
    return {
        "id": video.entry.id,
        "chart": chart,
        "title": "" if title == video.label else title,
        "source": source_at(video, None),
        "facts": _headline(video),
        "problem": problem or _why_no_pictures(video),
        "figures": shown,
        "classes": _classes(video.measured, classes),
        "quality": _quality(video.measured),
        "shots": _shots(video, shown["shots"]),
        "how": _measuring_facts(video.measured),
        "receipt": _source_facts(video),
    }


def class_key(label: str, classes: Sequence[str]) -> str:
    """Return the CSS class of an object's class: k0, k1, …, or kx for those without a color."""
    names = [plain(name) for name in classes]
    return f"k{names.index(plain(label))}" if plain(label) in names else "kx"


def source_at(video: ReportVideo, time_us: int | None) -> str | None:
    """Return the address of a video at its source, at a moment where the source can do that.

    None: the source is not on the web; of a moment, also if it cannot be addressed.
    """
    facts = video.download.receipt.facts if video.download is not None else {}
    link = web_link(plain(facts.get("source") or video.entry.sources[0]))
    if link is None or time_us is None:
        return link
    parts = urlsplit(link)
    host = (parts.hostname or "").removeprefix("www.").removeprefix("m.")
    if host in ("youtube.com", "youtu.be"):
        query = [(name, value) for name, value in parse_qsl(parts.query) if name != "t"]
        return parts._replace(query=urlencode([*query, ("t", time_us // 1_000_000)])).geturl()
    if parts.path.lower().endswith(_VIDEO_FILES):
        return parts._replace(fragment=f"t={time_us / 1e6:.1f}").geturl()
    return None


def web_link(text: str) -> str | None:
    """Return the text if it is the address of a web page; a `javascript:` address is none."""
    try:
        parts = urlsplit(text)
        is_link = parts.scheme in ("http", "https") and parts.hostname and " " not in text
    except ValueError:
        return None
    return text if is_link else None


def _figure(video: ReportVideo, figure: Figure, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "caption": figure.moment.caption,
        "thumbnails": [
            {
                "image": thumbnail,
                "seconds": thumbnail.time_us / 1e6,
                "time": clock(thumbnail.time_us),
                "link": source_at(video, thumbnail.time_us),
                "boxes": _boxes(thumbnail, classes),
            }
            for thumbnail in figure.thumbnails
        ],
    }


def _boxes(thumbnail: Thumbnail, classes: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return (CSS class, label, SVG path of its boxes) of each class in the image."""
    paths = dict[str, str]()
    for box in thumbnail.boxes or ():
        width, height = box.x1 - box.x0, box.y1 - box.y0
        path = f"M{box.x0:.0f} {box.y0:.0f}h{width:.0f}v{height:.0f}h-{width:.0f}z"
        paths[box.label] = paths.get(box.label, "") + path
    return [(class_key(label, classes), label, path) for label, path in paths.items()]


def _why_no_pictures(video: ReportVideo) -> str:
    video_id = video.entry.id
    if video.download is None:
        return f"No pictures: {video_id} is not downloaded."
    if video.problem:
        return f"No pictures: {video.problem}"
    if video.measured is None:
        return f"No pictures: {video_id} is not analyzed."
    if not video.is_same_file:
        return f"No pictures: {video_id} was analyzed from another file than the one at hand."
    return ""


def _classes(measured: MeasuredVideo | None, classes: Sequence[str]) -> dict[str, Any] | None:
    """Return the most frequent classes with bars, 0..100; None: objects were not measured."""
    if measured is None or measured.objects is None or measured.objects.per_frame is None:
        return None
    counts = measured.objects.class_counts
    frames = measured.objects.facts.frames_analysed
    largest = counts[0][1] if counts else 1
    return {
        "shown": [
            {
                "label": plain(label),
                "per_frame": f"{count / frames:.2f}",
                "bar": f"{100 * count / largest:.1f}",
                "key": class_key(label, classes),
            }
            for label, count in counts[:_TOP_CLASSES]
        ],
        "all": len(counts),
    }


def _quality(measured: MeasuredVideo | None) -> dict[str, Any] | None:
    """Return curves over the seconds, and stretches of what holds; None: not measured."""
    if measured is None or measured.quality is None or not len(measured.quality.second):
        return None
    quality = measured.quality
    middles = quality.second.astype(np.float64) + 0.5
    x = middles / max(measured.summary.seconds, 1e-6) * WIDTH
    curves = []
    for name, values in (
        ("blur", quality.blur),
        ("motion", quality.motion),
        ("luma", quality.luma),
    ):
        known = ~np.isnan(values)
        if known.any():
            shown = values[known]
            y = HEIGHT - shown / max(float(shown.max()), 1e-9) * HEIGHT
            quantiles = [
                f"{q:,.0f}" if q >= 100 else f"{q:.3g}" for q in np.percentile(shown, (5, 50, 95))
            ]
            curves.append({"name": name, "path": line(x[known], y), "quantiles": quantiles})
    stretches: list[tuple[str, list[str], int | None]] = []
    for name, holds in (
        ("black", quality.black),
        ("frozen", quality.frozen),
        ("near duplicate", quality.near_duplicate),
        ("text overlay", quality.text_overlay),
    ):
        if holds is None:
            stretches.append((name, [], None))
            continue
        found = [
            f"{clock(start * 1_000_000)} to {clock(stop * 1_000_000)}"
            for start, stop in quality.stretches(holds)
        ]
        stretches.append((name, found[:_MAX_STRETCHES], len(found)))
    return {"curves": curves, "stretches": stretches}


def _shots(video: ReportVideo, thumbnails: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each shot with its thumbnail, where it has one."""
    if video.measured is None:
        return []
    by_number = {figure["caption"]: figure["thumbnails"][0] for figure in thumbnails}
    return [
        {
            "number": number,
            "thumbnail": by_number.get(str(number)),
            "from": clock(start_us),
            "to": clock(end_us),
            "start": start_us / 1e6,
            "end": end_us / 1e6,
            "seconds": (end_us - start_us) / 1e6,
            "link": source_at(video, start_us),
        }
        for number, (start_us, end_us) in enumerate(video.measured.shots_us, 1)
    ]


def _headline(video: ReportVideo) -> list[str]:
    """Return length, size, frames, cuts and lightness."""
    if video.measured is None:
        return [NOT_MEASURED]
    summary, cuts = video.measured.summary, video.measured.cuts
    low, mean, high = summary.lightness.min, summary.lightness.mean, summary.lightness.max
    return [
        clock(round(summary.seconds * 1e6)),
        f"{summary.width}x{summary.height}",
        f"{counted(summary.frames, 'frame')}, {rate_text(summary.frame_rate)}",
        counted(cuts, "cut"),
        f"lightness {mean:.1f} (darkest frame {low:.1f}, lightest {high:.1f})",
    ]


def _measuring_facts(measured: MeasuredVideo | None) -> list[tuple[str, str]]:
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
        cap = detector.max_per_frame
        facts += [
            ("Object detector", plain(detector.name)),
            ("Weights, sha256", plain(detector.weights_sha256)),
            ("Vocabulary", counted(len(detector.vocabulary), "class", "classes")),
            (
                "Looked at",
                f"{counted(objects.frames_analysed, 'frame')}, {measured.objects.rate}",
            ),
            ("Stored from a score of", f"{detector.threshold:g}"),
            (
                "At most per frame",
                "no cap"
                if cap is None
                else f"{cap}; {counted(objects.frames_at_cap, 'frame')} at it",
            ),
        ]
    versions = (f"{plain(name)} {plain(version)}" for name, version in measured.versions.items())
    return [*facts, ("Made by", ", ".join(sorted(versions)))]


def _source_facts(video: ReportVideo) -> list[dict[str, Any]]:
    """Return (name, value, link or None) of where the video came from."""
    facts = video.download.receipt.facts if video.download is not None else {}
    observed = facts.get("license_observed")
    when = facts.get("license_observed_at")
    source = facts.get("source") or video.entry.sources[0]
    rows: list[tuple[str, object]] = [("Source", source)]
    if web_link(plain(source)) is None:  # a file of one's own: no page says more
        rows.append(("License", video.entry.license_claimed))
    else:
        rows += [
            ("Title at the source", facts.get("title") or "not recorded"),
            ("Channel", facts.get("channel") or "not recorded"),
            ("License claimed by the dataset", video.entry.license_claimed),
            (
                "License observed at the download",
                f"{observed} ({when})" if observed and when else observed or "not observed",
            ),
        ]
    sha256 = video.download.sha256 if video.download is not None else "not downloaded"
    rows.append(("sha256", sha256))
    if video.download is not None:
        container = f"{facts.get('codec')}, {facts.get('width')}x{facts.get('height')}"
        rows.append(("File", f"{video.download.path.name}, {container}"))
    return [
        {"name": name, "value": plain(value), "link": web_link(plain(value))}
        for name, value in rows
    ]
