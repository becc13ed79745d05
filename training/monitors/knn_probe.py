"""k-NN accuracy on labeled images while a run trains, by all ranks together."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from training.config.train import TrainConfig
from training.distributed.collectives import all_gather, all_sum
from training.distributed.sharding import whole_weights
from training.distributed.world import World
from training.engine.state import TrainState
from training.evaluation.datasets.image_folder import (
    LabeledImages,
    open_images,
    require_known_classes,
)
from training.evaluation.features import extract_features
from training.evaluation.knn import TEMPERATURE, knn_scores

_BATCH = 64


class KnnProbe:
    """Classifies watch.knn_val by its neighbors in watch.knn_train, every watch.knn_every_steps.

    Each rank has its share of the images, and the features of all training images.
    """

    def __init__(self, config: TrainConfig, world: World, on_progress: Callable[[], None]) -> None:
        watch = config.watch
        assert watch.knn_train is not None
        assert watch.knn_val is not None
        self._config, self._world, self._on_progress = config, world, on_progress
        self._train, self._val = open_images(watch.knn_train), open_images(watch.knn_val)
        require_known_classes(self._train, self._val)

    def after_step(self, state: TrainState, metrics: dict[str, float]) -> dict[str, float]:
        """Return the top-1 accuracy at the steps at which it is measured."""
        if state.step % self._config.watch.knn_every_steps:
            return {}
        backbone = state.method.evaluated_network.backbone
        with whole_weights(state.method, backbone):
            train, train_labels = self._all_rows(*self._features(self._train, state))
            val, val_labels = self._features(self._val, state)
        hits = 0
        if len(val):
            (score,) = knn_scores(
                train,
                train_labels.cpu(),
                val,
                val_labels,
                ks=[self._config.watch.knn_k],
                temperature=TEMPERATURE,
            )
            hits = round(score.top1_percent * len(val) / 100)
        right = all_sum(torch.tensor([hits], device=state.device))
        return {"knn_top1_percent": 100 * int(right) / len(self._val.entries)}

    def _features(self, images: LabeledImages, state: TrainState) -> tuple[Tensor, Tensor]:
        """Return features (n, D) and labels (n,) of this rank's share, on the CPU."""
        backbone, world = state.method.evaluated_network.backbone, self._world
        entries = sorted(images.entries, key=lambda entry: entry.name)
        share = dataclasses.replace(images, entries=tuple(entries[world.rank :: world.world_size]))
        if not share.entries:
            return torch.zeros(0, backbone.embed_dim), torch.zeros(0, dtype=torch.int64)
        found = extract_features(
            {"network": backbone},
            share,
            classes=self._train.classes,
            crop_pixels=self._config.data.global_crop_pixels,
            batch_size=_BATCH,
            device=state.device,
            on_progress=lambda *_: self._on_progress(),
        )
        return found.features["network"], found.labels

    def _all_rows(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows and labels of all ranks, in the images' order, on the device."""
        world, total = self._world, len(self._train.entries)
        missing = -(-total // world.world_size) - len(labels)
        rows = torch.cat([features, features.new_zeros(missing, features.shape[1])])
        kinds = torch.cat([labels, labels.new_zeros(missing)])
        order = torch.arange(len(rows) * world.world_size).reshape(world.world_size, -1).T.flatten()
        with torch.no_grad():
            rows, kinds = (all_gather(part.to(world.device)) for part in (rows, kinds))
        chosen = order[:total].to(world.device)
        return rows[chosen], kinds[chosen]
