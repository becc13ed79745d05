import sys
from fractions import Fraction
from types import SimpleNamespace
from typing import cast

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.analyze_cases import write_detections
from tests.support.video_clips import write_clip
from wtours.analyze.detectors.precomputed import PrecomputedDetector, PrecomputedFile
from wtours.analyze.detectors.server import visible_gpus
from wtours.analyze.detectors.spec import parse_detector
from wtours.analyze.detectors.yolox import COCO_LABELS, YoloxDetector
from wtours.errors import AnalysisError, MissingPackageError, UsageError, VideoError
from wtours.media.frame import Frame
from wtours.media.reader import open_video
from wtours.storage.hashing import sha256_file


@pytest.mark.parametrize(
    "text",
    [
        "detik",
        "detic:",
        "torchvision:",
        "detectron2:a.yaml",
        "onnx:",
        "file:",
        "",
        "none:x",
        "ONNX:a",
    ],
)
def test_an_unknown_detector_is_refused_with_those_that_exist(text):
    with pytest.raises(
        UsageError, match=r"onnx:PATH .*detic .*file:PATH\.parquet.* none"
    ) as caught:
        parse_detector(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


# --- YOLOX ----------------------------------------------------------------------------------------


def independent_yolox(session, bgr):
    """Detect as YOLOX's demo does, written anew: loops, explicit grids, greedy suppression."""
    height, width = bgr.shape[:2]
    ratio = min(416 / height, 416 / width)
    small = cv2.resize(bgr, (int(width * ratio), int(height * ratio)))
    padded = cv2.copyMakeBorder(
        small,
        *(0, 416 - small.shape[0], 0, 416 - small.shape[1]),
        cv2.BORDER_CONSTANT,
        value=(114, 114, 114),
    )
    blob = np.moveaxis(padded, 2, 0)[None].astype(np.float32)
    rows = iter(session.run(None, {"images": blob})[0][0].astype(np.float64))
    found = []
    for stride in (8, 16, 32):
        for y in range(416 // stride):
            for x in range(416 // stride):
                row = next(rows)
                label = int(row[5:].argmax())
                score = row[4] * row[5 + label]
                cx, cy = (row[0] + x) * stride, (row[1] + y) * stride
                w, h = np.exp(row[2]) * stride, np.exp(row[3]) * stride
                box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
                found.append((score, label, [value / ratio for value in box]))
    kept: list[tuple[float, int, list[float]]] = []
    for score, label, box in sorted(found, reverse=True):
        if score < 0.05:
            break
        if all(label != other or overlap(box, b) <= 0.45 for _, other, b in kept):
            kept.append((score, label, box))
    return [
        (score, label, np.clip(box, 0, [width, height, width, height]))
        for score, label, box in kept
    ]


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (areas - width * height)


@pytest.mark.parametrize("name", ["bikes.mp4", "vtest.avi", "camvid_0016E5_1_1hz.mp4"])
def test_yolox_equals_an_independent_run_of_the_model(data_dir, name):
    import onnxruntime as ort

    model = data_dir / "models" / "yolox_nano.onnx"
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    detector = YoloxDetector(model)
    with open_video(data_dir / "videos" / name) as video:
        frames = list(video.frames(end_us=3_000_000))[::25][:3]
    with av.open(str(data_dir / "videos" / name)) as container:
        decoded = [
            f.to_ndarray(format="bgr24")
            for _, f in zip(range(76), container.decode(video=0), strict=False)
        ]
    pictures = decoded[::25][: len(frames)]
    total = 0
    for picture, found in zip(pictures, detector.detect([f.to_bgr() for f in frames]), strict=True):
        expected = independent_yolox(session, picture)
        assert [d.label_id for d in found] == [label for _, label, _ in expected]
        assert [d.label for d in found] == [COCO_LABELS[label] for _, label, _ in expected]
        assert [d.score for d in found] == pytest.approx(
            [score for score, _, _ in expected], abs=1e-5
        )
        boxes = [(d.x0, d.y0, d.x1, d.y1) for d in found]
        assert np.allclose(boxes, [box for _, _, box in expected], atol=0.01)
        total += len(found)
    assert total >= 3


def test_yolox_sees_people_where_there_are_people(data_dir):
    detector = YoloxDetector(data_dir / "models" / "yolox_nano.onnx")
    with open_video(data_dir / "videos" / "vtest.avi") as video:
        (found,) = detector.detect([next(video.frames()).to_bgr()])
    people = [d for d in found if d.score > 0.5 and d.label == "person"]
    assert len(people) >= 3
    assert all(d.y1 - d.y0 > d.x1 - d.x0 for d in people)  # upright
    assert len(detector.facts.vocabulary) == 80


def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(AnalysisError, match="no such file"):
        YoloxDetector(path)
    path.write_text("not a model")
    with pytest.raises(AnalysisError, match=r"model\.onnx is not a model") as caught:
        YoloxDetector(path)
    assert "\n" not in str(caught.value)


def test_without_onnxruntime_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"wtours\[analyze\]"):
        YoloxDetector(tmp_path / "model.onnx")


# --- detections made elsewhere --------------------------------------------------------------------


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    write_clip(path, source="testsrc2=size=64x48:rate=10:duration=3")
    with open_video(path) as video:
        return list(video.frames())


def test_rows_go_to_the_nearest_tick_and_frame(tmp_path, frames):
    path = write_detections(
        tmp_path / "a.parquet",
        [
            (1_100_000, "far", 0.9, 0.0, 0.0, 1.0, 1.0),  # tick 1, but 0.96 s is nearer
            (960_000, "car", 0.6, 1.0, 2.0, 3.0, 4.0),
            (960_000, "dog", 0.8, 5.0, 6.0, 7.0, 8.0),
            (960_000, "dog", 0.04, 5.0, 6.0, 7.0, 8.0),  # below what is stored
            (1_500_000, "bus", 0.5, 0.0, 0.0, 1.0, 1.0),  # tick 2: half-open
        ],
        metadata={"detector": "drawn truth"},
    )
    detector = PrecomputedDetector(path, rate=Fraction(1))
    looked_up = detector.submit([frames[0], frames[10], frames[20]])
    assert [pts_us for pts_us, _ in looked_up] == [0, 1_000_000, 2_000_000]
    first, second, third = (found for _, found in looked_up)
    assert first == []
    assert [d.label for d in second] == ["dog", "car"]
    assert [d.score for d in second] == pytest.approx([0.8, 0.6])
    assert [(d.x0, d.y0, d.x1, d.y1) for d in second] == [(5, 6, 7, 8), (1, 2, 3, 4)]
    assert [d.label for d in third] == ["bus"]
    assert detector.facts.vocabulary == ("bus", "car", "dog", "far")
    assert [d.label_id for d in second] == [2, 1]
    assert detector.facts.name == "file:a.parquet (drawn truth)"


def test_a_file_that_is_replaced_gives_no_detections_of_two(tmp_path):
    def write(label):
        rows = [(seconds * 1_000_000, label, 0.9, 0.0, 0.0, 1.0, 1.0) for seconds in (0, 60)]
        return write_detections(tmp_path / "a.parquet", rows)

    path = write("cat")
    source = PrecomputedFile(path, Fraction(1), sha256_file(path))
    with source.connect() as detector:
        ((_, (first,)),) = detector.submit([cast(Frame, SimpleNamespace(pts_us=0))])
        assert first.label == "cat"
        path.unlink()
        write("cat")  # by another run of a detector
        with pytest.raises(VideoError, match=r"a\.parquet was replaced or changed"):
            detector.submit([cast(Frame, SimpleNamespace(pts_us=60_000_000))])


def test_a_folder_has_a_file_for_each_video(tmp_path):
    write_detections(tmp_path / "venice.parquet", [(0, "cat", 1.0, 0.0, 0.0, 1.0, 1.0)])
    spec = parse_detector(f"file:{tmp_path}")
    assert PrecomputedDetector(spec.file("venice"), rate=Fraction(1)).facts.vocabulary == ("cat",)
    with pytest.raises(AnalysisError, match=r"zurich\.parquet: there is no such file"):
        PrecomputedDetector(spec.file("zurich"), rate=Fraction(1))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((0, "a", 1.5, 0.0, 0.0, 1.0, 1.0), "0 <= score <= 1"),
        ((0, "a", float("nan"), 0.0, 0.0, 1.0, 1.0), "0 <= score <= 1"),
        ((-1, "a", 0.5, 0.0, 0.0, 1.0, 1.0), "pts_us >= 0"),
        ((0, "a", 0.5, 2.0, 0.0, 1.0, 1.0), "x0 <= x1"),
        ((0, "a", 0.5, 0.0, 0.0, float("inf"), 1.0), "finite"),
        ((0, None, 0.5, 0.0, 0.0, 1.0, 1.0), "missing"),
    ],
)
def test_a_value_that_cannot_be_is_refused(tmp_path, row, message):
    good = (0, "b", 0.5, 0.0, 0.0, 1.0, 1.0)
    path = write_detections(tmp_path / "a.parquet", [good, row])
    with pytest.raises(AnalysisError, match=message) as caught:
        PrecomputedDetector(path, rate=Fraction(1))
    assert str(path) in str(caught.value)


def test_a_missing_or_mistyped_column_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"pts_us": [0.5], "label": ["a"]}), path)
    with pytest.raises(AnalysisError, match=r"needs the column pts_us \(int64\)"):
        PrecomputedDetector(path, rate=Fraction(1))
    path.write_text("pts_us,label\n")
    with pytest.raises(AnalysisError, match="not a Parquet file"):
        PrecomputedDetector(path, rate=Fraction(1))


@pytest.mark.parametrize(
    ("named", "count", "expected"),
    [
        (None, 0, []),
        (None, 2, ["0", "1"]),
        ("2,3", 2, ["2", "3"]),
        ("GPU-8f6,GPU-2aa", 2, ["GPU-8f6", "GPU-2aa"]),
        ("2,3", 0, []),
    ],
)
def test_each_process_of_a_network_gets_a_gpu_of_its_own(monkeypatch, named, count, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus(count) == expected
