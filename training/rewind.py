"""A past step of a run, shown from its position alone: `wtours rewind`.

Which clips a step had, how they were cropped and in which order follows from the seed and the
step; so nothing had to be stored for it. Weights are those of the nearest checkpoint that is kept.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from training.config.train import TrainConfig
from training.data.clips import ClipViews
from training.distributed.world import World
from training.engine.checkpoint import load_network, load_state, read_state
from training.engine.checkpoint_files import STATE, find_damage, step_dirs, step_of
from training.engine.metrics import METRICS_FILE, read_metrics
from training.engine.precision import autocast, numerics
from training.engine.setup import build_state, open_views, run_length
from training.engine.step import make_views
from training.methods.base import micro_batches
from training.methods.registry import is_additive
from training.monitors.collapse import collapse_warnings
from training.rng import derived_seed
from training.visualization.attention_figure import draw_clip
from training.visualization.attention_maps import shown_heads
from wtours.errors import CheckpointError, TrainingError, UsageError
from wtours.storage.atomic import read_json
from wtours.text import counted

BEFORE = 20
"""A step is held against the median of so many steps before it."""
_GLOBAL, _LOCAL = (255, 204, 0), (120, 200, 255)
_MIN_SIDE = 224
"""Pixels of a frame, at least, in the picture of the crops."""


@dataclass(frozen=True, slots=True)
class Spike:
    """A step whose loss stands above those before it."""

    step: int
    loss: float
    before: float
    """Median of up to `BEFORE` steps before it."""

    @property
    def jump(self) -> float:
        """Return by how much the loss rose."""
        return self.loss - self.before


@dataclass(frozen=True, eq=False, slots=True)
class RewoundClip:
    """One clip of a step."""

    facts: dict[str, Any]
    """Position, video (or image), frames, times, boxes (top, left, height, width, in pixels), and
    the loss where it was asked for."""
    crops: Image.Image
    """Its frames after the frame crop; yellow: the global crops, blue: the local ones."""
    masks: Image.Image
    """What the nearest checkpoint's objects are in it."""


@dataclass(frozen=True, eq=False, slots=True)
class RewoundStep:
    """What is known of a step."""

    run: Path
    step: int
    num_clips: int
    """Of the whole step."""
    metrics: dict[str, Any] | None
    """Its line of metrics.jsonl; None: there is none."""
    before: dict[str, float]
    """The median of each metric over up to `BEFORE` steps before it."""
    checkpoint: Path
    """The nearest that is kept whole: its config, and whose masks these are."""
    checkpoint_step: int
    clips: tuple[RewoundClip, ...]
    """Those asked for: by loss, if that was asked for, else by position."""


def largest_spikes(run_dir: Path, count: int) -> list[Spike]:
    """Return the steps whose loss rose most above the median of the steps before, largest first.

    Raises:
        CheckpointError: the run has no metrics.
    """
    losses = [
        (line["step"], float(line["loss"]))
        for line in read_metrics(run_dir / METRICS_FILE)
        if isinstance(line.get("loss"), int | float) and math.isfinite(line["loss"])
    ]
    if not losses:
        raise CheckpointError(f"{run_dir} has no {METRICS_FILE} with a loss; give a run's folder")
    spikes = [
        Spike(step, loss, median(value for _, value in losses[max(0, at - BEFORE) : at]))
        for at, (step, loss) in enumerate(losses)
        if at
    ]
    rising = [spike for spike in spikes if spike.jump > 0]
    return sorted(rising, key=lambda spike: (-spike.jump, spike.step))[:count]


def signs_of_collapse(run_dir: Path) -> list[str]:
    """Return the warnings of collapse that a run gave, each with its step.

    By the config of the newest checkpoint; of a run without one nothing is known.
    """
    newest = next((path for path in step_dirs(run_dir) if find_damage(path) is None), None)
    if newest is None:
        return []
    return collapse_warnings(read_state(newest)[1], read_metrics(run_dir / METRICS_FILE))


