"""A backbone as an ONNX file: made by torch's exporter, checked by ONNX Runtime."""

import json
from importlib.util import find_spec
from typing import Any

import numpy as np
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from training.config.train import TrainConfig
from training.data.normalization import MEAN, STD
from wtours.errors import CheckpointError, MissingPackageError

TOLERANCE = 1e-4
OUTPUTS = ("features", "patch_tokens")
_OPSET = 18
_CHECKED_BATCHES = (1, 3)
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def onnx_bytes(
    config: TrainConfig, arguments: dict[str, Any], backbone: VisionTransformer
) -> bytes:
    """Return the ONNX file of a run's backbone, for a batch of any size.

    Its input `image` is (B, 3, S, S) float32, RGB, normalized; S is the side that the position
    embedding is for. Its outputs are `features` (B, D), the CLS token after the final norm, and
    `patch_tokens` (B, N, D), row by row.

    Raises:
        MissingPackageError: onnx, onnxscript or onnxruntime is not installed.
        CheckpointError: ONNX Runtime's outputs differ from torch's by more than `TOLERANCE`.
    """
    for package in _PACKAGES:
        if find_spec(package) is None:
            raise MissingPackageError(package, "onnx", "exporting to ONNX")
    # As timm makes it: no word of ours in the graph, and the position embedding not interpolated.
    network = timm.create_model(config.model.backbone, num_classes=0, **arguments)
    network.load_state_dict(backbone.state_dict())
    tokens = _Tokens(network).eval()
    side = config.data.global_crop_pixels
    program = torch.onnx.export(
        tokens,
        (torch.zeros(2, 3, side, side),),
        input_names=["image"],
        output_names=list(OUTPUTS),
        dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
        opset_version=_OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:  # where it was in which file of this machine
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    stated = {"input": "RGB", "mean": MEAN, "std": STD, "image_pixels": side}
    model.metadata_props.add(key="preprocessing", value=json.dumps(stated))
    data: bytes = model.SerializeToString(deterministic=True)
    _require_equal(data, tokens, side)
    return data


class _Tokens(nn.Module):
    """The CLS token and the patch tokens, both after the final norm."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens: Tensor = self.network.forward_features(images)  # type: ignore[operator]
        return tokens[:, 0], tokens[:, self.network.num_prefix_tokens :]


def _require_equal(data: bytes, tokens: nn.Module, side: int) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for batch in _CHECKED_BATCHES:
        images = torch.randn(batch, 3, side, side, generator=generator)
        with torch.no_grad():
            expected = tokens(images)
        found = session.run(list(OUTPUTS), {"image": images.numpy()})
        for name, ours, theirs in zip(OUTPUTS, expected, found, strict=True):
            off = float(np.abs(ours.numpy() - theirs).max())
            if not off <= TOLERANCE:  # not a number is none
                raise CheckpointError(
                    f"the ONNX file's {name} differ from torch's by {off:.2g} (allowed: "
                    f"{TOLERANCE:g}), so it was not written; try other versions of torch and "
                    f"onnxruntime"
                )
