"""What DINO and DORA share: a student, its EMA teacher, and the cross-entropy between them."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from training.config.train import TrainConfig
from training.distributed.sharding import local
from training.losses.collapse_metrics import embedding_metrics, mask_overlap
from training.losses.cross_entropy import distillation_losses
from training.losses.dino import combine, entropy, teacher_probabilities, update_center
from training.losses.koleo import koleo
from training.losses.sinkhorn import sinkhorn_teacher
from training.methods.base import Method, Network, StepOutput, Targets, Views, frozen_throughout
from training.models.projection_heads import DinoHead
from training.models.vit import encode
from training.models.vit_blocks import SharedDropPath
from training.schedules import Progress


@dataclass(frozen=True)
class TeacherOutput(Targets):
    """What the teacher gives of G global views of B clips of T frames."""

    probabilities: Tensor
    """(G, B, T, K) float32, the student's targets for each global view."""
    masks: Tensor | None
    """(G, B, O, T, N) what the student sees of each global view; None: all of it."""
    tokens: Tensor
    """(G * B * T, D) the CLS tokens that the probabilities come from."""
    num_visible: Tensor | None = field(default=None, kw_only=True)
    """(G, B, O, T) int64 on the CPU, the patches that a mask leaves; None: the student computes the
    hidden ones, too."""

    def clips(self, part: slice) -> "TeacherOutput":
        """Return the output for some of the clips."""
        masks = None if self.masks is None else self.masks[:, part]
        counts = None if self.num_visible is None else self.num_visible[:, part]
        return replace(
            self, probabilities=self.probabilities[:, part], masks=masks, num_visible=counts
        )

    def metrics(self) -> dict[str, Tensor]:
        """Return how sharp and how diverse the teacher is, and what the masks hide.

        `teacher_entropy` is the floor of the loss, and log K where the teacher has collapsed to the
        uniform answer; `teacher_mean_entropy` is 0 where it gives one answer to everything.
        """
        probabilities, masks = self.probabilities, self.masks
        overlap = mask_overlap(masks)
        return {
            "teacher_entropy": entropy(probabilities).mean(),
            "teacher_mean_entropy": entropy(probabilities.flatten(0, -2).mean(dim=0)),
            "mask_coverage": probabilities.new_ones(()) if masks is None else masks.mean(),
            **embedding_metrics(self.tokens, with_rank=self.measures_rank),
            **({} if overlap is None else {"mask_overlap": overlap}),
        }


