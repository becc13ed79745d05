import av
import cv2
import numpy as np
import pytest

from tests.support.video_clips import write_clip
from wtours.analyze.downscale import FrameReducer, reduce_frame
from wtours.media.frame import Frame, Orientation
from wtours.media.reader import open_video

# As AVCOL_SPC_* and AVCOL_RANGE_*: BT.601, BT.709, BT.2020; limited and full.
COLORS = [(5, 1), (1, 1), (1, 2), (9, 1), (2, 0)]


def noise(size, color=(2, 0), pixel_format="yuv420p", seed=1):
    width, height = size
    picture = av.VideoFrame(width, height, pixel_format)
    picture.colorspace, picture.color_range = color
    rng = np.random.default_rng(seed)
    for plane in picture.planes:
        plane.update(rng.integers(0, 256, plane.buffer_size, dtype=np.uint8).tobytes())
    return Frame(picture, pts_us=0)


def as_pyscenedetect_does(frame):
    """Return the picture from the whole frame, with the library's formula written anew."""
    bgr = frame.picture.to_ndarray(format="bgr24")
    factor = max(bgr.shape[:2]) / 256
    size = (round(bgr.shape[1] / factor), round(bgr.shape[0] / factor))
    return cv2.resize(bgr, size, interpolation=cv2.INTER_LINEAR)


def refuse_the_whole_frame(monkeypatch):
    def whole(self):
        raise AssertionError("the whole frame was converted")

    monkeypatch.setattr(Frame, "to_bgr", whole)


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("size", [(1920, 1080), (3840, 2160), (2560, 1440), (1080, 1920)])
def test_of_a_large_frame_only_some_rows_are_converted_to_the_same_bytes(size, color, monkeypatch):
    frame = noise(size, color)
    expected = as_pyscenedetect_does(frame)
    refuse_the_whole_frame(monkeypatch)
    assert np.array_equal(FrameReducer().reduce(frame), expected)


@pytest.mark.parametrize(
    ("size", "pixel_format"),
    [
        ((1280, 720), "yuv420p"),
        ((1921, 1080), "yuv420p"),
        ((1920, 1081), "yuv420p"),
        ((3838, 1606), "yuv420p"),
        ((1920, 1080), "yuv420p10le"),
        ((1920, 1080), "yuv444p"),
        ((1920, 1080), "nv12"),
    ],
)
def test_any_other_frame_gives_the_same_bytes_too(size, pixel_format):
    frame = noise(size, pixel_format=pixel_format)
    assert np.array_equal(FrameReducer().reduce(frame), as_pyscenedetect_does(frame))


def test_a_reducer_follows_a_change_of_size_and_color():
    reducer = FrameReducer()
    for seed, (size, color) in enumerate(
        [
            ((1920, 1080), (1, 1)),
            ((1920, 1080), (5, 2)),
            ((160, 90), (1, 1)),
            ((3840, 2160), (1, 1)),
        ]
    ):
        frame = noise(size, color, seed=seed)
        expected = reduce_frame(frame.picture.to_ndarray(format="bgr24"))
        assert np.array_equal(reducer.reduce(frame), expected)


@pytest.mark.medium
@pytest.mark.parametrize(
    "options", [{}, {"flags": "+ildct+ilme", "filters": "setfield=tff"}], ids=["plain", "fields"]
)
def test_frames_of_a_film_give_the_same_bytes(tmp_path, options):
    path = write_clip(
        tmp_path / "a.mp4", source="testsrc2=size=1920x1080:rate=10:duration=0.5", **options
    )
    reducer = FrameReducer()
    with open_video(path) as video:
        frames = list(video.frames())
    assert frames[0].is_plain != bool(options)
    for frame in frames:
        expected = reduce_frame(frame.to_bgr()) if options else as_pyscenedetect_does(frame)
        assert np.array_equal(reducer.reduce(frame), expected)


def test_a_picture_that_lies_on_its_side_is_turned_first():
    frame = noise((1920, 1080))
    turned = Frame(frame.picture, pts_us=0, orientation=Orientation(True, False, True))
    upright = np.ascontiguousarray(np.rot90(frame.picture.to_ndarray(format="bgr24")))
    assert np.array_equal(FrameReducer().reduce(turned), reduce_frame(upright))
    assert turned.size == (1080, 1920)


def test_small_pictures_are_not_enlarged():
    bgr = np.zeros((100, 200, 3), np.uint8)
    assert reduce_frame(bgr) is bgr
    assert reduce_frame(np.zeros((720, 1280, 3), np.uint8)).shape == (144, 256, 3)
    assert reduce_frame(np.zeros((1280, 720, 3), np.uint8)).shape == (256, 144, 3)
