"""iBOT (Zhou et al. 2022) on clips: DINO whose student also fills in masked patches.

The student sees its global views with a mask token in the place of some patches; at these, its
output is to be the teacher's, which sees the whole view. Frames are independent images.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from training.config.train import TrainConfig
from training.losses.cross_entropy import cross_entropies
from training.losses.dino import entropy, update_center
from training.losses.ibot import patch_loss
from training.methods.base import Network, StepOutput, Views
from training.methods.masking import ibot_masks
from training.methods.student_teacher import StudentTeacher, TeacherOutput
from training.models.projection_heads import DinoHead
from training.models.vit import encode, encode_tokens
from training.schedules import Progress
from training.transfer import send


class MaskedNetwork(Network):
    """A network with what stands in the place of a masked patch; a teacher's is not used."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.backbone, network.head)
        self.mask_token = nn.Parameter(torch.zeros(1, network.backbone.embed_dim))


@dataclass(frozen=True)
class IbotTargets(TeacherOutput):
    """What the teacher gives of the global views and of their masked patches."""

    hidden: Tensor
    """(G, B, T, N) bool, the patches that the student does not see."""
    rows: Tensor
    """(R,) int64, where `hidden.flatten()` is True."""
    counts: Tensor
    """(G, B) int64 on the CPU, the masked patches of each clip: the host knows shapes without
    waiting for the device."""
    patch_probabilities: Tensor
    """(R, K) float32 of the R masked patches, in the order of `hidden`."""

    def clips(self, part: slice) -> "IbotTargets":
        """Return the output for some of the clips."""
        hidden, counts = self.hidden[:, part], self.counts[:, part]
        of_clip, new_clip = self.hidden[0, 0].numel(), hidden[0].numel()
        ends = self.counts.flatten().cumsum(0).reshape(self.counts.shape)
        rows, probabilities = [], []
        for view in range(len(counts)):
            last = int(ends[view, part][-1])
            chosen = slice(last - int(counts[view].sum()), last)
            first_patch = (view * self.counts.shape[1] + part.start) * of_clip
            rows.append(self.rows[chosen] - first_patch + view * new_clip)
            probabilities.append(self.patch_probabilities[chosen])
        return replace(
            self,
            probabilities=self.probabilities[:, part],
            hidden=hidden,
            rows=torch.cat(rows),
            counts=counts,
            patch_probabilities=torch.cat(probabilities),
        )

    def metrics(self) -> dict[str, Tensor]:
        """Return the teacher's metrics, of patches too, and the share of visible patches."""
        rows = self.patch_probabilities
        metrics = super().metrics() | {"mask_coverage": 1 - self.hidden.float().mean()}
        if len(rows) == 0:  # of no use to the mean over ranks, where another has some
            rows = self.probabilities.flatten(0, -2)
        return metrics | {
            "patch_entropy": entropy(rows).mean(),
            "patch_mean_entropy": entropy(rows.mean(dim=0)),
        }


