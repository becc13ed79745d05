"""A decoded frame, and its pixels: converted only when asked for, reduced and turned upright."""

from fractions import Fraction
from typing import Any

import av
import av.filter
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

YuvPlanes = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]

_FILTER_SPACES = {1: "bt709", 4: "fcc", 7: "smpte240m", 9: "bt2020nc"}
"""AVColorSpace numbers of matrices other than JPEG's, as the filter `colorspace` calls them."""


class Frame:
    """One decoded picture; the pixels are converted only when asked for.

    Args:
        frame: As PyAV gives it.
        pts_us: Microseconds from the video's first frame.
        rotation: Degrees, counterclockwise, that make it upright: 0, 90, 180 or 270.
        converter: The video's; None: one of its own.

    Attributes:
        picture: As it was decoded, before its rotation.
        rotation: Degrees, counterclockwise, that make it upright: 0, 90, 180 or 270.
        pts_us: Microseconds from the video's first frame.
        is_corrupt: The decoder concealed errors in it.
    """

    __slots__ = ("_converter", "is_corrupt", "picture", "pts_us", "rotation")

    def __init__(
        self,
        frame: av.VideoFrame,
        *,
        pts_us: int,
        rotation: int,
        converter: "PixelConverter | None" = None,
    ) -> None:
        self.picture = frame
        self.rotation = rotation
        self._converter = converter or PixelConverter()
        self.pts_us = pts_us
        self.is_corrupt = bool(frame.is_corrupt)

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height, upright."""
        width, height = self.picture.width, self.picture.height
        return (height, width) if self.rotation in (90, 270) else (width, height)

    def to_bgr(self) -> NDArray[np.uint8]:
        """Return (H, W, 3) uint8, BGR, full size: the pixels PySceneDetect's PyAV backend gives."""
        return self._upright(self.picture.to_ndarray(format="bgr24", threads=1))

    def to_rgb(self, short_side: int | None = None) -> NDArray[np.uint8]:
        """Return (H, W, 3) uint8, RGB, reduced so that min(H, W) <= short_side; never enlarged."""
        return self._upright(self._converter.rgb(self.picture, *self._reduced(short_side)))

    def to_jpeg_planes(self, short_side: int | None = None) -> YuvPlanes:
        """Return the planes Y, Cb and Cr of a JPEG (JFIF: BT.601, 0 to 255), reduced as by to_rgb.

        Y is (H, W) uint8, Cb and Cr are (ceil(H / 2), ceil(W / 2)). No RGB lies between, so it is
        quicker and rounds once less.
        """
        luma, cb, cr = self._converter.jpeg_planes(self.picture, *self._reduced(short_side))
        return self._upright(luma), self._upright(cb), self._upright(cr)

    def _reduced(self, short_side: int | None) -> tuple[int, int]:
        """Return width and height, before rotation."""
        width, height = self.picture.width, self.picture.height
        if short_side is not None and min(width, height) > short_side:
            scale = Fraction(short_side, min(width, height))
            width, height = round(width * scale), round(height * scale)
        return width, height

    def _upright(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        # np.rot90 turns counterclockwise, as the display matrix's rotation is counted.
        return np.ascontiguousarray(np.rot90(pixels, self.rotation // 90))


class PixelConverter:
    """Reduces and recolors the frames of a video; made once, since its tables take as long."""

    def __init__(self) -> None:
        self._to_rgb = VideoReformatter()
        self._to_yuv = VideoReformatter()
        self._recoloring: tuple[tuple[int, int, str, str], av.filter.Graph] | None = None

    def rgb(self, frame: av.VideoFrame, width: int, height: int) -> NDArray[Any]:
        """Return (height, width, 3) uint8 RGB."""
        return self._to_rgb.reformat(
            frame, width, height, "rgb24", interpolation=Interpolation.BICUBIC, threads=1
        ).to_ndarray()

    def jpeg_planes(self, frame: av.VideoFrame, width: int, height: int) -> list[NDArray[Any]]:
        """Return Y, Cb and Cr as JPEG has them; what states no matrix is BT.601, as for swscale.

        Reduced by a triangle that widens with the reduction, as Pillow's and torchvision's
        antialiased "bilinear": a quarter cheaper than swscale's bicubic, and without its overshoot.
        """
        # swscale changes matrices over RGB, which is slower and off by up to 3 in 255: it does only
        # the odd sizes, which the filter refuses.
        is_even = width % 2 == height % 2 == 0
        space = _FILTER_SPACES.get(int(frame.colorspace)) if is_even else None
        is_full = int(frame.color_range) == ColorRange.JPEG
        reduced = self._to_yuv.reformat(
            frame,
            width,
            height,
            "yuv420p",
            dst_colorspace=None if space else Colorspace.ITU601,
            dst_color_range=ColorRange.JPEG if is_full or not space else ColorRange.MPEG,
            interpolation=Interpolation.BILINEAR,
            threads=1,
        )
        if space is not None:
            graph = self._graph(width, height, space, "pc" if is_full else "tv")
            graph.vpush(reduced)
            reduced = graph.vpull()
        return [_pixels(plane) for plane in reduced.planes]

    def _graph(self, width: int, height: int, space: str, color_range: str) -> av.filter.Graph:
        """Return the filter from a matrix and a range to JPEG's; primaries stay as they are."""
        key = (width, height, space, color_range)
        if self._recoloring is None or self._recoloring[0] != key:  # a video rarely changes
            self._recoloring = (key, _recoloring(*key))
        return self._recoloring[1]


def _recoloring(width: int, height: int, space: str, color_range: str) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=width,
        height=height,
        format=av.VideoFormat("yuv420p"),
        time_base=Fraction(1, 1000),
    )
    recolor = graph.add(
        "colorspace",
        f"ispace={space}:irange={color_range}:iprimaries=bt709:itrc=bt709:"
        "space=smpte170m:range=pc:primaries=bt709:trc=bt709:format=yuv420p",
    )
    graph.link_nodes(source, recolor, graph.add("buffersink")).configure()
    return graph


def _pixels(plane: Any) -> NDArray[np.uint8]:
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width]
