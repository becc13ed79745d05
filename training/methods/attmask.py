"""AttMask (Kakogeorgiou et al. 2022) on clips: iBOT that masks what its teacher attends to."""

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

    def draw_masks(
        self, views: Views, now: Progress, attention: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the patches that the student does not see, (G, B, T, N) bool, and their counts.

        The share of masked patches is drawn for the step; whether a frame of a view has a mask, and
        which patches a hint shows, from the clip's position.
        """
        assert attention is not None  # of `encode_frames`
        ratio, shown = self.draw_ratios(now)
        shape = len(views.global_clips), views.global_clips.shape[2]
        num_patches = attention.shape[-1]
        coins, orders = [], []
        for position in views.positions.tolist():
            generator = numpy_generator(self.config.seed, "attmask", position)
            coins.append(generator.random(shape))
            orders.append(generator.random((*shape, int(num_patches * HINT_SHARE))))
        has_mask = torch.from_numpy(np.stack(coins, axis=1)) < self.config.ibot.masked_probability
        order = torch.from_numpy(np.stack(orders, axis=1)).flatten(0, 2)

        def masks_of(attention: Tensor, has_mask: Tensor) -> Tensor:
            kind = self.config.attmask.kind
            masks = attention_masks(attention, ratio=ratio, kind=kind, shown=shown, order=order)
            return masks.reshape(*has_mask.shape, -1) & has_mask[..., None]

        # Which patch gets the most attention is the device's to know; how many are masked is not.
        ranks = -torch.arange(num_patches).expand(has_mask.numel(), -1)
        counts = masks_of(ranks, has_mask).flatten(2).sum(dim=-1)
        (has_mask,) = send([has_mask], attention.device)
        return masks_of(attention, has_mask), counts

    def draw_ratios(self, now: Progress) -> tuple[float, float]:
        """Return the step's shares of patches: masked, and shown by a hint; alike on all ranks."""
        low, high = self.config.ibot.mask_ratio
        ratios = numpy_generator(self.config.seed, "attmask_ratio", now.step).uniform(low, high, 2)
        return float(ratios[0]), self.config.attmask.hint_share * float(ratios[1])
