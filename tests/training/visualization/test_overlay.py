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
    strongest_object,
)


def test_three_objects_are_red_green_and_blue():
    np.testing.assert_allclose(object_colors(3), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(object_colors(1), [[1, 0, 0]])
    assert len(np.unique(object_colors(6).round(3), axis=0)) == 6


def test_the_colors_for_the_color_blind_are_okabe_and_itos():
    colors = object_colors(9, "colorblind") * 255
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


def test_the_smooth_overlay_shows_the_strongest_object_and_the_frame_where_there_is_none():
    frame = np.full((64, 64, 3), 100, np.uint8)
    maps = np.zeros((3, 16))
    maps[0, 0], maps[1, 0], maps[2, 15] = 1, 0.4, 1  # red above green, and blue
    picture = strongest_object(frame, maps).astype(int)
    red, none, blue = picture[4, 4], picture[4, 60], picture[60, 60]
    assert red[0] > 200
    assert max(red[1:]) < 40
    assert none.tolist() == [100, 100, 100]
    assert blue[2] > 200
    # Smooth: no step from pixel to pixel as large as at the edge of a patch.
    assert np.abs(np.diff(picture[8, :, 0])).max() < 40


def test_the_legend_names_each_object_beside_its_color():
    picture = np.zeros((40, 600, 3), np.uint8)
    legend = [("object 1", (1, 0, 0)), ("object 2", (0, 0, 1))]
    grid = np.asarray(draw_grid("title", ["a"], [Row(["row"], [picture])], legend))
    head = grid[:HEADER]
    reds, blues = (np.argwhere((head == color).all(axis=2)) for color in ((255, 0, 0), (0, 0, 255)))
    assert len(reds) == len(blues) > 100
    between = head[:, reds[:, 1].max() + 3 : blues[:, 1].min() - 3]
    assert (between < 100).any()  # the name


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
