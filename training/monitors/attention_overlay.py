"""The attention of the evaluated network over some clips, drawn while a run trains."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from training.config.train import TrainConfig
from training.data.clips import ClipSource
from training.engine.state import TrainState
from training.models.vit import evaluating
from training.visualization.attention_figure import draw_clip, png_bytes
from training.visualization.attention_maps import shown_heads
from wtours.storage.atomic import sweep_idle, write_bytes


@dataclass(frozen=True, eq=False)
class AttentionOverlay:
    """Draws watch.overlay_clips clips, spread over the data, every watch.overlay_every_steps."""

    config: TrainConfig
    run_dir: Path
    source: ClipSource
    on_progress: Callable[[], None]

    def __post_init__(self) -> None:
        sweep_idle(self.run_dir / "figures")  # `visualize` may write there, too

    def after_step(self, state: TrainState, metrics: dict[str, float]) -> dict[str, Image.Image]:
        """Return the figures, for TensorBoard, at the steps at which they are drawn."""
        config, watch = self.config, self.config.watch
        if watch.overlay_every_steps is None or state.step % watch.overlay_every_steps:
            return {}
        backbone = state.method.evaluated_network.backbone
        heads, drawn = shown_heads(backbone, config), dict[str, Image.Image]()
        facts = {"run": self.run_dir.name, "step": state.step, "palette": "rgb"}
        spread = np.linspace(0, len(self.source) - 1, watch.overlay_clips + 2)[1:-1]
        # Of a method without a teacher it is the student, which has stochastic depth.
        with evaluating(backbone):
            for number in spread.round().astype(int).tolist():
                clip = self.source[number, 0.5]  # where the interval is drawn: the mean one
                figure, _ = draw_clip(clip, backbone, heads, config, facts)
                name = f"{clip.video_id}-{clip.pts_us[0] // 1000:08d}ms"
                path = self.run_dir / "figures" / f"step-{state.step:08d}-{name}.png"
                write_bytes(path, png_bytes(figure))
                drawn[f"attention/{name}"] = figure
                self.on_progress()
        return drawn
