"""YOLOX through onnxruntime, on the CPU: 80 COCO classes.

The model is one exported by YOLOX's `tools/export_onnx.py` without `--decode_in_inference`: input
(1, 3, H, W) float32 BGR 0..255, the image at the upper left and 114 elsewhere; output
(1, H*W*(1/64 + 1/256 + 1/1024), 85): for each cell of the grids of stride 8, 16 and 32, the box
(center as an offset from the cell, log size, in strides), objectness, and 80 class scores.
Source: github.com/Megvii-BaseDetection/YOLOX, demo/ONNXRuntime.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wtours.analyze.detectors.base import STORE_THRESHOLD, Colors, Detection
from wtours.analyze.schema import DetectorFacts
from wtours.errors import AnalysisError, MissingPackageError
from wtours.storage.hashing import sha256_file, unchanged
from wtours.text import first_line

NMS_IOU = 0.45
"""Of two boxes of one class that overlap by more, the one with the lower score is dropped."""
_STRIDES = (8, 16, 32)
_PADDING = 114

COCO_LABELS = tuple(
    """
    person/bicycle/car/motorcycle/airplane/bus/train/truck/boat/traffic light/fire hydrant/
    stop sign/parking meter/bench/bird/cat/dog/horse/sheep/cow/elephant/bear/zebra/giraffe/
    backpack/umbrella/handbag/tie/suitcase/frisbee/skis/snowboard/sports ball/kite/baseball bat/
    baseball glove/skateboard/surfboard/tennis racket/bottle/wine glass/cup/fork/knife/spoon/bowl/
    banana/apple/sandwich/orange/broccoli/carrot/hot dog/pizza/donut/cake/chair/couch/potted plant/
    bed/dining table/toilet/tv/laptop/mouse/remote/keyboard/cell phone/microwave/oven/toaster/sink/
    refrigerator/book/clock/vase/scissors/teddy bear/hair drier/toothbrush
    """.strip()
    .replace("/\n    ", "/")
    .split("/")
)


class YoloxDetector:
    """A YOLOX model file.

    A detection is a cell with its best class (one cell counts once), score = objectness x class
    score, suppressed within its class by `NMS_IOU`, and cut off at the image's edge.

    Raises:
        AnalysisError: the file is missing or is not such a model.
        MissingPackageError: onnxruntime is not installed.
    """

    batch_size = 1
    colors: Colors = "bgr"

    def __init__(self, path: Path) -> None:
        with unchanged(path):
            self._session, self.versions = _open_session(path)
            weights_sha256 = sha256_file(path)
        model_input = self._session.get_inputs()[0]
        self._input_name = model_input.name
        self._height, self._width = _input_size(path, model_input.shape)
        self._cells, self._cell_strides = _grid(self._height, self._width)
        expected = (1, len(self._cells), 5 + len(COCO_LABELS))
        found = self._session.run(None, {self._input_name: self._blank()[None]})[0].shape
        if found != expected:
            raise AnalysisError(
                f"{path} gives {found}, not {expected}: export a YOLOX model of COCO's 80 classes "
                f"without --decode_in_inference"
            )
        self.facts = DetectorFacts(
            name=f"onnx:{path.name}",
            weights_sha256=weights_sha256,
            vocabulary=COCO_LABELS,
            threshold=STORE_THRESHOLD,
        )

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Detection]]:
        """Return each image's detections, highest score first."""
        return list(map(self._detect, images))

    def _detect(self, bgr: NDArray[np.uint8]) -> list[Detection]:
        pixels, scale = self._letterbox(bgr)
        output = self._session.run(None, {self._input_name: pixels[None]})[0][0]
        class_scores = output[:, 4:5] * output[:, 5:]
        labels = class_scores.argmax(axis=1)
        scores = class_scores[np.arange(len(labels)), labels]
        kept = np.flatnonzero(scores >= STORE_THRESHOLD)
        strides, raw = self._cell_strides[kept, None], output[kept, :4]
        centers = (raw[:, :2] + self._cells[kept]) * strides
        halves = np.exp(raw[:, 2:]) * strides / 2
        corners = np.concatenate([centers - halves, centers + halves], axis=1)
        boxes = np.asarray(corners / np.float32(scale), dtype=np.float32)
        labels, scores = labels[kept], scores[kept]
        order = _suppress(boxes, scores, labels)
        height, width = bgr.shape[:2]
        boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
        return [
            Detection(
                COCO_LABELS[labels[i]], int(labels[i]), float(scores[i]), *map(float, boxes[i])
            )
            for i in order
        ]

    def _letterbox(self, bgr: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
        """Return the (3, H, W) float32 input and how much the image was scaled."""
        height, width = bgr.shape[:2]
        scale = min(self._height / height, self._width / width)
        size = (int(width * scale), int(height * scale))
        pixels = self._blank()
        resized = cv2.resize(bgr, size, interpolation=cv2.INTER_LINEAR)
        pixels[:, : size[1], : size[0]] = np.asarray(resized).transpose(2, 0, 1)
        return pixels, scale

    def _blank(self) -> NDArray[np.float32]:
        return np.full((3, self._height, self._width), _PADDING, np.float32)


def _suppress(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], labels: NDArray[np.int64]
) -> list[int]:
    """Return the indices that class-wise non-maximum suppression keeps, highest score first."""
    if len(boxes) == 0:
        return []
    x0y0_size = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    kept = cv2.dnn.NMSBoxesBatched(
        x0y0_size.tolist(), scores.tolist(), labels.tolist(), 0.0, NMS_IOU
    )
    return sorted((int(i) for i in kept), key=lambda i: (-scores[i], i))


def _open_session(path: Path) -> tuple[Any, dict[str, str]]:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingPackageError("onnxruntime", "analyze", f"the detector onnx:{path}") from error
    if not path.is_file():
        raise AnalysisError(f"detector onnx:{path}: there is no such file; check the path")
    options = ort.SessionOptions()
    # One thread: --jobs is what spreads the work, and sums come out in one order.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise AnalysisError(
            f"detector onnx:{path} is not a model that onnxruntime can load: {first_line(error)}"
        ) from error
    return session, {"onnxruntime": ort.__version__}


def _input_size(path: Path, shape: Sequence[int | str]) -> tuple[int, int]:
    match list(shape):
        case [1, 3, int(height), int(width)] if height % 32 == 0 and width % 32 == 0:
            return height, width
    raise AnalysisError(
        f"{path} takes {list(shape)}, not (1, 3, H, W) with sides of 32 pixels times n"
    )


def _grid(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the (n, 2) x, y of every cell in its own grid, and the (n,) strides."""
    cells, strides = [], []
    for stride in _STRIDES:
        rows, columns = height // stride, width // stride
        y, x = np.mgrid[:rows, :columns]
        cells.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        strides.append(np.full(rows * columns, stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)