def rewind(
    run_dir: Path,
    shards_dir: Path | str,
    step: int,
    *,
    num_clips: int,
    rank_clips: bool,
    world: World,
) -> RewoundStep:
    """Return a step of a run: its clips and crops, its metrics, masks by the nearest checkpoint.

    Args:
        shards_dir: The shard set that it was trained on.
        step: From 1, as in metrics.jsonl.
        num_clips: At most so many of the step's clips.
        rank_clips: Compute the loss of each clip of the step with the nearest checkpoint's weights
            (as much work as a forward pass of the step), and return the highest.

    Raises:
        CheckpointError: no checkpoint is kept, or the shard set is another one.
        UsageError: no such step, or the method has no loss of a single clip.
    """
    if step < 1:
        raise UsageError(f"--step {step}: steps are counted from 1")
    checkpoint, checkpoint_step, config = _nearest(run_dir, step)
    first = _first_position(checkpoint, step - 1 - checkpoint_step, config)
    views = open_views(shards_dir, config)
    if not views.source.identity.is_of(read_state(checkpoint)[2]):
        raise CheckpointError(
            f"{shards_dir} is not the shard set that {run_dir} was trained on; give that one: "
            f"--shards NAME"
        )
    steps = run_length(config, views).steps
    if step > steps:
        raise UsageError(f"--step {step}: {run_dir} has {counted(steps, 'step')}")
    size = config.optim.global_batch_size
    positions = list(range(first, first + size))
    with numerics(config.optim, world.device):
        losses: dict[int, float] = {}
        if rank_clips:
            values = _clip_losses(checkpoint, config, views, positions, step, world)
            losses = dict(zip(positions, values, strict=True))
            positions.sort(key=lambda position: -losses[position])
        lines = {line["step"]: line for line in read_metrics(run_dir / METRICS_FILE)}
        backbone = load_network(checkpoint)[1].backbone.to(world.device)
        heads, clips = shown_heads(backbone, config), list[RewoundClip]()
        facts = {"run": run_dir.name, "step": checkpoint_step, "palette": "rgb"}
        for position in positions[:num_clips]:
            clip = views.source[views.sampler.key_at(position)]
            masks, _ = draw_clip(clip, backbone, heads, config, facts)
            clips.append(_clip(views, position, losses.get(position), masks))
        return RewoundStep(
            run=run_dir,
            step=step,
            num_clips=size,
            metrics=lines.get(step),
            before=_medians([lines[at] for at in range(step - BEFORE, step) if at in lines]),
            checkpoint=checkpoint,
            checkpoint_step=checkpoint_step,
            clips=tuple(clips),
        )


def _medians(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Return the median of each metric over the steps that have it."""
    found: dict[str, list[float]] = {}
    for line in lines:
        for name, value in line.items():
            if isinstance(value, int | float) and name != "step":
                found.setdefault(name, []).append(value)
    return {name: median(values) for name, values in found.items()}


def _nearest(run_dir: Path, step: int) -> tuple[Path, int, TrainConfig]:
    """Return the whole checkpoint nearest to the beginning of a step, its step and config."""
    oldest_first = reversed(step_dirs(run_dir))
    for path in sorted(oldest_first, key=lambda path: abs(step_of(path) - (step - 1))):
        if find_damage(path) is None:
            return path, step_of(path), read_state(path)[1]
    raise CheckpointError(f"{run_dir} has no whole checkpoint; give the folder of a run that has")


def _first_position(checkpoint: Path, steps: int, config: TrainConfig) -> int:
    """Return the position at which the step begins that is so many steps after a checkpoint's.

    Counted from there, since a run may have been resumed with another batch size.
    """
    try:
        position = int(read_json(checkpoint / STATE)["next_position"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint / STATE} is damaged: no next_position") from error
    first = position + steps * config.optim.global_batch_size
    if first < 0:
        raise CheckpointError(
            f"{checkpoint} is of another batch size than the steps before it, of which no "
            f"checkpoint is kept: keep some with checkpoint.keep_every"
        )
    return first


def _clip_losses(
    checkpoint: Path,
    config: TrainConfig,
    views: ClipViews,
    positions: list[int],
    step: int,
    world: World,
) -> list[float]:
    """Return the loss of each clip of a step, with a checkpoint's weights."""
    if not is_additive(config):
        raise UsageError(
            f"--rank: the loss of this run (method={config.method}) compares the clips of a step "
            f"with each other, and is not one of a single clip"
        )
    state = build_state(config, world)
    load_state(checkpoint, state)
    of_step = make_views(views.batch(positions), config, world.device)
    torch.manual_seed(derived_seed(config.seed, "drop_path", step - 1, world.rank))
    now = run_length(config, views).at(step - 1)
    with torch.no_grad(), autocast(config, world.device):
        targets = state.method.prepare(of_step, now)
        parts = micro_batches(of_step, targets, len(positions))
        losses = [float(state.method(some, those).loss) for some, those, _ in parts]
    if not all(map(math.isfinite, losses)):
        raise TrainingError(f"{checkpoint} gives a loss that is not finite: `wtours replay`")
    return losses


def _clip(views: ClipViews, position: int, loss: float | None, masks: Image.Image) -> RewoundClip:
    clip = views.source[views.sampler.key_at(position)]
    height, width = clip.decode()[0].shape[:2]
    box, draws = views.drawn(position, height=height, width=width)
    pictures = views.batch([position]).frames[0].permute(0, 2, 3, 1).numpy()
    global_boxes, local_boxes = draws.global_boxes.tolist(), draws.local_boxes.tolist()
    scale = -(-_MIN_SIDE // len(pictures[0]))
    images = []
    for frame, picture in enumerate(pictures):
        size = (picture.shape[1] * scale, picture.shape[0] * scale)
        image = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(image)
        for boxes, color in (
            ([of_crop[frame] for of_crop in local_boxes], _LOCAL),
            (global_boxes, _GLOBAL),
        ):
            for crop in boxes:
                top, left, tall, wide = (pixels * scale for pixels in crop)
                draw.rectangle((left, top, left + wide - 1, top + tall - 1), outline=color)
        images.append(np.asarray(image))
    facts = {
        **views.describe(position),
        "frame_crop": box.tolist(),
        "global_crops": global_boxes,
        "flipped": draws.flips.tolist(),
        "local_crops": local_boxes,
        **({} if loss is None else {"loss": loss}),
    }
    return RewoundClip(facts, Image.fromarray(np.concatenate(images, axis=1)), masks)
