import av
import numpy as np
import pytest

from wtours.media.encode import open_encoder

GRAY = np.full((31, 45, 3), 128, np.uint8)


def write_gray(path, **options):
    with open_encoder(path, size=(45, 31), frame_rate=0.5, **options) as write:
        write(GRAY)
        write(GRAY)
    with av.open(path) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def test_an_odd_size_gets_a_white_edge_and_slow_frames_are_repeated(tmp_path):
    frames = write_gray(tmp_path / "gray.mp4", output_rate=5)
    assert len(frames) == 20  # two frames of two seconds
    assert frames[0].shape == (32, 46, 3)
    assert abs(int(frames[0][15, 20, 0]) - 128) <= 8
    assert frames[0][31, 45].min() > 200


def test_equal_frames_give_equal_bytes(tmp_path):
    write_gray(tmp_path / "a.mp4")
    write_gray(tmp_path / "b.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_frame_of_another_size_is_refused_not_sheared(tmp_path):
    with (
        pytest.raises(ValueError, match=r"\(45, 31, 3\), not \(31, 45, 3\)"),
        open_encoder(tmp_path / "x.mp4", size=(45, 31), frame_rate=5) as write,
    ):
        write(GRAY.transpose(1, 0, 2))
