"""Fine-tuning a backbone with UperNet: the spine of `wtours eval segment --finetune`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms import v2

from training.data.normalization import MEAN, normalized
from training.engine.optim import moment_device, moments_of
from training.evaluation.datasets.segmentation import VOID, LabeledPixels, open_labeled_pixels
from training.evaluation.dense.patch_classifiers import pixel_classes
from training.evaluation.dense.patch_features import network_size
from training.evaluation.dense.upernet import AUXILIARY_WEIGHT, UperNet
from training.evaluation.metrics.segmentation import (
    SegmentationScore,
    confusion_matrix,
    segmentation_score,
)
from training.evaluation.results import EvalResult, write_result
from training.models.vit_blocks import set_drop_path
from training.rng import derived_seed, numpy_generator
from training.weights.backbones import Backbone
from wtours.errors import CheckpointError, TrainingError
from wtours.progress import Progress, no_progress
from wtours.storage.atomic import write_bytes
from wtours.storage.hashing import digest
from wtours.storage.tensor_files import safetensors_bytes

_MEAN_COLOR = [round(255 * value) for value in MEAN]


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """The paper's schedule (B.3), and an augmentation after mmsegmentation's, as iBOT has it."""

    steps: int = 160_000
    """Of AdamW; after the warm-up the learning rate falls linearly to 0."""
    warmup_steps: int = 1_500
    """Linear, from 0."""
    lr: float = 6e-5
    """Peak."""
    weight_decay: float = 0.01
    """Of all weights."""
    drop_path_rate: float = 0.1
    """Stochastic depth of the backbone's last block (iBOT's), whatever it was pretrained with."""
    batch_size: int = 4
    """Images in a step."""
    crop_pixels: int = 512
    """Side of the square that is trained on, and short side in the test."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Of the short side in training, over `crop_pixels`."""
    hidden_dim: int = 512
    """Width of UperNet's head."""
    seed: int = 0
    """Of the heads' weights and of everything drawn."""
    save_every_steps: int = 2_000
    """Steps between two states that a stopped run resumes from."""

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        return self.lr * (self.steps - step) / max(1, self.steps - self.warmup_steps)


def finetune_segmentation(
    backbone: Backbone,
    data: Path,
    config: FinetuneConfig,
    *,
    on_progress: Progress = no_progress,
) -> EvalResult:
    """Train UperNet on a backbone, all weights, and write its scores on the test split.

    A state is kept beside the result every `save_every_steps`; the same command resumes from it,
    with the same images and the same draws as without a stop.

    Args:
        backbone: Is changed by the training.
        data: As in `training.evaluation.dense.segmentation.evaluate_segmentation`.

    Raises:
        ImageDataError: images or labels that are missing, unreadable or out of range.
        TrainingError: the loss is not finite.
        CheckpointError: the state that a stopped run left cannot be read.
    """
    train_images, test_images = open_labeled_pixels(data)
    described = {"train": train_images.describe(), "test": test_images.describe()}
    facts = [backbone.description["sha256"], described["train"]["fingerprint"], asdict(config)]
    state = backbone.folder / "eval" / f"upernet-{digest(facts)}.safetensors"
    model = _train(backbone, train_images, config, state, on_progress)
    score = score_upernet(model, backbone, test_images, config, on_progress)
    result = write_result(
        backbone,
        "upernet",
        protocol=asdict(config)
        | {
            "layout": asdict(train_images.layout),
            "optimizer": "AdamW, warm-up and linear decay to 0",
            "blocks": list(model.blocks),
            "auxiliary_weight": AUXILIARY_WEIGHT,
            "training": "random scale, crop, flip and colours",
            "test": "whole image, one scale",
        },
        data=described,
        results=asdict(score),
        identity=[asdict(config)],
        packages=("transformers",),
    )
    state.unlink(missing_ok=True)
    return result


