"""AttMask (Kakogeorgiou et al. 2022) on clips: iBOT that masks what its teacher attends to."""

import math

import numpy as np
import torch
from torch import Tensor

from training.methods.base import Views
from training.methods.ibot import Ibot
from training.methods.masking import HINT_SHARE, attention_masks
from training.models.vit import encode_with_attention
from training.rng import numpy_generator
from training.schedules import Progress
from training.transfer import send


class Attmask(Ibot):
    """AttMask; its losses are iBOT's."""

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the teacher's tokens and the last block's CLS attention (M, N), mean of heads."""
        features = encode_with_attention(self.teacher.backbone, frames)
        with torch.autocast(frames.device.type, enabled=False):
            # Products in half precision have ties, which a sort would order as it happens to.
            query, key = features.query[:, :, :1].float(), features.key.float()
            rows = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)
        return features.cls_token, features.patch_tokens, rows[:, :, 0, 1:].mean(dim=1)

    def draw_masks(self, views: Views, now: Progress, attention: Tensor | None) -> Tensor:
        """Return the patches that the student does not see, (G, B, T, N) bool.

        The share of masked patches is drawn for the step; whether a frame of a view has a mask, and
        which patches a hint shows, from the clip's position.
        """
        assert attention is not None  # of `encode_frames`
        ratio, shown = self.draw_ratios(now)
        has_mask, order = self._draws(views)
        (has_mask,) = send([has_mask], attention.device)
        masks = attention_masks(
            attention, ratio=ratio, kind=self.config.attmask.kind, shown=shown, order=order
        )
        return masks.reshape(*has_mask.shape, -1) & has_mask[..., None]

    def count_masked(self, views: Views, now: Progress) -> Tensor:
        """Return how many patches of each clip `draw_masks` masks, (G, B) int64 on the CPU."""
        ratio, shown = self.draw_ratios(now)
        has_mask, order = self._draws(views)
        # Which patch gets the most attention is the device's to know; how many are masked is not.
        ranks = -torch.arange(math.prod(self.grid_of(views))).expand(has_mask.numel(), -1)
        masks = attention_masks(
            ranks, ratio=ratio, kind=self.config.attmask.kind, shown=shown, order=order
        )
        return (masks.reshape(*has_mask.shape, -1) & has_mask[..., None]).flatten(2).sum(dim=-1)

    def draw_ratios(self, now: Progress) -> tuple[float, float]:
        """Return the step's shares of patches: masked, and shown by a hint; alike on all ranks."""
        low, high = self.config.ibot.mask_ratio
        ratios = numpy_generator(self.config.seed, "attmask_ratio", now.step).uniform(low, high, 2)
        return float(ratios[0]), self.config.attmask.hint_share * float(ratios[1])

    def _draws(self, views: Views) -> tuple[Tensor, Tensor]:
        """Return whether a frame has a mask (G, B, T), and a hint's order (G * B * T, c); CPU."""
        clips = views.global_clips
        shape = (clips.shape[0], clips.shape[2])
        candidates = int(math.prod(self.grid_of(views)) * HINT_SHARE)
        coins, orders = [], []
        for position in views.positions.tolist():
            generator = numpy_generator(self.config.seed, "attmask", position)
            coins.append(generator.random(shape))
            orders.append(generator.random((*shape, candidates)))
        has_mask = torch.from_numpy(np.stack(coins, axis=1)) < self.config.ibot.masked_probability
        return has_mask, torch.from_numpy(np.stack(orders, axis=1)).flatten(0, 2)