class StudentTeacher(Method[TeacherOutput]):
    """Self-distillation with DINO's head; subclasses say what the teacher and the student see."""

    evaluated = "teacher"
    teacher: Network
    center: Tensor
    """(K,) float32, the moving mean of the teacher's logits."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.teacher = make_teacher(self.student)
        self.register_buffer("center", torch.zeros(config.model.num_prototypes))
        self._next_center: Tensor | None = None

    @classmethod
    def build_head(cls, config: TrainConfig, width: int) -> DinoHead:
        """Return DINO's head."""
        model = config.model
        return DinoHead(
            width,
            model.num_prototypes,
            hidden_dim=model.head_hidden_dim,
            batch_norm=model.head_batch_norm,
            norm_last_layer=model.norm_last_layer,
        )

    def teacher_forward(self, views: Views, now: Progress) -> tuple[Tensor, Tensor | None]:
        """Return the teacher's CLS tokens of the global views (G * B * T, D), and the masks."""
        raise NotImplementedError

    def encode_student(self, clips: Tensor, targets: TeacherOutput) -> Tensor:
        """Return the student's CLS tokens (V, M, T, D) of V views of clips (M, T, 3, H, W)."""
        raise NotImplementedError

    @torch.no_grad()
    def prepare(self, views: Views, now: Progress) -> TeacherOutput:
        """Return the teacher's output for the whole batch.

        Whatever looks at the batch (the threshold of the masks, the center, the balanced teacher, a
        batch norm in the head) looks at all of it, in however many micro-batches the backbone sees
        it.
        """
        tokens, masks = self.teacher_forward(views, now)
        logits = self.teacher.head(tokens).reshape(*views.global_clips.shape[:3], -1)
        with torch.autocast(logits.device.type, enabled=False):
            momentum = self.config.loss.center_momentum
            self._next_center = update_center(self.center, logits, momentum=momentum)
            temp = self.scheduled(now)["teacher_temp"]
            return TeacherOutput(
                self.probabilities(logits, self.center, temp),
                masks,
                tokens,
                measures_rank=self.measures_rank(now),
            )

    def forward(self, views: Views, targets: TeacherOutput) -> StepOutput:
        """Return the student's loss.

        With two global views the teacher's output for one view is the student's target for the
        other (equation 8), and the local crops have both as targets (equation 9).
        """
        clips, head = views.global_clips.flatten(0, 1), self.student.head
        crops = (encode_views(self.student.backbone, kind) for kind in self.local_kinds(views))
        kinds = [self.encode_student(clips, targets), *crops]
        # The head, and so a batch norm in it, sees the CLS tokens of all views as one batch.
        features = head.project(torch.cat([tokens.flatten(0, 2) for tokens in kinds]))
        output = self.cls_loss(features, kinds, targets)
        # Two global views of an image are to be alike: each is spread among its own.
        num_views = len(kinds[0]) * len(views.global_clips)
        return self.spread(output, kinds[0].reshape(num_views, -1, kinds[0].shape[-1]))

    def spread(self, output: StepOutput, tokens: Tensor) -> StepOutput:
        """Return the output with the KoLeo term of the CLS tokens (V, M, D), if it has a weight."""
        weight = self.config.loss.koleo_weight
        if not weight:
            return output
        with torch.autocast(tokens.device.type, enabled=False):
            term = koleo(tokens)
        metrics = output.metrics | {"loss_koleo": term.detach()}
        return StepOutput(output.loss + weight * term, metrics)

    def local_kinds(self, views: Views) -> list[Tensor]:
        """Return the local crops, (L, B, T, 3, s, s), that the loss has a term for; none: []."""
        # The skipped crops would not enter the loss: the student need not see them.
        local_crops = views.local_crops[self.config.loss.local_crops_skipped :]
        return [local_crops] if len(local_crops) else []

    def cls_loss(
        self, features: Tensor, kinds: Sequence[Tensor], targets: TeacherOutput
    ) -> StepOutput:
        """Return the loss of CLS tokens.

        Args:
            features: (R, c) what the head's last layer gets of all views, kind by kind.
            kinds: Of each view what begins with its shape: (V, G * B, T, ...) of global views, then
                (L, B, T, ...) of local crops, if any.
            targets: From `prepare`.
        """
        loss, last = self.config.loss, self.student.head.last_layer
        # Cross-entropy is linear in its target: against the mean it is the mean over views.
        of_kinds = [targets.probabilities.flip(0).flatten(0, 1), targets.probabilities.mean(dim=0)]
        parts = torch.split(features, [math.prod(kind.shape[:3]) for kind in kinds])
        masked, *rest = distillation_losses(
            [part.reshape(*kind.shape[:3], -1) for part, kind in zip(parts, kinds, strict=True)],
            last.weight_v,
            last.weight_g,
            of_kinds[: len(kinds)],
            student_temp=loss.student_temp,
        )
        local = rest[0] if rest else masked.new_zeros((0, masked.shape[1]))
        with torch.autocast(features.device.type, enabled=False):
            total = combine(
                masked,
                local,
                reduction=loss.reduction,
                object_weights=loss.object_weights,
                global_views=len(targets.probabilities),
            )
            metrics = {"loss_masked": masked.detach().mean(), "loss_local": local.detach().mean()}
            return StepOutput(total, metrics)

    def after_step(self, now: Progress) -> None:
        """Move the teacher after the student, and the center."""
        ema_update(self.teacher, self.student, self.scheduled(now)["momentum"])
        if self._next_center is not None:
            self.center = self._next_center

    def scheduled(self, now: Progress) -> dict[str, float]:
        """Return the teacher's EMA momentum and softmax temperature."""
        optim, loss = self.config.optim, self.config.loss
        return {
            "momentum": now.cosine(start=optim.momentum, end=optim.momentum_end),
            "teacher_temp": now.linear_by_epoch(
                start=loss.warmup_teacher_temp,
                end=loss.teacher_temp,
                epochs=loss.warmup_teacher_temp_epochs,
            ),
        }

    def out_of_reach(self, run: Progress) -> list[str]:
        """Return what a run is too short for: the head's last layer, or the last temperature."""
        frozen = frozen_throughout("the head's last layer is", self.config, run)
        return frozen + self.warm_up("teacher_temp", "loss", self.config.loss.teacher_temp, run)

    def warm_up(self, name: str, section: str, wanted: float, run: Progress) -> list[str]:
        """Return a line that says so where a temperature's warm-up is longer than a run."""
        reached = self.scheduled(run.last)[name]
        epochs = self.config.loss.warmup_teacher_temp_epochs
        if reached == wanted:
            return []
        return [
            f"{section}.{name}={wanted:g} is never reached, {reached:.3g} is: its warm-up "
            f"(loss.warmup_teacher_temp_epochs={epochs:g}) is longer than the run's {run.length}; "
            f"set it lower"
        ]

    def teacher_parts(self, clips: Tensor) -> tuple[Tensor, ...]:
        """Return clips in the parts in which the teacher's backbone sees them."""
        return clips.tensor_split(min(self.config.optim.accumulation_steps, len(clips)))

    def grid_of(self, views: Views) -> tuple[int, int]:
        """Return the rows and columns of patches of a global view."""
        patch = self.student.backbone.patch_embed.patch_size[0]
        height, width = views.global_clips.shape[-2:]
        return height // patch, width // patch

    def encode_whole(self, views: Views) -> Tensor:
        """Return the teacher's CLS tokens of the global views, (G * B * T, D)."""
        parts = self.teacher_parts(views.global_clips.flatten(0, 1))
        return torch.cat([encode(self.teacher.backbone, part.flatten(0, 1)) for part in parts])

    def probabilities(self, logits: Tensor, center: Tensor, temp: float) -> Tensor:
        """Return the teacher's softmax, float32, of logits (..., K): centered, or balanced."""
        loss = self.config.loss
        if loss.teacher_centering == "mean":
            return teacher_probabilities(logits, center, temp=temp)
        rows, iterations = logits.flatten(0, -2), loss.sinkhorn_iterations
        return sinkhorn_teacher(rows, temp=temp, iterations=iterations).reshape(logits.shape)


def encode_views(backbone: VisionTransformer, views: Tensor) -> Tensor:
    """Return the CLS tokens, (V, M, T, D), of V views of clips (V, M, T, 3, H, W)."""
    return encode(backbone, views.flatten(0, 2)).reshape(*views.shape[:3], -1)


def make_teacher(student: Network) -> Network:
    """Return a copy of the student without gradients and without stochastic depth.

    It stays in training mode as in DINO: that matters to batch norm only, which then uses the
    statistics of the teacher's own batch.
    """
    teacher = copy.deepcopy(student)
    teacher.requires_grad_(False)
    for module in teacher.modules():
        if isinstance(module, SharedDropPath):
            module.turn_off()
    return teacher


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Set each weight of the teacher to momentum * teacher + (1 - momentum) * student.

    Args:
        teacher: Changed in place; its buffers (batch norm's running statistics) are left alone.
        student: The network itself, not DDP's wrapper.
        momentum: In [0, 1].
    """
    ours = [local(weight) for weight in teacher.parameters()]
    theirs = [local(weight) for weight in student.parameters()]
    torch._foreach_mul_(ours, momentum)
    torch._foreach_add_(ours, theirs, alpha=1 - momentum)
