"""Chapters: the files that a camera cuts one long recording into, joined as one walk.

GoPro names them: GX010042.MP4, GX020042.MP4 (HERO6 and later), GOPR0042.MP4, GP010042.MP4 (older).
Other cameras' names do not tell a chapter from the next recording: there the user says it
(`wtours add --join`). Packets are copied, no pixel is decoded, and the copy is read back.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Stream
from av.video.stream import VideoStream
from numpy.typing import NDArray

from wtours.acquire.local_files import (
    Fetched,
    FetchProgress,
    copy_file,
    removed_on_error,
    require_room,
    working_folder,
)
from wtours.errors import UsageError, VideoError
from wtours.media.container import choose_stream, open_container
from wtours.media.frame_times import FrameTimes, frame_times
from wtours.media.packets import demux, to_us
from wtours.media.reader import open_video

_NEW = re.compile(r"(?P<kind>G[HX])(?P<chapter>\d\d)(?P<number>\d{4})", re.IGNORECASE)
_OLD_FIRST = re.compile(r"GOPR(?P<number>\d{4})", re.IGNORECASE)
_OLD_NEXT = re.compile(r"GP(?P<chapter>\d\d)(?P<number>\d{4})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LocalFetcher:
    """Copies a file of the user's, or joins several in order; see `Fetcher` in `local_files`."""

    find: Sequence[Callable[[], Path]]
    """Return the real path of each, when it is needed."""
    stream: int | None
    """Which stream of several files, as ffprobe numbers them; None: the main one."""

    def __call__(self, source: str, folder: Path, on_progress: FetchProgress) -> Fetched:
        """Copy the file; or join the files, and say in `info` what was joined."""
        paths = self.paths()
        if len(paths) == 1:
            return copy_file(paths[0], source, folder, on_progress)
        require_room(source, folder, sum(path.stat().st_size for path in paths))
        work = working_folder(folder, source, {"chapters": [path.name for path in paths]})
        with removed_on_error(work, f"join {paths[0]}"):
            info = join_chapters(paths, work / "source.mp4", self.stream, on_progress)
        return Fetched(path=work / "source.mp4", info=info)

    def paths(self) -> list[Path]:
        """Return the files.

        Raises:
            DownloadError: one of them is not there.
        """
        return [find() for find in self.find]


def group_chapters(paths: Iterable[Path]) -> list[tuple[Path, ...]]:
    """Return the files in the order given, the chapters of one recording together.

    Raises:
        UsageError: a chapter between the others, or the first one, is missing.
    """
    groups: dict[object, dict[int, Path]] = {}
    for path in paths:
        recording, chapter = _place(path)
        groups.setdefault(recording, {}).setdefault(chapter, path)
    return [_in_order(chapters) for chapters in groups.values()]


def next_chapter(path: Path) -> Path | None:
    """Return the chapter that follows a file and lies beside it; None: there is none."""
    recording, chapter = _place(path)
    if isinstance(recording, Path):
        return None
    beside = (other for other in sorted(path.parent.iterdir()) if other.is_file())
    return next((other for other in beside if _place(other) == (recording, chapter + 1)), None)


def _place(path: Path) -> tuple[object, int]:
    """Return the recording that a file belongs to, itself if its name is no camera's; its place."""
    of_folder = (path.parent, path.suffix.lower())
    if found := _NEW.fullmatch(path.stem):
        return (*of_folder, found["kind"].upper(), found["number"]), int(found["chapter"])
    if found := _OLD_FIRST.fullmatch(path.stem):
        return (*of_folder, "GOPR", found["number"]), 0
    if found := _OLD_NEXT.fullmatch(path.stem):
        return (*of_folder, "GOPR", found["number"]), int(found["chapter"])
    return path, 0


def _in_order(chapters: dict[int, Path]) -> tuple[Path, ...]:
    numbers = sorted(chapters)
    first = chapters[numbers[0]]
    if len(numbers) > 1:
        start = 0 if _OLD_FIRST.fullmatch(first.stem) or _OLD_NEXT.fullmatch(first.stem) else 1
        missing = sorted({*range(start, numbers[-1])} - {*numbers})
        if missing:
            raise UsageError(
                f"{first}: chapter {missing[0]} of its recording is not among the files; a walk "
                f"with a hole in it is not joined: add that file too, or each one alone with --id"
            )
    return tuple(chapters[number] for number in numbers)


