"""k-NN accuracy on labeled images while a run trains."""

import functools
from collections.abc import Callable

from training.config.train import TrainConfig
from training.engine.state import TrainState
from training.evaluation.datasets.image_folder import open_images, require_known_classes
from training.evaluation.features import extract_features
from training.evaluation.knn import TEMPERATURE, knn_scores

_BATCH = 64


class KnnProbe:
    """Classifies watch.knn_val by its neighbors in watch.knn_train, every watch.knn_every_steps.

    Args:
        config: Of the run; it names both sets of images.
        on_progress: Called now and then: all ranks wait for this.

    Raises:
        ImageDataError: the images are missing, or the two sets have different classes.
    """

    def __init__(self, config: TrainConfig, on_progress: Callable[[], None]) -> None:
        watch = config.watch
        assert watch.knn_train is not None
        assert watch.knn_val is not None
        self._config, self._on_progress = config, on_progress
        self._train, self._val = open_images(watch.knn_train), open_images(watch.knn_val)
        require_known_classes(self._train, self._val)

    def after_step(self, state: TrainState, metrics: dict[str, float]) -> dict[str, float]:
        """Return the top-1 accuracy at the steps at which it is measured."""
        if state.step % self._config.watch.knn_every_steps:
            return {}
        backbone = state.method.evaluated_network.backbone
        was_training = backbone.training
        extract = functools.partial(
            extract_features,
            {"network": backbone},
            classes=self._train.classes,
            crop_pixels=self._config.data.global_crop_pixels,
            batch_size=_BATCH,
            device=state.device,
            on_progress=lambda *_: self._on_progress(),
        )
        train, val = extract(self._train), extract(self._val)
        backbone.train(was_training)  # `extract_features` puts it into evaluation mode
        (score,) = knn_scores(
            train.features["network"].to(state.device),
            train.labels,
            val.features["network"],
            val.labels,
            ks=[self._config.watch.knn_k],
            temperature=TEMPERATURE,
        )
        return {"knn_top1_percent": score.top1_percent}
