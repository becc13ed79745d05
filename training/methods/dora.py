"""DORA (paper, section 4): DINO whose student sees the objects that the teacher tracks in a clip.

The teacher's attention finds objects in the first frame and follows them through the clip
(`training.methods.object_tracking`); the student sees the clip once for each object, masked.
"""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from training.config.train import TrainConfig
from training.methods.base import Network, Views
from training.methods.masking import block_masks
from training.methods.object_tracking import (
    apply_masks,
    draw_heads,
    object_heads,
    object_masks,
    track_objects,
)
from training.methods.student_teacher import StudentTeacher
from training.models.vit import encode_with_attention
from training.rng import torch_generator
from training.schedules import Progress
from training.transfer import send
from wtours.errors import UsageError


class Dora(StudentTeacher):
    """DORA on clips, or with tracking.mask=random_blocks its ablation."""

    @classmethod
    def build_network(cls, config: TrainConfig) -> Network:
        """Return an untrained backbone, which must have heads for the objects, and DINO's head."""
        network = super().build_network(config)
        _check_heads(network.backbone, config)
        return network

    def teacher_forward(self, views: Views, now: Progress) -> tuple[Tensor, Tensor]:
        """Return the teacher's CLS tokens, and a mask for each object and frame."""
        if self.config.tracking.mask == "random_blocks":
            return self.encode_whole(views), self._block_masks(views)
        clips = views.global_clips
        (heads,) = send([self.draw_heads(now)], clips.device)
        found = [self._track(part, heads) for part in self.teacher_parts(clips.flatten(0, 1))]
        tokens, maps = (torch.cat(parts) for parts in zip(*found, strict=True))
        masks = object_masks(maps, mask=self.config.tracking.mask)
        return tokens, masks.reshape(*clips.shape[:2], *masks.shape[1:])

    def student_views(self, clips: Tensor, masks: Tensor | None) -> Tensor:
        """Return the clips once for each object, masked."""
        assert masks is not None  # of `teacher_forward`
        return apply_masks(clips, masks.flatten(0, 1))

    def draw_heads(self, now: Progress) -> Tensor:
        """Return the attention heads that find this step's objects, the same on every rank."""
        tracking = self.config.tracking
        return draw_heads(
            object_heads(self.student.backbone, tracking),
            tracking.num_objects,
            torch_generator(self.config.seed, "heads", now.step),
        )

    def _track(self, clips: Tensor, heads: Tensor) -> tuple[Tensor, Tensor]:
        """Return CLS tokens (M * T, D) and objects' maps (M, O, T, N) of M clips."""
        tracking = self.config.tracking
        features = encode_with_attention(
            self.teacher.backbone,
            clips.flatten(0, 1),
            num_heads=tracking.num_heads,
            attention_scale=tracking.attention_scale,
        )
        maps = track_objects(features, heads, clip_length=clips.shape[1], tracking=tracking)
        return features.cls_token, maps

    def _block_masks(self, views: Views) -> Tensor:
        clips, patch = views.global_clips, self.student.backbone.patch_embed.patch_size[0]
        masks = block_masks(
            self.config.seed,
            views.positions,
            shape=(len(clips), self.config.tracking.num_objects, clips.shape[2]),
            grid=(clips.shape[-2] // patch, clips.shape[-1] // patch),
        )
        return send([masks], clips.device)[0]


def _check_heads(backbone: VisionTransformer, config: TrainConfig) -> None:
    tracking, heads = config.tracking, object_heads(backbone, config.tracking)
    if backbone.embed_dim % heads:
        raise UsageError(
            f"tracking.num_heads ({heads}) must divide the backbone's width ({backbone.embed_dim})"
        )
    if tracking.mask != "random_blocks" and tracking.num_objects > heads:
        raise UsageError(
            f"tracking.num_objects ({tracking.num_objects}) must not be above the backbone's "
            f"{heads} attention heads; tracking.num_heads splits its last block into more"
        )
