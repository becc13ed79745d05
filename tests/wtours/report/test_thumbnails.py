import numpy as np
import pytest

from tests.support.report_workspace import add_analysis, add_video, entry
from wtours.report.curves import average_over_time, classes_over_time
from wtours.report.data import load_videos
from wtours.report.style import CLASS_COLORS, DARK, LIGHT
from wtours.report.thumbnails import box_on, choose_moments, long_side, spread
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    layout = Layout(tmp_path_factory.mktemp("workspace"))
    add_video(layout, "alpha")
    add_analysis(layout, "alpha", detections=[(0, "person", 0.9)])
    (video,) = load_videos(layout, [entry("alpha")], threshold=0.3)
    return video.measured


def test_moments_are_frames_that_the_detector_looked_at_the_cut_the_extremes_and_the_shots(
    measured,
):
    moments = choose_moments(measured)
    assert [(moment.group, *moment.frames) for moment in moments] == [
        *(("spaced", frame) for frame in (0, 10, 20, 30)),
        ("cuts", 19, 20),  # the cut at 2 s
        ("extremes", 20),  # lightness 70 from there on
        ("extremes", 0),
        ("shots", 10),
        ("shots", 30),
    ]
    assert [moment.caption for moment in moments[4:7]] == [
        "cut at 0:00:02.0",
        "lightest second, mean L* 70.0, frame at 0:00:02.0",
        "darkest second, mean L* 20.0, frame at 0:00:00.0",
    ]


def test_a_box_is_where_it_is_in_the_reduced_image_and_never_outside_of_it():
    box = {"x0": 20.0, "y0": 40.0, "x1": 100.0, "y1": 110.0}
    assert box_on(box, 0.5, (80, 60)) == (10, 20, 50, 55)
    outside = {"x0": 500.0, "y0": -40.0, "x1": 500.0, "y1": 9e9}
    assert box_on(outside, 1.0, (80, 60)) == (79, 0, 79, 59)


def test_of_too_many_the_first_the_last_and_evenly_chosen_ones_are_shown():
    assert spread(list(range(9)), 5) == [0, 2, 4, 6, 8]
    assert spread([1, 2], 5) == [1, 2]


def test_a_series_is_averaged_over_equal_spans_and_skips_empty_ones():
    pts_us = np.array([0, 500_000, 1_000_000, 3_200_000])
    series = average_over_time(pts_us, np.array([1, 3, 10, 20]), span_us=1e6)
    assert series.seconds.tolist() == pytest.approx([0.5, 1.5, 3.5])
    assert series.values.tolist() == [2, 10, 20]


def test_single_classes_are_averaged_over_the_frames_looked_at(tmp_path):
    layout = Layout(tmp_path)
    add_video(layout, "alpha")
    rows = [(0, "dog", 0.9), (0, "dog", 0.8), (0, "dog", 0.2), (10, "car", 0.9), (30, "dog", 0.9)]
    add_analysis(layout, "alpha", detections=rows)
    detected_us = np.array([0, 1_000_000, 2_000_000, 3_000_000])
    found = classes_over_time(
        layout.analysis_dir("alpha") / "detections.parquet",
        detected_us,
        ["dog", "tree", "car"],
        threshold=0.3,
        span_us=2e6,
    )
    assert {label: values.tolist() for label, values in found.items()} == {
        "dog": [1.0, 0.5],
        "tree": [0.0, 0.0],
        "car": [0.5, 0.0],
    }


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(c * weight for c, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_names_can_be_read_in_each_color_and_boxes_told_from_the_paper(theme):
    assert len(set(theme.colors)) == 10  # the Walking Tours: no color twice
    assert min(contrast(color, theme.paper) for color in (*theme.colors, theme.faint)) >= 4.5
    assert min(contrast(color, theme.paper) for color in CLASS_COLORS) >= 3


def test_the_pictures_of_a_page_of_many_videos_are_smaller():
    assert [long_side(number) for number in (1, 4, 5, 10)] == [640, 640, 400, 400]
