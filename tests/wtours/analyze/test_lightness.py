import numpy as np
import pytest
from skimage.color import rgb2lab

from wtours.analyze.downscale import reduce_frame
from wtours.analyze.lightness import frame_lightness
from wtours.media.reader import open_video


def assert_as_scikit_image(bgr):
    expected = rgb2lab(bgr[..., ::-1])[..., 0]
    found = frame_lightness(bgr)
    assert found.mean == pytest.approx(expected.mean(), abs=0.05)
    p5, p95 = np.percentile(expected, [5, 95])
    assert found.p5 == pytest.approx(p5, abs=0.05)
    assert found.p95 == pytest.approx(p95, abs=0.05)


@pytest.mark.parametrize("brightest", [3, 12, 40, 255])
def test_lightness_is_scikit_images_for_dark_and_bright_noise(brightest):
    rng = np.random.default_rng(brightest)
    assert_as_scikit_image(rng.integers(0, brightest + 1, (48, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("value", range(0, 256, 5))
def test_every_gray_and_primary_is_within_a_twentieth(value):
    for channel in range(3):
        bgr = np.zeros((2, 2, 3), np.uint8)
        bgr[..., channel] = value
        assert_as_scikit_image(bgr)
    assert_as_scikit_image(np.full((2, 2, 3), value, np.uint8))


def test_black_is_0_white_is_100_and_mid_gray_is_half():
    # CIE 15: L* = 116 Y^(1/3) - 16; sRGB 119 is Y = 0.1845, so L* = 50.0344.
    for value, expected in [(0, 0.0), (255, 100.0), (119, 50.0344)]:
        found = frame_lightness(np.full((4, 6, 3), value, np.uint8))
        assert (found.mean, found.p5, found.p95) == pytest.approx((expected,) * 3, abs=0.002)


def test_percentiles_tell_half_dark_from_evenly_gray():
    bgr = np.zeros((10, 10, 3), np.uint8)
    bgr[:5] = 255
    found = frame_lightness(bgr)
    assert (found.mean, found.p5, found.p95) == pytest.approx((50, 0, 100), abs=0.01)


def test_real_frames_and_the_reduced_picture(data_dir):
    """The reduced picture's mean is within 0.1 of the full frame's (docs/reference/tables.md)."""
    for name in ("bikes.mp4", "carnd_solidWhiteRight.mp4", "psd_testvideo.mp4"):
        with open_video(data_dir / "videos" / name) as video:
            for frame in list(video.frames(end_us=2_000_000))[::12]:
                full = frame.to_bgr()
                reduced = reduce_frame(full)
                assert max(reduced.shape) == 256
                assert_as_scikit_image(reduced)
                difference = frame_lightness(full).mean - frame_lightness(reduced).mean
                assert abs(difference) < 0.1
