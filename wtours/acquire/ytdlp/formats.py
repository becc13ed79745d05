"""Which of a source's formats is fetched, and what was chosen, in words and numbers.

Sound is left out. The largest picture up to `max_height` wins, then the higher frame rate; of equal
ones H.264, since it decodes fastest. YouTube has H.264 up to 1080 lines, VP9 and AV1 above.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

from wtours.media.file_types import Codec

DEFAULT_MAX_HEIGHT = 720
"""What shards of short side 512 need; the paper's full 4K is 2160."""
SORT = ("res", "fps", "vcodec:h264")


_SPELLINGS = {Codec.H264: "avc|h264", Codec.VP9: "vp0?9", Codec.AV1: "av0?1"}
"""How yt-dlp's `vcodec` begins, for each codec."""
_BYTES_PER_SECOND = {360: 0.1e6, 480: 0.2e6, 720: 0.5e6, 1080: 0.9e6, 1440: 1.8e6, 2160: 3.5e6}
"""Of YouTube's 60 fps walks, roughly; 720: the ten Walking Tours take about 25 GB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectedFormat:
    """One format of one source, as the source describes it; None where it does not say."""

    source: str
    format_id: str | None
    width: int | None
    height: int | None
    frames_per_second: float | None
    codec: str | None
    bytes: int | None
    is_estimate: bool
    """`bytes` is not exact."""
    duration_seconds: float | None
    license_observed: str | None

    def describe(self) -> str:
        """Return for example "1280x720, 60 fps, avc1.4d4020, format 298"."""
        parts = []
        if self.width and self.height:
            parts.append(f"{self.width}x{self.height}")
        elif self.height:
            parts.append(f"{self.height} lines")
        if self.frames_per_second:
            parts.append(f"{self.frames_per_second:g} fps")
        if self.codec:
            parts.append(self.codec)
        if not parts:
            parts.append("the only file there")
        return ", ".join([*parts, f"format {self.format_id}"] if self.format_id else parts)

    def with_size(self, num_bytes: int | None) -> Self:
        """Return the choice with the size that the server states."""
        return replace(self, bytes=num_bytes, is_estimate=False)


def selector(max_height: int, codec: Codec | None) -> str:
    """Return yt-dlp's format selection; where a source states nothing, its file is taken."""
    wanted = f"[height<=?{max_height}]"
    if codec is not None:
        wanted += f"[vcodec~=?'^({_SPELLINGS[codec]})']"
    return f"bestvideo{wanted}[dynamic_range=?SDR]/bestvideo{wanted}/best{wanted}"


def selected_format(source: str, info: dict[str, Any]) -> SelectedFormat:
    """Return what yt-dlp has selected of a source."""
    exact = info.get("filesize")
    num_bytes = exact or info.get("filesize_approx")
    codec = info.get("vcodec")
    return SelectedFormat(
        source=source,
        format_id=info.get("format_id"),
        width=info.get("width"),
        height=info.get("height"),
        frames_per_second=info.get("fps"),
        codec=None if codec == "none" else codec,
        bytes=int(num_bytes) if num_bytes else None,
        is_estimate=not exact,
        duration_seconds=info.get("duration"),
        license_observed=info.get("license"),
    )


def estimate_bytes(seconds: float, max_height: int) -> int:
    """Return roughly how large a walk of that length is, from YouTube's usual bit rates."""
    larger = [height for height in _BYTES_PER_SECOND if height >= max_height]
    return round(seconds * _BYTES_PER_SECOND[min(larger, default=max(_BYTES_PER_SECOND))])