def _train(
    backbone: Backbone,
    images: LabeledPixels,
    config: FinetuneConfig,
    state: Path,
    on_progress: Progress,
) -> UperNet:
    torch.manual_seed(derived_seed(config.seed, "upernet"))
    set_drop_path(backbone.network.requires_grad_(True), config.drop_path_rate)
    device, num_classes = backbone.device, images.layout.num_classes
    model = UperNet(backbone.network, num_classes, hidden_dim=config.hidden_dim).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    first = _restore(state, model, optimizer)
    model.train()
    for step in range(first, config.steps):
        pixels, labels = draw_batch(images, config, step)
        inputs = normalized(pixels.to(device), backbone.normalization)
        for group in optimizer.param_groups:
            group["lr"] = config.lr_at(step)
        torch.manual_seed(derived_seed(config.seed, "upernet drop path", step))
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = model.loss(inputs, labels.to(device))
        if not loss.isfinite():
            raise TrainingError(f"the loss of fine-tuning is not finite at step {step + 1}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if (step + 1) % config.save_every_steps == 0:
            _keep(state, step + 1, model, optimizer)
        on_progress("UperNet, steps", step + 1, config.steps)
    backbone.network.requires_grad_(False)
    return model.eval()


def _keep(state: Path, step: int, model: UperNet, optimizer: torch.optim.Optimizer) -> None:
    """Publish what a stopped run resumes from: model.*, optimizer.<parameter>.<moment>, a step."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"optimizer.{name}": value for name, value in moments_of(optimizer, model).items()}
    on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_bytes(state, safetensors_bytes(on_cpu, {"step": str(step)}))


def _restore(state: Path, model: UperNet, optimizer: torch.optim.Optimizer) -> int:
    """Set the model and the optimizer to a state that was kept; return the steps done."""
    if not state.exists():
        return 0
    try:
        with safe_open(state, "pt") as file:
            step = int(file.metadata()["step"])
        tensors = load_file(state)
        parameters, weights = dict(model.named_parameters()), dict[str, Tensor]()
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "model":
                weights[rest] = value
            else:
                of, _, moment = rest.rpartition(".")
                device = moment_device(optimizer, parameters[of], moment)
                optimizer.state[parameters[of]][moment] = value.to(device)
        model.load_state_dict(weights)
    except Exception as error:
        raise CheckpointError(
            f"{state} cannot be resumed from ({type(error).__name__}); remove it to start over"
        ) from error
    return step


def draw_batch(images: LabeledPixels, config: FinetuneConfig, step: int) -> tuple[Tensor, Tensor]:
    """Return the images of a step, (B, S, S, 3) uint8, and their labels, (B, S, S) int64.

    All that is drawn follows from the seed and the position of the image in the run.
    """
    pairs = [
        _draw_pair(images, config, step * config.batch_size + row)
        for row in range(config.batch_size)
    ]
    pixels, labels = zip(*pairs, strict=True)
    return torch.stack(pixels), torch.stack(labels)


def _draw_pair(
    images: LabeledPixels, config: FinetuneConfig, position: int
) -> tuple[Tensor, Tensor]:
    epoch, place = divmod(position, len(images))
    order = numpy_generator(config.seed, "finetune order", epoch).permutation(len(images))
    image, labels = images.pair(int(order[place]))
    generator = numpy_generator(config.seed, "finetune picture", position)
    side = config.crop_pixels
    short = round(side * generator.uniform(*config.scale))
    scale = short / min(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    small = np.asarray(
        Image.fromarray(labels.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    )
    top, left = (int(generator.integers(0, max(0, length - side) + 1)) for length in small.shape)
    pixels, small = (each[top : top + side, left : left + side] for each in (pixels, small))
    if generator.random() < 0.5:
        pixels, small = pixels[:, ::-1], small[:, ::-1]
    # A hue of 18 of OpenCV's 180 is a tenth of a turn.
    jitter = v2.ColorJitter(brightness=0.125, contrast=0.5, saturation=0.5, hue=0.1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator.integers(2**31)))
        changed: Tensor = jitter(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    colored = changed.permute(1, 2, 0).numpy()
    # Last, as in mmsegmentation: padding is no part of the contrast, and near 0 once normalized.
    padded, labels_padded = _padded(colored, side, _MEAN_COLOR), _padded(small, side, VOID)
    return torch.from_numpy(padded), torch.from_numpy(labels_padded.astype(np.int64))


def _padded(values: NDArray[Any], side: int, fill: int | Sequence[int]) -> NDArray[Any]:
    """Return values (h, w) or (h, w, 3) in the upper left corner of a square."""
    square = np.empty((side, side, *values.shape[2:]), values.dtype)
    square[:] = fill
    square[: values.shape[0], : values.shape[1]] = values
    return square


@torch.inference_mode()
def score_upernet(
    model: UperNet,
    backbone: Backbone,
    images: LabeledPixels,
    config: FinetuneConfig,
    on_progress: Progress = no_progress,
) -> SegmentationScore:
    """Return the scores on a split: whole images, scores enlarged to the labels (bilinear)."""
    num_classes = images.layout.num_classes
    confusion = np.zeros((num_classes, num_classes), np.int64)
    for number in range(len(images)):
        image, labels = images.pair(number)
        size = network_size(*image.size, short_side=config.crop_pixels, patch=backbone.patch_pixels)
        pixels = np.array(image.resize(size, Image.Resampling.BILINEAR))[None]
        whole = torch.from_numpy(pixels).to(backbone.device)
        inputs = normalized(whole, backbone.normalization)
        predicted = pixel_classes(model(inputs).float(), labels.shape)
        confusion += confusion_matrix(labels, predicted, num_classes=num_classes)
        on_progress(images.folder, number + 1, len(images))
    return segmentation_score(confusion)
