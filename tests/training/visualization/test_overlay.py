import numpy as np
import pytest

from training.visualization.overlay import (
    GAP,
    HEADER,
    MARGIN,
    Row,
    draw_grid,
    object_colors,
    overlay,
    stretched,
)


def test_three_objects_are_red_green_and_blue():
    np.testing.assert_allclose(object_colors(3), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(object_colors(1), [[1, 0, 0]])
    assert len(np.unique(object_colors(6).round(3), axis=0)) == 6


def test_the_colors_for_the_color_blind_are_okabe_and_itos():
    colors = object_colors(9, "colourblind") * 255
    assert colors[:3].tolist() == [[213, 94, 0], [86, 180, 233], [240, 228, 66]]
    assert len(np.unique(colors, axis=0)) == 7
    # Without hue they still differ: in lightness, by Rec. 709's weights.
    lightness = np.sort(colors[:3] @ [0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > 40).all()


def test_a_map_is_stretched_to_run_from_0_to_1():
    maps = np.array([[2.0, 4.0, 3.0], [5.0, 5.0, 5.0]])
    assert stretched(maps).tolist() == [[0, 1, 0.5], [0, 0, 0]]


def test_a_patch_of_the_overlay_is_two_fifths_frame_and_three_fifths_color():
    frame = np.full((4, 4, 3), 100, np.uint8)
    maps = np.array([[1, 0, 0, 0.5], [1, 0, 1, 0], [0, 0, 0, 0.25]])  # (O, N), 2 x 2 patches
    picture = overlay(frame, maps)
    assert picture.dtype == np.uint8
    assert picture[0, 0].tolist() == [193, 193, 40]  # red and green: yellow
    assert picture[1, 1].tolist() == [193, 193, 40]
    assert picture[0, 2].tolist() == [40, 40, 40]
    assert picture[3, 0].tolist() == [40, 193, 40]
    assert picture[3, 3].tolist() == [116, 40, 78]


def test_colors_that_add_up_to_more_than_white_are_white_at_most():
    picture = overlay(np.zeros((2, 2, 3), np.uint8), np.ones((6, 1)))
    assert (picture == 153).all()


def test_a_grid_has_each_picture_at_its_place_and_its_labels_beside():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 3, 60, 80, 3), dtype=np.uint8)
    rows = [
        Row([f"row {number}", "second line"], list(of_row))
        for number, of_row in enumerate(pictures)
    ]
    grid = np.asarray(draw_grid("title", ["a", "b", "c"], rows))

    assert grid.shape == (HEADER + 2 * (60 + GAP), MARGIN + 3 * (80 + GAP), 3)
    for row in range(2):
        for column in range(3):
            top, left = HEADER + row * (60 + GAP), MARGIN + column * (80 + GAP)
            np.testing.assert_array_equal(
                grid[top : top + 60, left : left + 80], pictures[row, column]
            )
    assert (grid[:HEADER, MARGIN + 84 : MARGIN + 164] < 128).any()  # "b"
    assert (grid[HEADER + 64 :, :MARGIN] < 128).any()  # "row 1"


@pytest.mark.parametrize("num_objects", [2, 3, 16])
def test_any_number_of_objects_is_drawn(num_objects):
    maps = stretched(np.random.default_rng(0).random((num_objects, 16)))
    assert overlay(np.zeros((8, 8, 3), np.uint8), maps).shape == (8, 8, 3)
