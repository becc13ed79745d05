import numpy as np
import pytest

from tests.support.report_workspace import add_analysis, add_video, entry
from wtours.report.data import load_videos
from wtours.report.figure2 import average_over_time
from wtours.report.thumbnails import choose_moments, draw_detections
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    layout = Layout(tmp_path_factory.mktemp("workspace"))
    add_video(layout, "alpha")
    add_analysis(layout, "alpha", detections=[(0, "person", 0.9)])
    (video,) = load_videos(layout, [entry("alpha")], threshold=0.3)
    return video.measured


def test_moments_are_the_cut_the_extremes_and_frames_that_the_detector_looked_at(measured):
    moments = choose_moments(measured)
    assert [moment.frames for moment in moments] == [
        (19, 20),  # the cut at 2 s
        (20,),  # lightness 70 from there on
        (0,),
        (0,),
        (10,),
        (20,),
        (30,),
    ]
    assert moments[0].caption == "cut at 0:00:02.0"
    assert moments[1].caption == "lightest second, mean L* 70.0, frame at 0:00:02.0"
    assert moments[2].caption == "darkest second, mean L* 20.0, frame at 0:00:00.0"


def test_a_box_is_drawn_where_it_is_in_the_reduced_picture():
    gray = np.full((60, 80, 3), 128, np.uint8)
    box = {"label": "car", "score": 0.9, "x0": 20.0, "y0": 40.0, "x1": 100.0, "y1": 110.0}
    drawn = draw_detections(gray, [box], scale=0.5, colors={"car": "#ff0000"})
    red = np.argwhere((drawn == (255, 0, 0)).all(axis=2))
    below_label = red[red[:, 0] >= 21]
    assert below_label.min(axis=0).tolist() == [21, 10]
    assert below_label.max(axis=0).tolist() == [55, 50]
    assert (gray == 128).all()
    assert (drawn[30, 30] == 128).all()


def test_a_label_that_would_hide_a_better_one_is_left_out():
    gray = np.full((60, 80, 3), 128, np.uint8)
    box = {"label": "car", "score": 0.9, "x0": 10.0, "y0": 30.0, "x1": 60.0, "y1": 50.0}
    worse = {**box, "label": "bus", "score": 0.5, "x0": 14.0}
    both = draw_detections(gray, [worse, box], scale=1.0, colors={"car": "#ff0000", "bus": "#00f"})
    alone = draw_detections(gray, [box], scale=1.0, colors={"car": "#ff0000"})
    assert (both[:29] == alone[:29]).all()  # above the boxes: the label of the better one only
    assert (both[40, 14] == (0, 0, 255)).all()


def test_boxes_outside_the_picture_and_without_extent_are_drawn_at_its_edge():
    gray = np.full((60, 80, 3), 128, np.uint8)
    box = {"label": "car", "score": 0.9, "x0": 500.0, "y0": -40.0, "x1": 500.0, "y1": 9e9}
    drawn = draw_detections(gray, [box], scale=1.0, colors={"car": "#ff0000"})
    assert (drawn[30:59, 79] == (255, 0, 0)).all()


def test_a_series_is_averaged_over_equal_spans_and_skips_empty_ones():
    pts_us = np.array([0, 500_000, 1_000_000, 3_200_000])
    series = average_over_time(pts_us, np.array([1, 3, 10, 20]), span_us=1e6)
    assert (series.minutes * 60).tolist() == pytest.approx([0.5, 1.5, 3.5])
    assert series.values.tolist() == [2, 10, 20]
