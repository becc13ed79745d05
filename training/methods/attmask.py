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
        shape = (*views.global_clips.shape[:3], attention.shape[-1])
        ratio, shown = self.draw_ratios(now)
        candidates = int(attention.shape[-1] * HINT_SHARE)
        draws = [self._draws(position, shape, candidates) for position in views.positions.tolist()]
        coins, order = (
            torch.from_numpy(np.stack(part, axis=1)) for part in zip(*draws, strict=True)
        )
        masks = attention_masks(
            attention,
            ratio=ratio,
            kind=self.config.attmask.kind,
            shown=shown,
            order=order.flatten(0, 2),
        )
        has_mask = coins < self.config.ibot.masked_probability
        return masks.reshape(shape) & has_mask[..., None].to(masks.device)

    def draw_ratios(self, now: Progress) -> tuple[float, float]:
        """Return the step's shares of patches: masked, and shown by a hint; alike on all ranks."""
        low, high = self.config.ibot.mask_ratio
        ratios = numpy_generator(self.config.seed, "attmask_ratio", now.step).uniform(low, high, 2)
        return float(ratios[0]), self.config.attmask.hint_share * float(ratios[1])

    def _draws(
        self, position: int, shape: tuple[int, ...], candidates: int
    ) -> tuple[np.ndarray, np.ndarray]:
        generator = numpy_generator(self.config.seed, "attmask", position)
        views, _, frames, _ = shape
        return generator.random((views, frames)), generator.random((views, frames, candidates))
