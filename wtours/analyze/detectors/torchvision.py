"""Detectors of torchvision, by the name of their builder: COCO's classes, for a first look."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from wtours.analyze.detectors.base import STORE_THRESHOLD
from wtours.analyze.detectors.torch_base import Found, TorchDetector, require_torch
from wtours.analyze.schema import DetectorFacts
from wtours.errors import AnalysisError
from wtours.storage.hashing import sha256_file, unchanged
from wtours.text import first_line

_NORMALIZED_WITHOUT_EPS = {
    "fasterrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
}
"""Models whose published weights torchvision runs so (its `overwrite_eps`): they were trained when
its frozen batch norms had no eps. Trained by anyone since, they have one."""


def load_torchvision(name: str, weights: Path | None = None) -> TorchDetector:
    """Return a detection model of torchvision, for example "fasterrcnn_resnet50_fpn_v2".

    Args:
        name: Of its builder.
        weights: A state dict of the same architecture and classes; None: torchvision's own best
            weights, downloaded once.

    Raises:
        AnalysisError: there is no such model, or its weights cannot be had or loaded.
        MissingPackageError: torch or torchvision is not installed.
    """
    require_torch(f"the detector torchvision:{name}", "torchvision")
    models = import_module("torchvision.models")
    known = [n for n in models.list_models(module=models.detection) if "keypoint" not in n]
    if name not in known:
        raise AnalysisError(f"detector torchvision:{name}: choose one of {', '.join(known)}")
    published = next(iter(models.get_model_weights(name)))
    categories = tuple(published.meta["categories"])
    path = weights if weights is not None else download_weights(published.url)
    model = models.get_model(name, weights=None, weights_backbone=None, num_classes=len(categories))
    with unchanged(path):
        fill_model(model, path)
        sha256 = sha256_file(path)
    # The name of a file that torchvision publishes ends with the beginning of its sha256.
    beginning = Path(urlsplit(published.url).path).stem.rpartition("-")[2]
    is_published = weights is None or sha256.startswith(beginning)
    if is_published and name in _NORMALIZED_WITHOUT_EPS:
        for module in model.modules():
            if isinstance(module, import_module("torch.nn").BatchNorm2d):
                module.eps = 0.0
    head = getattr(model, "roi_heads", model)
    head.score_thresh = STORE_THRESHOLD
    return TorchDetector(
        facts=DetectorFacts(
            name=f"torchvision:{name}",
            weights_sha256=sha256,
            vocabulary=categories,
            threshold=STORE_THRESHOLD,
            max_per_frame=head.detections_per_img,
        ),
        versions={"torchvision": import_module("torchvision").__version__},
        model=model,
        infer=_infer,
    )


def _infer(model: Any, pictures: Sequence[NDArray[np.uint8]]) -> list[Found]:
    import torch

    device = next(model.parameters()).device
    tensors = [torch.from_numpy(p).to(device).permute(2, 0, 1).float() / 255 for p in pictures]
    return [
        Found(*(found[key].cpu().numpy() for key in ("labels", "scores", "boxes")))
        for found in model(tensors)
    ]


def fill_model(model: Any, path: Path) -> None:
    """Load a state dict, of which no code is run.

    Raises:
        AnalysisError: there is no such file, or it does not fit.
    """
    import torch

    if not path.is_file():
        raise AnalysisError(f"torchvision: there is no file {path}; check the path")
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # pickle's, torch's and zip's exceptions have no common base
        raise AnalysisError(
            f"torchvision: {path} does not fit the model: {first_line(error)}"
        ) from error


def download_weights(url: str) -> Path:
    """Return the weights in torch's cache, downloaded if they are not there yet.

    Raises:
        AnalysisError: they cannot be downloaded.
    """
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except OSError as error:
            raise AnalysisError(
                f"torchvision: {path.name} is not on this machine and cannot be "
                f"downloaded ({error}); go online once, or give a file of weights "
                f"(torchvision:NAME,WEIGHTS)"
            ) from error
    return path
