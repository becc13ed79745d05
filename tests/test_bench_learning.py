"""What bench_learning computes besides the training: masks against instances, rows, the table."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from benchmarks.bench_learning import learning_rows
from benchmarks.learning.data import CAMVID, frames_of, write_davis
from benchmarks.learning.measures import best_fits, instance_map, means_of_last
from benchmarks.learning.page import PAGE, read_table, table
from benchmarks.learning.runs import CLIPS, DINO, DORA, METHODS, RANDOM, VARIANTS, command, runs_of
from training.config.presets import resolve_config
from training.data.image_decoding import crop_center, resize_for
from training.evaluation.datasets.davis import list_sequences
from wtours.synthetic import WalkSpec, load_truth, render_walk

pytestmark = pytest.mark.medium  # imports torch, renders a walk: left out of the inner loop


def of_seed(iou, accuracy, local=6.8, mean=6.93, overlap=0.9):
    score = {
        "mean_iou_percent": iou,
        "mean_accuracy_percent": 30.0,
        "pixel_accuracy_percent": accuracy,
    }
    readouts = ("linear", "linear_with_position", "position_alone", "dense_knn")
    return {
        "segment": dict.fromkeys(readouts, score),
        "vos_walk": 48.0,
        "masks": {"instance_iou": 0.04, "whole_frame_iou": 0.06, "overlap": overlap},
        "training": {"loss_local": local, "teacher_mean_entropy": mean},
    }


def measured(dora_iou=21.0, dora_accuracy=67.0, local=6.8):
    return {
        RANDOM.label: [of_seed(18.0, 62.0), of_seed(19.0, 64.0)],
        DINO.label: [of_seed(21.0, 66.0), of_seed(22.0, 66.0)],
        DORA.label: [
            of_seed(dora_iou - 1, dora_accuracy, local),
            of_seed(dora_iou + 1, dora_accuracy, local),
        ],
    }


def test_a_mask_fits_the_object_with_the_highest_iou_over_all_frames():
    instances = np.zeros((2, 2, 4), np.int32)
    instances[0, 0] = [1, 1, 2, 2]
    instances[1, 0] = [1, 1, 0, 0]
    mask = np.zeros((1, 2, 2, 4), np.bool_)
    mask[0, :, 0, :3] = True  # 6 pixels: 4 of object 1's 4, 1 of object 2's 2

    assert best_fits(mask, instances) == [pytest.approx(4 / 6)]
    assert best_fits(mask, np.zeros_like(instances)) == []


def test_true_objects_go_through_the_crop_that_the_frames_go_through(tmp_path):
    spec = WalkSpec(seconds=4, width=160, height=90, frame_rate=Fraction(1), seed=3)
    render_walk(spec, tmp_path / "walk.mp4", truth_path=tmp_path / "truth")
    truth = load_truth(tmp_path / "truth")
    frames = list(frames_of(tmp_path / "walk.mp4"))
    numbers = {row["track_id"] for row in truth.detections.to_pylist() if row["frame_index"] == 2}
    largest = max(numbers, key=lambda number: truth.mask(2, number).sum())
    white = np.uint8(255) * truth.mask(2, largest)[..., None].repeat(3, -1)

    found = instance_map(truth, 2, 32) == largest

    cropped = crop_center(Image.fromarray(white), resize_pixels=resize_for(32), crop_pixels=32)
    assert frames[2].shape == white.shape
    clear = (cropped[..., 0] < 64) | (cropped[..., 0] > 192)  # but for blurred outlines
    assert (found == (cropped[..., 0] > 128))[clear].mean() > 0.97
    assert found.any()


def test_means_are_of_the_last_tenth_of_the_steps():
    rows = [{"loss_local": float(step)} for step in range(40)]

    assert means_of_last(rows, ["loss_local"]) == {"loss_local": 37.5}


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        ({}, []),
        ({"dora_iou": 20.4}, [0, 3]),  # 1.9 over random weights, 1.1 below DINO
        ({"dora_accuracy": 65.9}, [1]),
        ({"local": 6.84}, [2]),
    ],
)
def test_a_row_holds_from_its_goal_on(change, fails):
    rows = learning_rows(measured(**change))

    assert [number for number, row in enumerate(rows[:4]) if not row.holds] == fails
    assert all(row.holds is None for row in rows[4:])


def test_the_table_has_means_and_spreads():
    text = table(measured(), what=CAMVID, num_clips=2240)

    lines = text.splitlines()
    assert lines[2] == "| | random weights (2) | DINO (2) | DORA, k = 3 (2) |"
    assert lines[4] == "| mIoU | 18.50 ± 0.71 | 21.50 ± 0.71 | 21.00 ± 1.41 |"
    assert "| CIFAR k-NN, k = 20 | - | - | - |" in lines


def test_every_run_is_a_config_that_the_trainer_takes(tmp_path):
    runs = runs_of((*METHODS, *VARIANTS), tmp_path)

    assert [run.run_dir.name for run in runs if run.method in (DORA, DINO)] == [
        *("dino-0", "dora-0", "dino-1", "dora-1", "dino-2", "dora-2"),
    ]
    for run in runs:
        words = command(run, tmp_path)
        overrides = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        config = resolve_config("demo", None, overrides)
        assert config.optim.steps == CLIPS // 4
        assert config.seed == run.seed
    assert len(runs) == 3 * len(METHODS[1:]) + sum(len(method.seeds) for method in VARIANTS)


def test_the_figure_reads_the_table_that_stands_on_the_page():
    begin, end = f"<!-- bench-learning, {CAMVID}: begin -->\n", "<!-- bench-learning: end -->\n"
    text = table(measured(), what=CAMVID, num_clips=2240)
    methods, rows = read_table(f"before | x |\n{begin}{text}{end}| after | y |\n")
    assert methods[0] == f"{RANDOM.label} (2)"
    assert rows["mIoU"][0] == (18.5, 0.71)  # 18 and 19
    assert rows["CIFAR k-NN, k = 20"][0] is None
    methods, rows = read_table(PAGE.read_text())
    assert {len(cells) for cells in rows.values()} == {len(methods)}


def test_sequences_follow_the_objects_of_their_first_frame(tmp_path):
    frames = [np.full((40, 60, 3), number, np.uint8) for number in range(30)]
    masks = np.zeros((30, 40, 60), np.int32)
    masks[:, :20, :20], masks[:, 39, 59] = 7, 5  # one too small to be followed
    masks[1:, 20:, :] = 9  # not there in the first frame

    write_davis(tmp_path / "davis", frames, masks)

    (sequence,) = list_sequences(tmp_path / "davis", "val")  # the second has five frames
    assert len(sequence.frames) == 25
    assert sequence.read_frame(3).shape == (192, 288, 3)
    for number in (0, 24):
        found = sequence.read_mask(number)
        assert set(np.unique(found)) == {0, 1}
        assert (found == 1).mean() == pytest.approx(masks[0, :20, :20].size / masks[0].size)
