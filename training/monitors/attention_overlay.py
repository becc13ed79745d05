"""The attention of the evaluated network over some clips, drawn while a run trains."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from training.config.train import TrainConfig
from training.data.source import ClipSource
from training.engine.state import TrainState
from training.models.modes import evaluating
from training.visualization.attention_figure import draw_still, picture_rows, png_bytes
from training.visualization.attention_maps import attend, crop_clip, describe_clip, shown_heads
from wtours.storage.atomic import sweep_idle, write_bytes


class AttentionOverlay:
    """Draws watch.overlay_clips clips, spread over the data, every watch.overlay_every_steps.

    Args:
        config: Of the run.
        run_dir: The figures go to its `figures`.
        source: The run's clips.
        on_progress: Called after each clip: all ranks wait for this.
    """

    def __init__(
        self,
        config: TrainConfig,
        run_dir: Path,
        source: ClipSource,
        on_progress: Callable[[], None],
    ) -> None:
        self._config, self._run_dir, self._source = config, run_dir, source
        self._on_progress = on_progress
        sweep_idle(run_dir / "figures")  # `visualize` may write there, too

    def after_step(self, state: TrainState, metrics: dict[str, float]) -> dict[str, Image.Image]:
        """Return the figures, for TensorBoard, at the steps at which they are drawn."""
        config, watch = self._config, self._config.watch
        if watch.overlay_every_steps is None or state.step % watch.overlay_every_steps:
            return {}
        backbone = state.method.evaluated_network.backbone
        heads, drawn = shown_heads(backbone, config), dict[str, Image.Image]()
        spread = np.linspace(0, len(self._source) - 1, watch.overlay_clips + 2)[1:-1]
        # Of a method without a teacher it is the student, which has stochastic depth.
        with evaluating(backbone):
            for number in spread.round().astype(int).tolist():
                clip = self._source[number, 0.5]  # where the interval is drawn: the mean one
                pictures, inputs = crop_clip(clip, config.data.global_crop_pixels)
                attention = attend(backbone, inputs.to(state.device), heads, config.tracking)
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
                drawn[f"attention/{name}"] = figure
                self._on_progress()
        return drawn
