"""A decoded frame, and its pixels: converted only when asked for, upright and square.

What a container and a codec say of how a picture is to be shown is done here, for every stage:
a rotation or a mirror (the display matrix), pixels that are not square, and fields.

Interlaced frames are shown by their top field, as progressive ones: a picture with combs is no
picture of one moment. Half of the rows is enough for the usual reduction (540 of 1080 for a short
side of 512), and unlike FFmpeg's bwdif and yadif it looks at no other frame, so that a frame is the
same wherever reading began.
"""

from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple, Self

import av
import av.filter
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

YuvPlanes = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]

_FILTER_SPACES = {1: "bt709", 4: "fcc", 7: "smpte240m", 9: "bt2020nc"}
"""AVColorSpace numbers of matrices other than JPEG's, as the filter `colorspace` calls them."""


class Orientation(NamedTuple):
    """One of the eight ways to lay a picture: first transposed, then flipped."""

    transpose: bool = False
    flip_x: bool = False
    """Left and right change places."""
    flip_y: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "Self | None":
        """Return what the display matrix of a frame asks for; None: it is askew.

        A row vector (x, y) of the stored picture times the matrix is the place where it is shown.
        """
        side_data: Any = frame.side_data  # its stubs have the wrong keys
        side_data = side_data.get(Type.DISPLAYMATRIX)
        if side_data is None:
            return cls()
        matrix = np.frombuffer(bytes(side_data), np.int32)[:6].astype(np.int64)
        a, b, _, c, d, _ = (int(value) for value in matrix)
        if max(abs(b), abs(c)) * 100 < min(abs(a), abs(d)):
            return cls(False, a < 0, d < 0)
        if max(abs(a), abs(d)) * 100 < min(abs(b), abs(c)):
            return cls(True, c < 0, b < 0)
        return None

    @property
    def rotation(self) -> int:
        """Return the degrees, counterclockwise; where `is_mirrored`, before the mirror."""
        if self.transpose:
            return 90 if self.flip_y else 270
        return 180 if self.flip_y else 0

    @property
    def is_mirrored(self) -> bool:
        """Return whether left and right change places after the rotation."""
        return (self.transpose + self.flip_x + self.flip_y) % 2 == 1

    @property
    def filters(self) -> tuple[str, ...]:
        """Return the filters of FFmpeg that do it."""
        steps = ("transpose=cclock_flip", "hflip", "vflip")
        return tuple(step for step, wanted in zip(steps, self, strict=True) if wanted)

    def apply(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return an (H, W, ...) array, laid upright."""
        if self.transpose:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


_UPRIGHT = Orientation()


class Frame:
    """One decoded picture; the pixels are converted only when asked for.

    Args:
        frame: As PyAV gives it.
        pts_us: Microseconds from the video's first frame.
        orientation: What makes it upright.
        pixel_aspect: Width of a pixel beside its height.
        converter: The video's; None: one of its own.

    Attributes:
        is_corrupt: The decoder concealed errors in it.
    """

    def __init__(
        self,
        frame: av.VideoFrame,
        *,
        pts_us: int,
        orientation: Orientation = _UPRIGHT,
        pixel_aspect: Fraction = Fraction(1),
        converter: "PixelConverter | None" = None,
    ) -> None:
        self._stored = frame
        self.pixel_aspect = pixel_aspect
        self.orientation = orientation
        self._converter = converter or PixelConverter()
        self.pts_us = pts_us
        self.is_corrupt = bool(frame.is_corrupt)

    @cached_property
    def picture(self) -> av.VideoFrame:
        """The picture as it was decoded, not yet upright nor square; interlaced: its top field."""
        return _top_field(self._stored) if self.is_interlaced else self._stored

    @property
    def is_interlaced(self) -> bool:
        """Return whether it was coded as two fields."""
        return bool(self._stored.interlaced_frame)

    @property
    def coded_size(self) -> tuple[int, int]:
        """Return width and height as they were decoded."""
        return self._stored.width, self._stored.height

    @property
    def is_plain(self) -> bool:
        """Return whether `picture` is what is shown: progressive, upright, of square pixels."""
        shown_as_stored = self.orientation == _UPRIGHT and self.pixel_aspect == 1
        return shown_as_stored and not self.is_interlaced

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height, upright, in square pixels."""
        width, height = self._shown(None)
        return (height, width) if self.orientation.transpose else (width, height)

    def to_bgr(self) -> NDArray[np.uint8]:
        """Return (H, W, 3) uint8, BGR, full size: the pixels PySceneDetect's PyAV backend gives."""
        if self.is_plain:
            return np.ascontiguousarray(self.picture.to_ndarray(format="bgr24", threads=1))
        width, height = self._shown(None)
        if (width, height) == (self.picture.width, self.picture.height):
            return self._upright(self.picture.to_ndarray(format="bgr24", threads=1))
        return self.to_rgb()[..., ::-1].copy()

    def to_rgb(self, short_side: int | None = None) -> NDArray[np.uint8]:
        """Return (H, W, 3) uint8, RGB, reduced so that min(H, W) <= short_side; never enlarged."""
        return self._upright(self._converter.rgb(self.picture, *self._shown(short_side)))

    def to_jpeg_planes(self, short_side: int | None = None) -> YuvPlanes:
        """Return the planes Y, Cb and Cr of a JPEG (JFIF: BT.601, 0 to 255), reduced as by to_rgb.

        Y is (H, W) uint8, Cb and Cr are (ceil(H / 2), ceil(W / 2)). No RGB lies between, so it is
        quicker and rounds once less.
        """
        luma, cb, cr = self._converter.jpeg_planes(self.picture, *self._shown(short_side))
        return self._upright(luma), self._upright(cb), self._upright(cr)

    def _shown(self, short_side: int | None) -> tuple[int, int]:
        """Return width and height in square pixels, before the orientation is applied."""
        width, height = round(self._stored.width * self.pixel_aspect), self._stored.height
        if short_side is not None and min(width, height) > short_side:
            scale = Fraction(short_side, min(width, height))
            width, height = round(width * scale), round(height * scale)
        return max(1, width), max(1, height)

    def _upright(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(self.orientation.apply(pixels))


def _top_field(frame: av.VideoFrame) -> av.VideoFrame:
    """Return a frame of the even rows."""
    field = av.VideoFrame(frame.width, -(-frame.height // 2), frame.format.name)
    field.colorspace, field.color_range = frame.colorspace, frame.color_range
    field.pts, field.time_base = frame.pts, frame.time_base
    for source, target in zip(frame.planes, field.planes, strict=True):
        rows, kept = plane_rows(source)[::2], plane_rows(target)
        height, width = (min(sizes) for sizes in zip(rows.shape, kept.shape, strict=True))
        kept[:height, :width] = rows[:height, :width]
    return field


def plane_rows(plane: Any) -> NDArray[np.uint8]:
    """Return the memory of a plane, (H, bytes of a line) uint8, with what stands behind a row."""
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height]


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
        return [plane_pixels(plane) for plane in reduced.planes]

    def _graph(self, width: int, height: int, space: str, color_range: str) -> av.filter.Graph:
        """Return the filter from a matrix and a range to JPEG's; primaries stay as they are."""
        key = (width, height, space, color_range)
        if self._recoloring is not None and self._recoloring[0] == key:  # a video rarely changes
            return self._recoloring[1]
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
        self._recoloring = (key, graph)
        return graph


def plane_pixels(plane: Any) -> NDArray[np.uint8]:
    """Return the pixels of a plane, (H, W) uint8, in its memory."""
    return plane_rows(plane)[:, : plane.width]
