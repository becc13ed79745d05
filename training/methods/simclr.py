"""SimCLR (Chen et al. 2020) on clips: an image's views attract, all other images repel."""

import torch

from training.config.train import TrainConfig
from training.losses.simclr import nt_xent
from training.methods.base import StepOutput, Targets, Views
from training.methods.one_network import OneNetwork, encode_views, token_metrics
from training.models.projection_heads import Projector
from training.transfer import send
from wtours.errors import UsageError


class Simclr(OneNetwork):
    """SimCLR; every view of every frame is an anchor, local crops too where there are any."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        if config.optim.global_batch_size < 2 and config.simclr.siblings != "negative":
            raise UsageError(
                "method=simclr needs optim.global_batch_size of at least 2: with one clip in a "
                "step no image has a negative"
            )

    @classmethod
    def build_head(cls, config: TrainConfig, width: int) -> Projector:
        """Return SimCLR's projector."""
        model, out_dim = config.model, config.simclr.output_dim
        return Projector(width, (model.head_hidden_dim,), out_dim, batch_norm=model.head_batch_norm)

    def forward(self, views: Views, targets: Targets) -> StepOutput:
        """Return NT-Xent over the frames of all ranks' clips."""
        simclr = self.config.simclr
        tokens = encode_views(self.student, views)
        # The number of each frame and of its clip, (B * T,), the same on all ranks.
        clip_length = views.global_clips.shape[2]
        (positions,) = send([views.positions], tokens.device)
        clips = positions.repeat_interleave(clip_length)
        frames = torch.arange(clip_length, device=clips.device).repeat(len(positions))
        images = clips * clip_length + frames
        loss = nt_xent(
            self.student.head(tokens.flatten(0, 1)),
            images.repeat(len(tokens)),
            clips.repeat(len(tokens)),
            temperature=simclr.temperature,
            siblings=simclr.siblings,
        )
        return StepOutput(loss, token_metrics(tokens, targets))
