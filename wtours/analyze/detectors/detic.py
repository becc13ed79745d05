"""Detic with Deformable DETR, LVIS's 1203 classes, as `transformers` has it.

The model is huggingface.co/facebook/deformable-detr-detic (Apache-2.0): Detic_DeformDETR_R50_4x of
Zhou et al., "Detecting Twenty-thousand Classes using Image-level Supervision", 2022. The labels are
those of its own config. docs/howto/detectors.md says how it stands to the paper's detector.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wtours.analyze.detectors.base import STORE_THRESHOLD
from wtours.analyze.detectors.torch_base import Found, TorchDetector, require_torch
from wtours.analyze.schema import DetectorFacts
from wtours.errors import AnalysisError
from wtours.storage.hashing import canonical_json, sha256_bytes, sha256_file, unchanged
from wtours.text import first_line

HUB_NAME = "facebook/deformable-detr-detic"
MAX_PER_FRAME = 100
"""The cap of Detic's and of transformers' own post-processing."""
_WEIGHTS = "model.safetensors"
_FILES = ("config.json", "preprocessor_config.json", _WEIGHTS)


def load_detic(folder: Path | None = None) -> TorchDetector:
    """Return the detector, from the hub's cache, the hub, or a folder with the hub's files.

    One of the network's 300 queries counts once, with its best class; the 100 highest scores of a
    frame are kept.

    Raises:
        AnalysisError: the model is not there and cannot be downloaded, or is not such a model.
        MissingPackageError: torch, torchvision, timm or transformers is not installed.
    """
    require_torch("the detector detic", "torchvision", "timm", "transformers")
    transformers = import_module("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    path = _from_hub() if folder is None else folder
    with unchanged(path / _WEIGHTS):
        model = _load_model(path)
        weights_sha256 = sha256_file(path / _WEIGHTS)
    processor = transformers.AutoImageProcessor.from_pretrained(path, local_files_only=True)
    labels = model.config.id2label
    # Classes, size and colors of what is looked at; the hub's model has no others than its own.
    settings = {name: sha256_file(path / name) for name in _FILES if name != _WEIGHTS}

    def infer(model: Any, pictures: Sequence[NDArray[np.uint8]]) -> list[Found]:
        inputs = processor(images=list(pictures), return_tensors="pt", device=model.device)
        output = model(**inputs.to(model.device))
        return _best_classes(output.logits, output.pred_boxes, pictures[0].shape)

    return TorchDetector(
        facts=DetectorFacts(
            name=f"detic ({HUB_NAME})" if folder is None else f"detic:{folder.name}",
            weights_sha256=weights_sha256,
            settings_sha256=None if folder is None else sha256_bytes(canonical_json(settings)),
            vocabulary=tuple(labels[i] for i in range(len(labels))),
            threshold=STORE_THRESHOLD,
            max_per_frame=MAX_PER_FRAME,
        ),
        versions={"transformers": transformers.__version__},
        model=model,
        infer=infer,
    )


def _best_classes(logits: Any, boxes: Any, shape: tuple[int, ...]) -> list[Found]:
    """Return each image's queries with their best class.

    Args:
        logits: (B, Q, C) tensor.
        boxes: (B, Q, 4) tensor: center x, y, width, height as shares of the image.
        shape: The images' height, width, ...
    """
    height, width = shape[:2]
    scores, label_ids = logits.sigmoid().max(-1)
    centers, halves = boxes[..., :2], boxes[..., 2:] / 2
    corners = np.concatenate([(centers - halves).cpu(), (centers + halves).cpu()], axis=-1)
    corners = corners * np.array([width, height, width, height], np.float32)
    return [
        Found(*found)
        for found in zip(label_ids.cpu().numpy(), scores.cpu().numpy(), corners, strict=True)
    ]


def _load_model(path: Path) -> Any:
    for name in _FILES:
        if not (path / name).is_file():
            raise AnalysisError(
                f"detector detic:{path}: there is no {name}; give a folder with the files of "
                f"huggingface.co/{HUB_NAME}"
            )
    try:
        network = import_module("transformers").DeformableDetrForObjectDetection
        model, info = network.from_pretrained(path, local_files_only=True, output_loading_info=True)
    except Exception as error:  # transformers' and safetensors' exceptions have no common base
        reason = first_line(error)
        raise AnalysisError(f"detector detic: {path} cannot be loaded: {reason}") from error
    missing = [*info["missing_keys"], *info["mismatched_keys"]]
    if missing:
        raise AnalysisError(
            f"detector detic: {path / _WEIGHTS} lacks {len(missing)} of the model's weights, for "
            f"example {missing[0]}; download it again"
        )
    return model


def _from_hub() -> Path:
    """Return the folder of the model in the hub's cache, downloaded if it is not there yet."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(
            [hf_hub_download(HUB_NAME, n, local_files_only=True) for n in _FILES][-1]
        ).parent
    except LocalEntryNotFoundError:
        pass
    try:
        get_hf_file_metadata(hf_hub_url(HUB_NAME, _WEIGHTS))  # fails at once; a download tries long
        return Path([hf_hub_download(HUB_NAME, name) for name in _FILES][-1]).parent
    except Exception as error:  # the hub's and its transport's exceptions have no common base
        raise AnalysisError(
            f"detector detic: {HUB_NAME} is not on this machine and cannot be downloaded "
            f"({type(error).__name__}); go online once, or give detic:FOLDER with its files"
        ) from error
