"""SwAV (Caron et al. 2020) on clips: each view predicts the balanced codes of the other views."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.config.train import TrainConfig
from training.losses.dino import entropy
from training.losses.swav import balanced_codes, enqueue, is_full, part_of_rank, swapped_prediction
from training.methods.base import Method, StepOutput, Targets, Views, frozen_throughout
from training.methods.one_network import encode_views, token_metrics
from training.models.projection_heads import SwavHead
from training.schedules import Progress


@dataclass(frozen=True)
class SwavTargets(Targets):
    """What a step knows before its forward pass."""

    queue: Tensor | None
    """(G, q, c) this rank's part of the full queue; None: there is none to be used."""


class Swav(Method[SwavTargets]):
    """SwAV with one batch norm over the crops of both sizes, as in its authors' code."""

    additive = False
    queue: Tensor
    """(G, Q, c) float32 features of past global views, newest first, the same on every rank."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        shape = (config.data.global_crops, config.swav.queue_length, config.swav.output_dim)
        self.register_buffer("queue", torch.zeros(shape))
        self._features: Tensor | None = None
        self._is_full = False

    @classmethod
    def build_head(cls, config: TrainConfig, width: int) -> SwavHead:
        """Return SwAV's head with its prototypes."""
        model = config.model
        return SwavHead(
            width,
            model.num_prototypes,
            hidden_dims=(model.head_hidden_dim,),
            out_dim=config.swav.output_dim,
            batch_norm=model.head_batch_norm,
        )

    def prepare(self, views: Views, now: Progress) -> SwavTargets:
        """Return the queue, once it is full: a zero row is no image."""
        if self._queues(now) and not self._is_full:  # once full, it stays so
            self._is_full = is_full(self.queue)
        is_used = self._queues(now) and self._is_full
        queue = part_of_rank(self.queue) if is_used else None
        return SwavTargets(queue, measures_rank=self.measures_rank(now))

    def forward(self, views: Views, targets: SwavTargets) -> StepOutput:
        """Return the swapped prediction loss over the frames of all ranks' clips."""
        swav, head = self.config.swav, self.student.head
        tokens = encode_views(self.student, views)
        features = head.project(tokens.flatten(0, 1)).reshape(*tokens.shape[:2], -1)
        logits = head.last_layer(features)
        global_views = len(views.global_clips)
        self._features = features[:global_views].detach()
        with torch.no_grad(), torch.autocast(tokens.device.type, enabled=False):
            queued = [None] * global_views
            if targets.queue is not None:
                queued = list(head.last_layer(targets.queue))
            codes = torch.stack(
                [
                    balanced_codes(
                        logits[view],
                        queued[view],
                        epsilon=swav.epsilon,
                        iterations=swav.sinkhorn_iterations,
                    )
                    for view in range(global_views)
                ]
            )
        with torch.autocast(tokens.device.type, enabled=False):
            loss = swapped_prediction(logits, codes, temperature=swav.temperature)
        metrics = {
            "code_entropy": entropy(codes).mean(),
            "queue_used": loss.new_full((), float(targets.queue is not None)),
        }
        return StepOutput(loss, metrics | token_metrics(tokens, targets))

    def after_step(self, now: Progress) -> None:
        """Put the step's features into the queue."""
        if self._queues(now) and self._features is not None:
            self.queue = enqueue(self.queue, self._features)

    def out_of_reach(self, run: Progress) -> list[str]:
        """Return what a run is too short for: trained prototypes, or a full queue."""
        swav, rows = self.config.swav, self.config.optim.global_batch_size
        lines = frozen_throughout("the prototypes are", self.config, run)
        before = math.ceil(swav.queue_start_epoch * run.steps_per_epoch)
        filled_in = math.ceil(swav.queue_length / (rows * self.config.data.clip_length))
        if swav.queue_length and before + filled_in >= run.steps:
            lines.append(
                f"the queue is never used: filled from epoch swav.queue_start_epoch="
                f"{swav.queue_start_epoch:g} on, its swav.queue_length={swav.queue_length} images "
                f"are not full in the run's {run.length}; set them lower, or swav.queue_length=0"
            )
        return lines

    def _queues(self, now: Progress) -> bool:
        swav = self.config.swav
        return swav.queue_length > 0 and now.epoch >= swav.queue_start_epoch