class Ibot(StudentTeacher):
    """iBOT; one head for CLS and patch tokens, as its authors' commands have it."""

    student: MaskedNetwork
    patch_center: Tensor
    """(K,) float32, the moving mean of the teacher's logits of patches, masked or not."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.register_buffer("patch_center", torch.zeros(config.model.num_prototypes))
        self._next_patch_center: Tensor | None = None

    @classmethod
    def build_network(cls, config: TrainConfig) -> Network:
        """Return an untrained backbone, DINO's head, and a mask token of zeros."""
        return MaskedNetwork(super().build_network(config))

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the teacher's CLS tokens (M, D), patch tokens (M, N, D) and no attention."""
        tokens = encode_tokens(self.teacher.backbone, frames)
        return tokens.cls_token, tokens.patch_tokens, None

    def draw_masks(
        self, views: Views, now: Progress, attention: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the patches that the student does not see, (G, B, T, N) bool.

        And how many of each clip these are, (G, B) int64 on the CPU.
        """
        clips, ibot = views.global_clips, self.config.ibot
        masks = ibot_masks(
            self.config.seed,
            views.positions,
            shape=(clips.shape[0], clips.shape[2]),
            grid=self.grid_of(views),
            ratios=ibot.mask_ratio,
            masked_probability=ibot.masked_probability,
        )
        return masks, masks.flatten(2).sum(dim=-1)

    @torch.no_grad()
    def prepare(self, views: Views, now: Progress) -> IbotTargets:
        """Return the teacher's output for the CLS tokens and the masked patches of the batch."""
        clips, head = views.global_clips, self.teacher.head
        parts = [
            self.encode_frames(part.flatten(0, 1))
            for part in self.teacher_parts(clips.flatten(0, 1))
        ]
        tokens, patches = (torch.cat(some) for some in zip(*(p[:2] for p in parts), strict=True))
        attention = [part[2] for part in parts if part[2] is not None]
        hidden, counts = self.draw_masks(views, now, torch.cat(attention) if attention else None)
        if hidden.device.type == "cpu":
            hidden, rows = send([hidden, hidden.flatten().nonzero()[:, 0]], clips.device)
        else:
            rows = hidden.flatten().nonzero_static(size=int(counts.sum()))[:, 0]
        features = head.project(torch.cat([tokens, patches.flatten(0, 1)]))
        of_cls, of_patches = features[: len(tokens)], features[len(tokens) :]
        values, loss, ibot = self.scheduled(now), self.config.loss, self.config.ibot
        with torch.autocast(clips.device.type, enabled=False):
            logits = head.last_layer(of_cls).reshape(*clips.shape[:3], -1)
            # Logits are linear in features: their mean needs no logits of the patches in sight.
            mean_logits = head.last_layer(of_patches.float().mean(dim=0, keepdim=True))
            patch_logits = head.last_layer(of_patches[rows])
            self._next_center = update_center(self.center, logits, momentum=loss.center_momentum)
            self._next_patch_center = update_center(
                self.patch_center, mean_logits, momentum=ibot.patch_center_momentum
            )
            return IbotTargets(
                probabilities=self.probabilities(logits, self.center, values["teacher_temp"]),
                masks=None,
                tokens=tokens,
                measures_rank=self.measures_rank(now),
                hidden=hidden,
                rows=rows,
                counts=counts,
                patch_probabilities=self.probabilities(
                    patch_logits, self.patch_center, values["patch_temp"]
                ),
            )

    def forward(self, views: Views, targets: TeacherOutput) -> StepOutput:
        """Return the sum of the loss of the CLS tokens and that of the masked patches."""
        assert isinstance(targets, IbotTargets)  # of `prepare`
        student, last = self.student, self.student.head.last_layer
        clips, hidden = views.global_clips, targets.hidden.flatten(0, 2)
        whole = encode_tokens(
            student.backbone, clips.flatten(0, 2), masks=hidden, mask_token=student.mask_token
        )
        crops = self.local_kinds(views)
        tokens = [whole.cls_token, *(encode(student.backbone, c.flatten(0, 2)) for c in crops)]
        of_cls, of_patches = _project(
            student.head, torch.cat(tokens), whole.patch_tokens, targets.rows
        )
        output = self.cls_loss(of_cls, [clips.flatten(0, 1)[None], *crops], targets)
        output = self.spread(output, whole.cls_token.reshape(len(clips), -1, tokens[0].shape[-1]))
        (entropies,) = cross_entropies(
            [of_patches[None]],
            last.weight_v,
            last.weight_g,
            [targets.patch_probabilities],
            student_temp=self.config.loss.student_temp,
        )
        of_masked = patch_loss(entropies[0], hidden, targets.rows)
        return StepOutput(
            output.loss + self.config.ibot.patch_weight * of_masked,
            output.metrics | {"loss_patch": of_masked.detach()},
        )

    def after_step(self, now: Progress) -> None:
        """Move the teacher after the student, and both centers."""
        super().after_step(now)
        if self._next_patch_center is not None:
            self.patch_center = self._next_patch_center

    def scheduled(self, now: Progress) -> dict[str, float]:
        """Return the teacher's EMA momentum and its temperatures for CLS tokens and patches."""
        ibot = self.config.ibot
        patch_temp = now.linear_by_epoch(
            start=ibot.warmup_patch_temp,
            end=ibot.patch_temp,
            epochs=self.config.loss.warmup_teacher_temp_epochs,
        )
        return super().scheduled(now) | {"patch_temp": patch_temp}

    def out_of_reach(self, run: Progress) -> list[str]:
        """Return what a run is too short for, the last temperature of patches too."""
        of_patches = self.warm_up("patch_temp", "ibot", self.config.ibot.patch_temp, run)
        return super().out_of_reach(run) + of_patches


def _project(
    head: DinoHead, tokens: Tensor, patches: Tensor, masked: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the features (M, c) of CLS tokens and (R, c) of the R masked patches, of all patches.

    The other patches go through the head only where its batch norm would miss them.
    """
    patches = patches.flatten(0, 1)
    rows = patches if head.has_batch_norm else patches[masked]
    features = head.project(torch.cat([tokens, rows]))
    of_cls, of_patches = features[: len(tokens)], features[len(tokens) :]
    return of_cls, of_patches[masked] if head.has_batch_norm else of_patches
