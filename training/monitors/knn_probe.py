"""Looking at a run while it trains: attention drawn over clips, k-NN on labeled images."""

import functools
from pathlib import Path

import numpy as np

from training.config.train import TrainConfig
from training.data.clips import Clips
from training.distributed.watchdog import Heartbeat
from training.engine.metrics import MetricsLog
from training.engine.state import TrainState
from training.evaluation.datasets.image_folder import open_images, require_known_classes
from training.evaluation.features import extract_features
from training.evaluation.knn import TEMPERATURE, knn_scores
from training.methods.dora import method_settings
from training.visualization.attention_figure import draw_still, picture_rows, png_bytes
from training.visualization.attention_maps import attend, crop_clip, describe_clip, shown_heads
from wtours.storage.atomic import write_bytes

_BATCH = 64


class Watcher:
    """Looks at the teacher at the steps that `watch` names; of rank 0, the others wait for it.

    What it computes changes nothing in the training.

    Args:
        config: Of the run.
        run_dir: Where figures are written.
        clips: The run's own.
        heartbeat: Told that this moves.

    Raises:
        ImageDataError: labeled images that are not there.
    """

    def __init__(
        self, config: TrainConfig, run_dir: Path, clips: Clips, heartbeat: Heartbeat
    ) -> None:
        self._config = config
        self._run_dir = run_dir
        self._clips = clips
        self._heartbeat = heartbeat
        watch = config.watch
        if watch.knn_train is not None and watch.knn_val is not None:
            self._train, self._val = open_images(watch.knn_train), open_images(watch.knn_val)
            require_known_classes(self._train, self._val)

    def look(self, state: TrainState, metrics: MetricsLog) -> dict[str, float]:
        """Return what was measured after `state.step` steps; draw what is to be drawn."""
        watch = self._config.watch
        if watch.overlay_every_steps and state.step % watch.overlay_every_steps == 0:
            self._draw(state, metrics)
        if watch.knn_train and state.step % watch.knn_every_steps == 0:
            return {"knn_top1_percent": self._knn(state)}
        return {}

    def _draw(self, state: TrainState, metrics: MetricsLog) -> None:
        config, backbone = self._config, state.teacher.backbone
        settings, heads = method_settings(config).tracking, shown_heads(backbone, config)
        spread = np.linspace(0, len(self._clips) - 1, config.watch.overlay_clips + 2)[1:-1]
        for number in spread.round().astype(int).tolist():
            clip = self._clips[number]
            pictures, inputs = crop_clip(clip, config.data.global_crop_pixels)
            attention = attend(backbone, inputs.to(state.center.device), heads, settings)
            facts = {
                "run": self._run_dir.name,
                "step": state.step,
                "heads": heads.tolist(),
                "palette": "rgb",
                **describe_clip(clip, attention),
            }
            rows = picture_rows(pictures, attention.plain, attention.refined, facts)
            figure = draw_still(rows, facts)
            name = f"{clip.video_id}-{clip.pts_us[0] // 1000:08d}ms"
            path = self._run_dir / "figures" / f"step-{state.step:08d}-{name}.png"
            write_bytes(path, png_bytes(figure))
            metrics.show(f"attention/{name}", figure, state.step)
            self._heartbeat.beat()

    def _knn(self, state: TrainState) -> float:
        backbone, device = state.teacher.backbone, state.center.device
        extract = functools.partial(
            extract_features,
            {"teacher": backbone},
            classes=self._train.classes,
            crop_pixels=self._config.data.global_crop_pixels,
            batch_size=_BATCH,
            device=device,
            on_progress=lambda *_: self._heartbeat.beat(),
        )
        train, val = extract(self._train), extract(self._val)
        backbone.train()  # as it was: `extract_features` puts it into evaluation mode
        (score,) = knn_scores(
            train.features["teacher"].to(device),
            train.labels,
            val.features["teacher"],
            val.labels,
            ks=[self._config.watch.knn_k],
            temperature=TEMPERATURE,
        )
        return score.top1_percent
