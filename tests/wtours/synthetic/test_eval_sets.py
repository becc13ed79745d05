"""Labeled sets of rendered walks, read back by the readers of the real data sets."""

import numpy as np
import pytest

from training.evaluation.datasets.davis import list_sequences
from training.evaluation.datasets.voc import VocFolder
from wtours.synthetic import WalkSpec, load_truth, render_walk
from wtours.synthetic.eval_sets import publish_eval_sets


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rendered")
    for name, seed in (("first", 1), ("second", 2)):
        spec = WalkSpec(seconds=2, width=320, height=180, frame_rate=10, seed=seed)
        render_walk(spec, folder / f"{name}.mp4", truth_path=folder / "truth" / name)
    publish_eval_sets(folder, train=["first"], val="second")
    return folder


def test_a_voc_box_is_the_bounds_of_its_mask(rendered):
    voc = VocFolder(rendered / "voc", "Segmentation/val")
    truth = load_truth(rendered / "truth" / "second").detections.to_pylist()
    for number, name in enumerate(voc.names):
        image = voc.read(name)
        rows = [row for row in truth if row["pts_us"] == number * 1_000_000]
        assert image.image.size == (160, 90)
        assert len(image.boxes) == len(rows) > 0
        assert image.objects is not None
        rows_of, columns = np.nonzero(image.objects)
        bounds = (columns.min(), rows_of.min(), columns.max() + 1, rows_of.max() + 1)
        union = (*image.boxes[:, :2].min(axis=0), *image.boxes[:, 2:].max(axis=0))
        assert np.abs(np.subtract(bounds, union)).max() <= 1  # every second pixel is kept
        assert (bounds[0] >= union[0], bounds[2] <= union[2]) == (True, True)


def test_an_object_of_a_davis_sequence_keeps_its_number(rendered):
    first, *_ = list_sequences(rendered / "davis", "val")
    assert len(first.frames) == len(first.masks) == 6
    numbers = [set(np.unique(first.read_mask(n))) - {0} for n in range(6)]
    assert numbers[0]
    assert all(each <= numbers[0] for each in numbers)  # only the first frame's objects


def test_ade20k_has_a_label_picture_for_each_image_and_one_class_for_each_word(rendered):
    from training.data.image_decoding import decode_indices

    seen = set()
    for split, count in (("training", 2), ("validation", 2)):
        images = sorted((rendered / "ade20k" / "images" / split).iterdir())
        labels = sorted((rendered / "ade20k" / "annotations" / split).iterdir())
        assert [p.stem for p in images] == [p.stem for p in labels]
        assert len(images) == count
        for path in labels:
            seen |= set(np.unique(decode_indices(path.read_bytes(), what=path.name)))
    truth = [load_truth(rendered / "truth" / name).detections for name in ("first", "second")]
    words = {
        row["label"]
        for table in truth
        for row in table.to_pylist()
        if row["pts_us"] % 1_000_000 == 0
    }
    assert seen - {0} <= set(range(1, len(words) + 1))
