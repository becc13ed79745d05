"""One step of training: views, loss, gradients, optimizer, teacher."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from training.config.train import TrainConfig
from training.data.clips import Batch
from training.data.multi_crop import make_global, make_local
from training.distributed.collectives import all_max, all_mean, all_sum
from training.distributed.world import World
from training.engine.optim import clip_gradients, drop_last_layer_gradients, set_lr_and_weight_decay
from training.engine.precision import autocast
from training.engine.schedules import StepSettings
from training.engine.state import TrainState
from training.losses.collapse_metrics import effective_rank, embedding_spread, mask_overlap
from training.losses.dino import LossParts
from training.methods.base import Views
from training.methods.dora import (
    Lesson,
    Ranks,
    in_parts,
    learn,
    method_settings,
    teach,
)
from training.methods.masking import block_masks
from training.methods.object_tracking import draw_heads
from training.methods.student_teacher import ema_update, object_heads
from training.rng import derived_seed, torch_generator

RANKS = Ranks(all_mean=all_mean, all_sum=all_sum, all_max=all_max)


@dataclass(frozen=True)
class Gradients:
    """The gradients of a step are in the student; this is what is known of them."""

    parts: LossParts
    norm: Tensor
    """Scalar: norm of all gradients together, before clipping."""
    signs: dict[str, Tensor]
    """Scalars that tell a collapse, see `training.losses.collapse_metrics`."""
    scale: float | None = None
    """What a float16 loss was multiplied by; None: nothing."""

    def is_finite(self) -> bool:
        """Return whether loss and gradients are finite on this rank; waits for the device.

        Gradients that overflow float16 count as finite while their scale can still be lowered: the
        scaler leaves the step out.
        """
        finite = self.parts.total.isfinite()
        if self.scale is None or self.scale <= 1:
            finite = finite & self.norm.isfinite()
        return bool(finite.item())

    def metrics(self) -> dict[str, float]:
        """Return the means over ranks of what is worth logging."""
        parts = self.parts
        named = {
            "loss": parts.total.detach(),
            "loss_masked": parts.masked,
            "loss_local": parts.local,
            "teacher_entropy": parts.teacher_entropy,
            "teacher_mean_entropy": parts.teacher_mean_entropy,
            "mask_coverage": parts.mask_coverage,
            "gradient_norm": self.norm,
            **self.signs,
        }
        values = all_mean(torch.stack([value.float() for value in named.values()]))
        scale = {} if self.scale is None else {"loss_scale": self.scale}
        return dict(zip(named, values.tolist(), strict=True)) | scale


def compute_gradients(
    state: TrainState,
    replica: nn.Module,
    batch: Batch,
    now: StepSettings,
    *,
    config: TrainConfig,
    world: World,
) -> Gradients:
    """Fill the student's gradients, averaged over ranks and clipped, from this rank's clips.

    Args:
        state: The networks and the step; not changed but for the gradients.
        replica: The student, or DDP around it.
        batch: This rank's clips.
        now: The step's scheduled numbers.
        config: Of the run.
        world: This process.
    """
    frames = batch.frames.to(world.device, non_blocking=True)
    views = Views(
        global_clips=make_global(frames, batch.draws, pixels=config.data.global_crop_pixels),
        local_crops=make_local(frames, batch.draws, pixels=config.data.local_crop_pixels),
    )
    # Stochastic depth draws from torch's global generators.
    torch.manual_seed(derived_seed(config.seed, "drop_path", state.step, world.rank))
    state.optimizer.zero_grad(set_to_none=True)
    with autocast(config, world.device):
        lesson = _teach(state, views, batch.positions, now, config)
    parts = _backward(replica, views, lesson, config, state.scaler)
    state.scaler.unscale_(state.optimizer)
    norm = clip_gradients(
        state.student.parameters(), max_norm=config.optim.clip_grad, by=config.optim.clip_grad_by
    )
    if not now.train_last_layer:
        drop_last_layer_gradients(state.student)
    return Gradients(
        parts,
        norm,
        signs_of_collapse(lesson),
        state.scaler.get_scale() if state.scaler.is_enabled() else None,
    )


def _teach(
    state: TrainState, views: Views, positions: Tensor, now: StepSettings, config: TrainConfig
) -> Lesson:
    """Return the teacher's lesson, with what is drawn for the step or for each clip's position."""
    settings, clips = method_settings(config), views.global_clips
    heads = masks = None
    if settings.finds_objects:
        generator = torch_generator(config.seed, "heads", state.step)
        heads = draw_heads(
            object_heads(state.student.backbone, config), settings.tracking.num_objects, generator
        ).to(clips.device)
    elif settings.method != "dino":
        patch = state.student.backbone.patch_embed.patch_size[0]
        masks = block_masks(
            config.seed,
            positions,
            shape=(len(clips), settings.tracking.num_objects, clips.shape[2]),
            grid=(clips.shape[-2] // patch, clips.shape[-1] // patch),
        ).to(clips.device)
    return teach(
        state.teacher,
        clips,
        settings=settings,
        center=state.center,
        teacher_temp=now.teacher_temp,
        heads=heads,
        masks=masks,
        num_parts=config.optim.accumulation_steps,
        ranks=RANKS,
    )


def _backward(
    replica: nn.Module, views: Views, lesson: Lesson, config: TrainConfig, scaler: GradScaler
) -> LossParts:
    """Add up the student's gradients over the parts of a step; return the loss of all its clips."""
    num_clips = views.global_clips.shape[1]
    parts = list(in_parts(views, lesson, config.optim.accumulation_steps))
    values = []
    for number, (some_views, some_lesson) in enumerate(parts, 1):
        with _exchange(replica, now=number == len(parts)):
            with autocast(config, lesson.center.device):
                part = learn(replica, some_views, some_lesson, method_settings(config))
            share = some_views.global_clips.shape[1] / num_clips
            scaler.scale(part.total * share).backward()  # type: ignore[no-untyped-call]
        values.append(torch.stack([part.total.detach(), part.masked, part.local]) * share)
    total, masked, local = torch.stack(values).sum(dim=0)
    return replace(part, total=total, masked=masked, local=local)


def _exchange(replica: nn.Module, *, now: bool) -> AbstractContextManager[object]:
    """Return the context in which ranks exchange gradients `now`, or only add up their own."""
    if now or not isinstance(replica, DistributedDataParallel):
        return nullcontext()
    return replica.no_sync()


def apply_gradients(state: TrainState, gradients: Gradients, now: StepSettings) -> None:
    """Move the student along its gradients, the teacher after it, and the center."""
    set_lr_and_weight_decay(state.optimizer, lr=now.lr, weight_decay=now.weight_decay)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    ema_update(state.teacher, state.student, now.momentum)
    state.center = gradients.parts.center
    state.step += 1


def signs_of_collapse(lesson: Lesson) -> dict[str, Tensor]:
    """Return scalars of this rank's clips: how alike their embeddings and their masks are."""
    signs = {
        "embedding_spread": embedding_spread(lesson.tokens),
        "effective_rank": effective_rank(lesson.tokens),
    }
    overlap = mask_overlap(lesson.masks)
    return signs if overlap is None else signs | {"mask_overlap": overlap}
