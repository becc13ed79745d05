"""Any detectron2 model from the user's own installation, Detic's official ones among them.

detectron2 is not on PyPI, so it is no dependency: docs/howto/detectors.md has the steps. Its
modules are imported by name, because no type checker can find them.
"""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wtours.analyze.detectors.base import STORE_THRESHOLD
from wtours.analyze.detectors.torch_base import Found, TorchDetector, best_device, require_torch
from wtours.analyze.schema import DetectorFacts
from wtours.errors import AnalysisError
from wtours.storage.hashing import sha256_file, unchanged
from wtours.text import docs_page, first_line

_DETIC_VOCABULARY = "lvis_v1_val"
"""In place of the config's own test sets, as with `demo.py --vocabulary lvis`."""
_DETIC_CLASSIFIER = "datasets/metadata/lvis_v1_clip_a+cname.npy"
"""In Detic's checkout: CLIP embeddings of LVIS's class names."""


def load_detectron2(config: Path, weights: Path) -> TorchDetector:
    """Return the model of a detectron2 config with its weights.

    Where Detic's checkout is importable, its configs are understood, and its models get the LVIS
    vocabulary and one class for each proposal, as its demo.py does.

    Raises:
        AnalysisError: detectron2 is not installed, or the config or the weights cannot be used.
        MissingPackageError: torch is not installed.
    """
    require_torch("the detector detectron2")
    if find_spec("detectron2") is None:
        raise AnalysisError(
            "detector detectron2: the package detectron2 is not installed; it is built from "
            f"source: see {docs_page('howto/detectors')}"
        )
    for path in (config, weights):
        if not path.is_file():
            raise AnalysisError(f"detector detectron2: there is no file {path}; check the path")
    try:
        with unchanged(config), unchanged(weights):
            settings = _settings(config)
            model, vocabulary = _build(settings, weights)
            # Of the file alone, not of those that it names.
            settings_sha256, weights_sha256 = sha256_file(config), sha256_file(weights)
    except Exception as error:  # detectron2 raises what it likes: KeyError, AssertionError, ...
        reason = first_line(error)
        raise AnalysisError(
            f"detector detectron2: {config} with {weights} cannot be used: {reason}"
        ) from error
    return TorchDetector(
        facts=DetectorFacts(
            name=f"detectron2:{config.name},{weights.name}",
            weights_sha256=weights_sha256,
            settings_sha256=settings_sha256,
            vocabulary=vocabulary,
            threshold=STORE_THRESHOLD,
            max_per_frame=settings.TEST.DETECTIONS_PER_IMAGE,
        ),
        versions={"detectron2": import_module("detectron2").__version__},
        model=model,
        infer=_Inference(settings),
    )


class _Inference:
    """Runs a model as detectron2's DefaultPredictor does, on several images at a time."""

    def __init__(self, settings: Any) -> None:
        transforms = import_module("detectron2.data.transforms")
        side, most = settings.INPUT.MIN_SIZE_TEST, settings.INPUT.MAX_SIZE_TEST
        self._resize = transforms.ResizeShortestEdge([side, side], most)
        self._is_rgb = settings.INPUT.FORMAT == "RGB"

    def __call__(self, model: Any, pictures: Sequence[NDArray[np.uint8]]) -> list[Found]:
        import torch

        inputs = []
        for rgb in pictures:
            pixels = rgb if self._is_rgb else rgb[:, :, ::-1]
            resized = self._resize.get_transform(pixels).apply_image(pixels)
            tensor = torch.from_numpy(resized.astype(np.float32).transpose(2, 0, 1))
            inputs.append({"image": tensor, "height": rgb.shape[0], "width": rgb.shape[1]})
        found = [output["instances"] for output in model(inputs)]
        return [
            Found(
                one.pred_classes.cpu().numpy(),
                one.scores.cpu().numpy(),
                one.pred_boxes.tensor.cpu().numpy(),
            )
            for one in found
        ]


def _settings(config: Path) -> Any:
    settings = import_module("detectron2.config").get_cfg()
    if _has_detic():
        import_module("centernet.config").add_centernet_config(settings)
        import_module("detic.config").add_detic_config(settings)
    settings.merge_from_file(str(config))
    # From the start: Detic's classifier is a tensor that does not move with the model.
    settings.MODEL.DEVICE = best_device()
    settings.MODEL.RETINANET.SCORE_THRESH_TEST = STORE_THRESHOLD
    settings.MODEL.ROI_HEADS.SCORE_THRESH_TEST = STORE_THRESHOLD
    if _has_detic():
        settings.MODEL.ROI_BOX_HEAD.ZEROSHOT_WEIGHT_PATH = "rand"  # replaced below
        settings.MODEL.ROI_HEADS.ONE_CLASS_PER_PROPOSAL = True
    return settings


def _build(settings: Any, weights: Path) -> tuple[Any, tuple[str, ...]]:
    model = import_module("detectron2.modeling").build_model(settings)
    import_module("detectron2.checkpoint").DetectionCheckpointer(model).load(str(weights))
    is_detic = _has_detic() and settings.MODEL.META_ARCHITECTURE == "CustomRCNN"
    vocabulary = _DETIC_VOCABULARY if is_detic else settings.DATASETS.TEST[0]
    names = import_module("detectron2.data").MetadataCatalog.get(vocabulary).thing_classes
    if is_detic:
        classifier = Path(str(import_module("detic").__file__)).parents[1] / _DETIC_CLASSIFIER
        import_module("detic.modeling.utils").reset_cls_test(model, str(classifier), len(names))
    return model, tuple(names)


def _has_detic() -> bool:
    return find_spec("detic") is not None and find_spec("centernet") is not None