def join_chapters(
    paths: Sequence[Path], joined: Path, stream: int | None, on_progress: FetchProgress
) -> dict[str, Any]:
    """Copy the video packets of MP4 files into one MP4, each file's times after those before it.

    Sound and telemetry are left out: no stage reads them. What was written is read back: as many
    frames, the same packets, and the times that the chapters have.

    `on_progress` is called with the bytes of the chapters done, and of all.

    Returns:
        For info.json: the chapters with their bytes and frames, and the sha256 of all packets.

    Raises:
        VideoError: they are no chapters of one recording, or what was written is not the same.
    """
    sizes = [path.stat().st_size for path in paths]
    times = [_times_of_chapter(path, stream) for path in paths]
    packets, starts = hashlib.sha256(), _starts(times)
    with av.open(str(joined), "w", format="mp4", options={"fflags": "+bitexact"}) as output:
        copy: Stream | None = None
        settings: dict[str, object] = {}
        for number, path in enumerate(paths):
            with open_container(path) as container:
                video = choose_stream(path, container, stream)
                found = _settings(path, video, stream)
                if copy is None:
                    copy, settings = output.add_stream_from_template(video), found
                else:
                    _require_same(settings, found, path, paths[0])
                for packet in demux(path, container, video):
                    if packet.dts is None or packet.pts is None:
                        continue  # the end of the stream
                    if packet.is_discard:
                        raise VideoError(
                            f"{path} was trimmed without being encoded again, so its packets "
                            f"cannot be joined; add it alone: --id NAME"
                        )
                    packets.update(bytes(packet))
                    packet.pts += starts[number]
                    packet.dts += starts[number]
                    packet.stream = copy
                    output.mux(packet)
            on_progress(sum(sizes[: number + 1]), sum(sizes))
    _read_back(joined, times, starts, packets.hexdigest())
    return {
        "chapters": [
            {"file": path.name, "bytes": size, "frames": len(found.ticks)}
            for path, size, found in zip(paths, sizes, times, strict=True)
        ],
        "packets_sha256": packets.hexdigest(),
    }


def _times_of_chapter(path: Path, stream: int | None) -> FrameTimes:
    with open_container(path) as container:
        if "mp4" not in container.format.name:
            raise VideoError(
                f"{path} is no MP4; chapters of other kinds are not joined: "
                f"ffmpeg -i IN -map 0:v -c copy OUT.mp4 first"
            )
    found = frame_times(path, stream)
    if found.is_repaired:
        raise VideoError(
            f"{path}: its frame times cannot be right, so it is not joined; add it alone: --id NAME"
        )
    return found


def _starts(times: Sequence[FrameTimes]) -> list[int]:
    """Return how many ticks each chapter is moved: it begins where the one before ends."""
    starts, end = [], int(times[0].ticks.min())
    for found in times:
        starts.append(end - int(found.ticks.min()))
        last = Fraction(found.last_duration_us, 1_000_000) / found.unit
        end = starts[-1] + int(found.ticks.max()) + round(last)
    return starts


def _settings(path: Path, video: VideoStream, stream: int | None) -> dict[str, object]:
    """Return what must be equal for packets of two files to be one stream."""
    with open_video(path, stream=stream, threads=1) as reader:
        facts = reader.metadata
    return {
        "codec": facts.codec,
        "size": "{}x{}".format(*facts.coded_size),
        "pixel format": facts.pixel_format,
        "pixel shape": facts.pixel_aspect_ratio,
        "rotation": (facts.rotation, facts.is_mirrored),
        "frame rate": round(facts.frame_rate, 1),
        "color": (facts.color_primaries, facts.color_matrix, facts.color_range),
        "time base": video.time_base,
        "decoder's parameters": video.codec_context.extradata,
    }


def _require_same(
    ours: dict[str, object], theirs: dict[str, object], path: Path, first: Path
) -> None:
    for name, value in ours.items():
        if theirs[name] != value:
            shown = "" if isinstance(value, bytes) else f" ({theirs[name]}, not {value})"
            raise VideoError(
                f"{path} is no chapter of the recording of {first.name}: another {name}{shown}; "
                f"add the files apart, each with --id"
            )


def _read_back(
    joined: Path, times: Sequence[FrameTimes], starts: Sequence[int], sha256: str
) -> None:
    digest = hashlib.sha256()
    with open_container(joined) as container:
        for packet in demux(joined, container, choose_stream(joined, container, None)):
            if packet.size:
                digest.update(bytes(packet))
    found = frame_times(joined)
    moved = [part.ticks + start for part, start in zip(times, starts, strict=True)]
    expected = _us_of(np.concatenate(moved), times[0].unit)
    same_times = np.array_equal(_us_of(found.ticks, found.unit), expected)
    if digest.hexdigest() != sha256 or found.is_repaired or not same_times:
        what = "times" if digest.hexdigest() == sha256 else "packets"
        raise VideoError(f"joining the chapters changed their {what}; please report it")


def _us_of(ticks: NDArray[np.int64], unit: Fraction) -> NDArray[np.int64]:
    """Return when frames are after the first of them, int64 microseconds, in the file's order."""
    first = int(ticks.min())
    return np.array([to_us(tick - first, unit) for tick in ticks.tolist()], np.int64)
