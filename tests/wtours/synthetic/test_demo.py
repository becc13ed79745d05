"""What the demo makes of its rendered walks."""

from collections import defaultdict
from typing import Any

import numpy as np

from wtours.synthetic.demo import _CROPS_PER_LABEL, _MIN_CROP_PIXELS, Crops, _add_crops


def test_a_label_of_which_all_boxes_are_too_small_has_no_crops():
    rgb = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    side = _MIN_CROP_PIXELS
    assert side <= 60
    whole: dict[str, Any] = {"label": "car", "x0": 2, "y0": 3, "x1": 2 + side, "y1": 3 + side}
    small: dict[str, Any] = {"label": "bicycle", "x0": 0, "y0": 0, "x1": side, "y1": side - 1}
    crops: Crops = defaultdict(list)
    for _ in range(_CROPS_PER_LABEL + 2):
        _add_crops(crops, rgb, [small, whole])
    assert list(crops) == ["car"]  # a folder without an image would be a class that nothing is of
    assert len(crops["car"]) == _CROPS_PER_LABEL
    assert np.array_equal(crops["car"][0], rgb[3 : 3 + side, 2 : 2 + side])
