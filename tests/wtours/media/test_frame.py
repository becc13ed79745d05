"""The pixels of a frame against other programs' and against the standards' formulas."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray

from tests.support.sharded_videos import rotate
from tests.support.video_clips import write_clip
from wtours.media.image import encode_planes
from wtours.media.reader import open_video

Planes = list[NDArray[np.float64]]

LUMA_WEIGHTS = {  # of red and blue: ITU-R BT.601, BT.709, BT.2020
    "smpte170m": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020nc": (0.2627, 0.0593),
    "unknown": (0.299, 0.114),  # what FFmpeg and OpenCV take it for
}


def tagged_clip(path: Path, matrix: str, color_range: str) -> Path:
    """Write a lossless clip whose numbers are to be read as of this matrix and range."""
    return write_clip(
        path,
        source="mandelbrot=size=160x90:rate=5:start_scale=0.3",
        filters=f"format=yuv420p,setparams=colorspace={matrix}:range={color_range}",
        t=0.4,
        qp=0,
    )


def stored_planes(path: Path, height: int, width: int) -> Planes:
    """Return the first frame's numbers as another build of FFmpeg reads them, not converted."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-frames:v", "1"]
    raw = subprocess.run([*command, "-f", "rawvideo", "-"], check=True, capture_output=True).stdout
    numbers = np.frombuffer(raw, np.uint8).astype(np.float64)
    luma, cb, cr = np.split(numbers, [height * width, height * width * 5 // 4])
    half = (height // 2, width // 2)
    return [luma.reshape(height, width), cb.reshape(half), cr.reshape(half)]


def as_jpeg(planes: Planes, matrix: str, color_range: str) -> Planes:
    """Return the planes of BT.601 at full range, by the standards' formulas over RGB."""
    red_weight, blue_weight = LUMA_WEIGHTS[matrix]
    black, luma_span, chroma_span = (16, 219, 224) if color_range == "tv" else (0, 255, 255)
    luma = (planes[0] - black) * 255 / luma_span
    cb, cr = ((plane - 128) * 255 / chroma_span for plane in planes[1:])
    cb, cr = (plane.repeat(2, axis=0).repeat(2, axis=1) for plane in (cb, cr))
    red = luma + 2 * (1 - red_weight) * cr
    blue = luma + 2 * (1 - blue_weight) * cb
    green = (luma - red_weight * red - blue_weight * blue) / (1 - red_weight - blue_weight)
    new_luma = 0.299 * red + 0.587 * green + 0.114 * blue
    new_cb, new_cr = (blue - new_luma) / 1.772 + 128, (red - new_luma) / 1.402 + 128
    means = (p.reshape(p.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3)) for p in (new_cb, new_cr))
    return [plane.clip(0, 255) for plane in (new_luma, *means)]


@pytest.mark.parametrize(
    ("matrix", "color_range"),
    [
        *(("bt709", "tv"), ("bt709", "pc"), ("bt2020nc", "tv")),
        *(("smpte170m", "tv"), ("smpte170m", "pc"), ("unknown", "tv")),
    ],
)
def test_the_planes_of_a_jpeg_are_those_of_the_formulas(tmp_path, matrix, color_range):
    path = tagged_clip(tmp_path / "a.mp4", matrix, color_range)
    expected = as_jpeg(stored_planes(path, 90, 160), matrix, color_range)
    with open_video(path) as video:
        planes = next(video.frames()).to_jpeg_planes()
    assert np.ptp(expected[0]) > 100
    for plane, wanted in zip(planes, expected, strict=True):
        assert np.abs(plane - wanted).max() <= 1


@pytest.mark.parametrize("short_side", [32, 33])
@pytest.mark.parametrize("matrix", ["bt709", "smpte170m"])
def test_a_color_comes_back_from_the_jpeg(tmp_path, matrix, short_side):
    path = write_clip(
        tmp_path / "a.mp4",
        source="color=0xC04020:size=96x72:rate=5",
        filters=f"scale=out_color_matrix={matrix}:out_range=tv:flags=accurate_rnd,setparams=colorspace={matrix}",
        t=0.4,
        qp=0,
    )
    with open_video(path) as video:
        planes = next(video.frames()).to_jpeg_planes(short_side)
    jpeg = encode_planes(planes, quality=100)
    difference = simplejpeg.decode_jpeg(jpeg).astype(int) - [0xC0, 0x40, 0x20]
    assert np.abs(difference).max() <= 4  # the wrong matrix: 11


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_the_planes_are_upright_and_reduced_as_pillow_does(tmp_path, degrees):
    image = pytest.importorskip("PIL.Image")
    source = "mandelbrot=size=150x90:rate=5:start_scale=0.3"
    clip = write_clip(tmp_path / "a.mp4", source=source, t=0.4)
    path = rotate(clip, tmp_path / "turned.mp4", degrees)
    with open_video(path) as video:
        frame = next(video.frames())
        full, rgb, planes = frame.to_rgb(), frame.to_rgb(41), frame.to_jpeg_planes(41)
    height, width = (41, 68) if degrees in (0, 180) else (68, 41)
    assert rgb.shape == (height, width, 3)
    half = ((height + 1) // 2, (width + 1) // 2)
    assert [plane.shape for plane in planes] == [(height, width), half, half]
    reduced = image.fromarray(full).resize((width, height), image.Resampling.BILINEAR)
    luma = np.asarray(reduced) @ np.array([0.299, 0.587, 0.114])
    assert np.ptp(luma) > 100
    assert np.abs(planes[0] - luma).mean() < 1.5
    jpeg = encode_planes(planes, quality=100)
    assert simplejpeg.decode_jpeg(jpeg).shape == rgb.shape


@pytest.mark.parametrize(("height", "width"), [(32, 43), (33, 48), (33, 47), (32, 48)])
def test_a_jpeg_depends_on_nothing_but_its_planes(height, width):
    rng = np.random.default_rng(0)
    luma = rng.integers(0, 256, (height, width), np.uint8)
    gray = np.full(((height + 1) // 2, (width + 1) // 2), 128, np.uint8)
    jpegs = set()
    for number in range(20):
        lies_before_something_else = np.full((2 * height, width), 12 * number, np.uint8)
        lies_before_something_else[:height] = luma
        planes = (lies_before_something_else[:height], gray, gray)
        jpegs.add(encode_planes(planes, quality=100))
    (jpeg,) = jpegs
    assert np.abs(simplejpeg.decode_jpeg(jpeg, "GRAY")[..., 0].astype(int) - luma).max() <= 1
