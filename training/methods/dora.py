"""One step of DORA or DINO: the teacher's lesson (tracking, masks, targets), the student's loss."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from training.config.train import TrainConfig
from training.losses.dino import (
    LossParts,
    LossSettings,
    combine,
    entropy,
    teacher_probabilities,
    update_center,
)
from training.losses.sinkhorn import sinkhorn_teacher, unchanged
from training.methods.base import Views
from training.methods.object_tracking import (
    TrackingSettings,
    apply_masks,
    object_masks,
    track_objects,
)
from training.methods.student_teacher import Network
from training.models.vit import encode, encode_with_attention


@dataclass(frozen=True)
class Lesson:
    """What the teacher has to say of B clips; without gradients.

    Attributes:
        targets: (G, B, T, K) float32, its probabilities for each global view.
        masks: (G, B, O, T, N) what the student sees of each global view; None: all of it.
        center: (K,) the center to use in the next step.
        entropy: Mean entropy of the probabilities, nats.
        mean_entropy: Entropy of the mean probabilities, nats.
        mask_coverage: Mean of the masks.
        tokens: (G * B * T, D) the CLS tokens that the answers were read from.
    """

    targets: Tensor
    masks: Tensor | None
    center: Tensor
    entropy: Tensor
    mean_entropy: Tensor
    mask_coverage: Tensor
    tokens: Tensor


@dataclass(frozen=True, kw_only=True)
class DoraSettings:
    """The method's constants; the defaults are those of the released code."""

    method: Literal["dora", "dino", "dora_images"] = "dora"
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    loss: LossSettings = field(default_factory=LossSettings)

    @property
    def finds_objects(self) -> bool:
        """Whether the masks come from the teacher's attention."""
        return self.method != "dino" and self.tracking.mask != "random_blocks"


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Reductions of a tensor over all ranks; by default there is one rank."""

    all_mean: Callable[[Tensor], Tensor] = unchanged
    all_sum: Callable[[Tensor], Tensor] = unchanged
    all_max: Callable[[Tensor], Tensor] = unchanged


ONE_RANK = Ranks()


@torch.no_grad()
def teach(  # noqa: PLR0913 - networks, clips, and what the step has scheduled and drawn
    teacher: Network,
    clips: Tensor,
    *,
    settings: DoraSettings,
    center: Tensor,
    teacher_temp: float,
    heads: Tensor | None = None,
    masks: Tensor | None = None,
    num_parts: int = 1,
    ranks: Ranks = ONE_RANK,
) -> Lesson:
    """Return the teacher's lesson on all of this rank's clips of a step.

    Whatever looks at the batch (the threshold of the masks, the center, the balanced teacher, a
    batch norm in the head) looks at all of it, in however many parts the backbone sees it.

    Args:
        teacher: The student's moving average.
        clips: (G, B, T, 3, H, W) global views.
        settings: The method's constants.
        center: (K,) float32, the center before this step.
        teacher_temp: Softmax temperature, > 0.
        heads: (O,) int64 from `draw_heads`, the same on every rank; for `settings.finds_objects`.
        masks: (G, B, O, T, N) drawn beforehand, for random blocks.
        num_parts: Parts in which the clips go through the backbone.
        ranks: Reductions over ranks.
    """
    every = clips.flatten(0, 1)
    looks = [
        _look(teacher, part, heads, settings)
        for part in every.tensor_split(min(num_parts, len(every)))
    ]
    tokens = torch.cat([part for part, _ in looks])
    logits = teacher.head(tokens).reshape(*clips.shape[:3], -1)
    maps = [part for _, part in looks if part is not None]
    if maps:
        found = object_masks(torch.cat(maps), mask=settings.tracking.mask, all_mean=ranks.all_mean)
        masks = found.reshape(*clips.shape[:2], *found.shape[1:])
    with torch.autocast(center.device.type, enabled=False):
        targets = _targets(logits, center, teacher_temp, settings.loss, ranks)
        momentum = settings.loss.center_momentum
        return Lesson(
            targets=targets,
            masks=masks,
            center=update_center(center, logits, momentum=momentum, all_mean=ranks.all_mean),
            entropy=entropy(targets).mean(),
            mean_entropy=entropy(targets.flatten(0, -2).mean(dim=0)),
            mask_coverage=center.new_ones(()) if masks is None else masks.mean(),
            tokens=tokens,
        )


def learn(student: nn.Module, views: Views, lesson: Lesson, settings: DoraSettings) -> LossParts:
    """Return the loss of these clips; its mean over ranks and parts is that of the global batch.

    With two global views the teacher's answer to the one is what the student is to say of the
    other (equation 8), and the local crops answer to both (equation 9).

    Args:
        student: A `Network`, or DDP around one; called once.
        views: The clips.
        lesson: Of the same clips.
        settings: The method's constants.
    """
    clips = views.global_clips.flatten(0, 1)
    seen = clips[None] if lesson.masks is None else apply_masks(clips, lesson.masks.flatten(0, 1))
    kinds, targets = [seen], [lesson.targets.flip(0).flatten(0, 1)]  # of the other view
    # The skipped crops would not enter the loss: the student need not see them.
    local_crops = views.local_crops[settings.loss.local_crops_skipped :]
    if len(local_crops):
        kinds.append(local_crops)
        # Cross-entropy is linear in its target: against the mean it is the mean over views.
        targets.append(lesson.targets.mean(dim=0))
    masked, *rest = student(kinds, targets, settings.loss.student_temp)
    local = rest[0] if rest else masked.new_zeros((0, masked.shape[1]))
    with torch.autocast(clips.device.type, enabled=False):
        return LossParts(
            total=combine(masked, local, settings.loss, global_views=len(views.global_clips)),
            masked=masked.detach().mean(),
            local=local.detach().mean(),
            teacher_entropy=lesson.entropy,
            teacher_mean_entropy=lesson.mean_entropy,
            mask_coverage=lesson.mask_coverage,
            center=lesson.center,
        )


def in_parts(views: Views, lesson: Lesson, num_parts: int) -> Iterator[tuple[Views, Lesson]]:
    """Yield the clips and their lesson in parts of as equal a size as can be, none empty."""
    num_clips = views.global_clips.shape[1]
    for some in torch.arange(num_clips).tensor_split(min(num_parts, num_clips)):
        part = slice(int(some[0]), int(some[-1]) + 1)
        yield (
            Views(views.global_clips[:, part], views.local_crops[:, part]),
            replace(
                lesson,
                targets=lesson.targets[:, part],
                masks=None if lesson.masks is None else lesson.masks[:, part],
            ),
        )


def _look(
    teacher: Network, clips: Tensor, heads: Tensor | None, settings: DoraSettings
) -> tuple[Tensor, Tensor | None]:
    """Return CLS tokens (M * T, D) of M clips and, if they are looked for, maps (M, O, T, N)."""
    frames = clips.flatten(0, 1)
    if heads is None or not settings.finds_objects:
        return encode(teacher.backbone, frames), None
    tracking = settings.tracking
    features = encode_with_attention(
        teacher.backbone,
        frames,
        num_heads=tracking.num_heads,
        attention_scale=tracking.attention_scale,
    )
    maps = track_objects(features, heads, clip_length=clips.shape[1], settings=tracking)
    return features.cls_token, maps


def _targets(
    logits: Tensor, center: Tensor, temp: float, settings: LossSettings, ranks: Ranks
) -> Tensor:
    """Return the teacher's probabilities, (G, B, T, K) float32."""
    if settings.teacher_centering == "mean":
        return teacher_probabilities(logits, center, temp=temp)
    balanced = sinkhorn_teacher(
        logits.flatten(0, -2),
        temp=temp,
        iterations=settings.sinkhorn_iterations,
        all_sum=ranks.all_sum,
        all_max=ranks.all_max,
    )
    return balanced.reshape(logits.shape)


def method_settings(config: TrainConfig) -> DoraSettings:
    """Return the method's constants of a config."""
    tracking, loss = config.tracking, config.loss
    return DoraSettings(
        method=config.method,
        tracking=TrackingSettings(**tracking.model_dump()),
        loss=LossSettings(
            **loss.model_dump(
                exclude={"teacher_temp", "warmup_teacher_temp", "warmup_teacher_temp_epochs"}
            )
        ),
    )
