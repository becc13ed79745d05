"""A workspace with downloaded videos, for the tests of shards."""

import bisect
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg

from wtours.media.probe import probe_video
from wtours.storage.receipts import Receipt, record_file, write_receipt
from wtours.workspace.layout import Layout

_LEAST: dict[str, Any] = {
    "width": 96,
    "height": 64,
    "frame_rate": "30/1",
    "codec": "h264",
    "duration_us": 1,
}
"""What every receipt of a download states, for the tests that state the rest."""


def publish_video(
    layout: Layout, video_id: str, source: Path, *, facts: dict[str, Any] | None = None
) -> str:
    """Put a video where `download` puts it, and return its sha256; facts None: measured."""
    folder = layout.video_dir(video_id)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{video_id}{source.suffix}"
    shutil.copy(source, path)
    measured = probe_video(path).to_json() if facts is None else facts
    about = {
        "source": f"file:{source.name}",
        "title": f"A walk in {video_id}",
        "channel": None,
        "license_claimed": "CC-BY",
        "license_observed": None,
        "license_observed_at": None,
    }
    record = record_file(path, relative_to=folder)
    receipt = Receipt(
        stage="download", key=video_id, files=(record,), facts=_LEAST | measured | about
    )
    write_receipt(layout.video_receipt(video_id), receipt)
    return record.sha256


def publish_stream(layout: Layout, video_id: str, source: Path, stream: int) -> None:
    """Put a video where `download` puts it, for one stream of the file; one that is there goes."""
    shutil.rmtree(layout.video_dir(video_id), ignore_errors=True)
    publish_video(layout, video_id, source, facts=probe_video(source, stream=stream).to_json())


def workspace(source: Path, root: Path) -> Layout:
    """Return a workspace with a video twice, as "one" and "two"."""
    layout = Layout(root)
    for video_id in ("one", "two"):
        publish_video(layout, video_id, source)
    return layout


def listed_pts_us(path: Path) -> list[int]:
    """Return the pts of every packet, in microseconds from the first, straight from the demuxer."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        pts = sorted(p.pts for p in container.demux(stream) if p.pts is not None)
        return [round((p - pts[0]) * stream.time_base * 1_000_000) for p in pts]


def expected_ticks(pts_us: list[int], rate: Fraction) -> dict[int, int]:
    """Return {tick: pts of its frame}, tick by tick, as the definition reads."""
    kept = {}
    for tick in range(int(pts_us[-1] * rate / 1_000_000) + 2):
        moment_us = tick * 1_000_000 / rate
        first, end = moment_us - 500_000 / rate, moment_us + 500_000 / rate
        near = pts_us[bisect.bisect_left(pts_us, first) : bisect.bisect_left(pts_us, end)]
        if near:
            kept[tick] = min(near, key=lambda pts: (abs(pts - moment_us), pts))
    return kept


def files_of(directory: Path) -> dict[str, bytes]:
    """Return every file under a folder, by its relative path."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def shown_pts_us(path: Path) -> list[int]:
    """Return the pts of every frame that the ffmpeg program shows, in microseconds from the first.

    Another build of FFmpeg than PyAV's.
    """
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-map", "0:v:0"]
    command += ["-fps_mode", "passthrough", "-copyts", "-enc_time_base", "demux"]
    text = subprocess.run(
        [*command, "-f", "framecrc", "-"], check=True, capture_output=True, text=True
    ).stdout
    (time_base,) = (
        Fraction(line.split()[-1]) for line in text.splitlines() if line.startswith("#tb 0:")
    )
    pts = [int(line.split(",")[2]) for line in text.splitlines() if not line.startswith("#")]
    return [round((p - pts[0]) * time_base * 1_000_000) for p in pts]


def decoded_pts_us(path: Path) -> list[int]:
    """Return the pts of every frame that PyAV decodes, in microseconds from the first.

    Frame by frame from the start, as ffprobe -show_frames: no seek, no packet looked at.
    """
    with av.open(str(path)) as container:
        frames = container.decode(container.streams.video[0])
        pts = [frame.pts for frame in frames if frame.pts is not None]
        time_base = container.streams.video[0].time_base
    assert time_base is not None
    return [round((p - pts[0]) * time_base * 1_000_000) for p in pts]


def rotate(source: Path, path: Path, degrees: int) -> Path:
    """Copy a clip into one that is to be shown rotated, counterclockwise."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-display_rotation", str(degrees)]
    subprocess.run([*command, "-i", str(source), "-c", "copy", str(path)], check=True)
    return path


def destroy_packets(source: Path, path: Path, numbers: list[int]) -> list[int]:
    """Copy a video with some packets overwritten; return their pts, microseconds from the first.

    Numbers are in decoding order, 0-based; the first one must stay.
    """
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        packets = [p for p in container.demux(stream) if p.pts is not None]
        payloads = [bytes(packets[number]) for number in numbers]
        first = min(p.pts for p in packets if p.pts is not None)
        assert stream.time_base is not None
        pts = [((packets[n].pts or 0) - first) * stream.time_base for n in numbers]
    data = source.read_bytes()
    for payload in payloads:
        assert data.count(payload) == 1
        data = data.replace(payload, b"\xff" * len(payload))
    path.write_bytes(data)
    return [round(moment * 1_000_000) for moment in pts]


def drop_packets(source: Path, path: Path, numbers: list[int]) -> None:
    """Copy a video without some of its packets, numbered in decoding order."""
    with av.open(str(source)) as container, av.open(str(path), "w") as output:
        stream = container.streams.video[0]
        copy = output.add_stream_from_template(stream)
        packets = [p for p in container.demux(stream) if p.pts is not None]
        for number, packet in enumerate(packets):
            if number not in numbers:
                packet.stream = copy
                output.mux(packet)
