"""Linear and k-NN probes on frozen patch tokens."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from training.evaluation.dense.patch_features import PatchGrid, SplitTokens
from training.evaluation.knn import TEMPERATURE, count_votes
from training.evaluation.metrics.segmentation import (
    SegmentationScore,
    confusion_matrix,
    segmentation_score,
)
from training.rng import torch_generator
from wtours.progress import Progress, no_progress

Classify = Callable[[Tensor], Tensor]
"""Tokens (M, D) to scores (M, C) float32, of which the highest wins."""


@dataclass(frozen=True, kw_only=True)
class PatchLinearConfig:
    """How the linear head is trained: AdamW, cosine to 0, on tokens of mean 0 and variance 1."""

    epochs: int = 100
    images_per_step: int = 8
    lr: float = 1e-2
    weight_decay: float = 1e-4
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class PatchKnnConfig:
    """How patches vote: as in `training.evaluation.knn`, with the patch's most frequent class."""

    k: int = 20
    temperature: float = TEMPERATURE
    bank_patches: int = 20_000
    """Training patches at most, spread evenly over all."""


def fit_linear(
    train: SplitTokens, config: PatchLinearConfig, *, on_progress: Progress = no_progress
) -> Classify:
    """Return a linear classifier of patch tokens, trained on the shares of classes under them.

    A patch counts by the share of its pixels that are scored: the loss is the cross-entropy of
    every pixel, where all pixels of a patch get the patch's answer.
    """
    mean, std = token_statistics(train, on_progress)
    num_classes = train.images.layout.num_classes
    head = nn.Linear(len(mean), num_classes, device=train.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    steps_in_epoch = -(-len(train) // config.images_per_step)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * steps_in_epoch)
    generator = torch_generator(config.seed, "segment")
    for epoch in range(config.epochs):
        order = torch.randperm(len(train), generator=generator)
        for numbers in torch.split(order, config.images_per_step):
            grids = [train.grid(number) for number in numbers.tolist()]
            tokens = torch.cat([grid.tokens.flatten(0, 1) for grid in grids]).float()
            tokens = tokens.to(train.device)
            shares = torch.cat([grid.shares.flatten(0, 1) for grid in grids]).to(train.device)
            log_probs = head((tokens - mean) / std).log_softmax(dim=-1)
            loss = -(shares * log_probs).sum() / shares.sum().clamp(min=1e-6)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        on_progress("linear head, epochs", epoch + 1, config.epochs)
    head.requires_grad_(False)
    return lambda tokens: head((tokens - mean) / std)


def fit_neighbors(
    train: SplitTokens, config: PatchKnnConfig, *, on_progress: Progress = no_progress
) -> Classify:
    """Return the shares of the votes of the nearest training patches, by cosine similarity."""
    num_patches = sum(grid.shares[..., 0].numel() for grid in train.grids(on_progress))
    step = -(-num_patches // config.bank_patches)
    tokens, shares, start = [], [], 0
    for grid in train.grids():
        kept = slice(start, None, step)
        tokens.append(grid.tokens.flatten(0, 1)[kept].float())
        shares.append(grid.shares.flatten(0, 1)[kept])
        start = (start - grid.shares[..., 0].numel()) % step
    all_shares = torch.cat(shares)
    scored = all_shares.sum(dim=-1) > 0
    bank = F.normalize(torch.cat(tokens)[scored], dim=-1).to(train.device)
    labels = all_shares[scored].argmax(dim=-1)
    num_classes = train.images.layout.num_classes

    def classify(tokens: Tensor) -> Tensor:
        similarity, neighbors = (F.normalize(tokens, dim=-1) @ bank.T).topk(
            min(config.k, len(bank)), dim=1
        )
        # On the CPU: sums of votes on a GPU would depend on the order of its threads.
        votes = count_votes(
            similarity.cpu(),
            labels[neighbors.cpu()],
            num_classes=num_classes,
            temperature=config.temperature,
        )
        # Between two patches their scores are mixed: one whose neighbors are all as near must not
        # count as many times as it has neighbors.
        return (votes / votes.sum(dim=1, keepdim=True)).to(tokens.device)

    return classify


@torch.inference_mode()
def score_split(
    classify: Classify, test: SplitTokens, *, on_progress: Progress = no_progress
) -> SegmentationScore:
    """Return the scores of a classifier of patches on every pixel of a split.

    The patches' scores are enlarged to the size of the labels (bilinear), then the highest wins.
    """
    num_classes = test.images.layout.num_classes
    confusion = np.zeros((num_classes, num_classes), np.int64)
    for number, grid in enumerate(test.grids(on_progress)):
        labels = test.images.labels(number)
        predicted = predict_pixels(classify, grid, labels.shape, test.device)
        confusion += confusion_matrix(labels, predicted, num_classes=num_classes)
    return segmentation_score(confusion)


def predict_pixels(
    classify: Classify, grid: PatchGrid, size: tuple[int, ...], device: torch.device
) -> NDArray[np.int64]:
    """Return the class of each pixel of an image of `size` (H, W)."""
    rows, columns, width = grid.tokens.shape
    scores = classify(grid.tokens.reshape(-1, width).float().to(device))
    return pixel_classes(scores.T.reshape(1, -1, rows, columns), size)


def pixel_classes(scores: Tensor, size: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the class of each pixel (H, W) by scores (1, C, h, w), enlarged bilinearly."""
    enlarged = F.interpolate(scores, tuple(size), mode="bilinear", align_corners=False)
    # `argmax` over the first axis takes two to four times as long on a CPU.
    return enlarged[0].max(dim=0).indices.cpu().numpy()


def token_statistics(
    train: SplitTokens, on_progress: Progress = no_progress
) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of the tokens, (D,) each, on the device."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for grid in train.grids(on_progress):
        tokens = grid.tokens.flatten(0, 1).double()
        count += len(tokens)
        total = total + tokens.sum(dim=0)
        squares = squares + tokens.square().sum(dim=0)
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=1e-10).sqrt()
    return mean.float().to(train.device), std.float().to(train.device)
