"""DORA (paper, section 4): DINO whose student sees the objects that the teacher tracks in a clip.

The teacher's attention finds objects in the first frame and follows them through the clip
(`training.methods.object_tracking`); the student sees the clip once for each object, masked.
"""

from dataclasses import replace

import torch
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
from training.methods.student_teacher import StudentTeacher, TeacherOutput, encode_views
from training.models.vit import encode_visible, encode_with_attention
from training.rng import torch_generator
from training.schedules import Progress
from training.transfer import send
from wtours.errors import UsageError


class Dora(StudentTeacher):
    """DORA on clips, or with tracking.mask=random_blocks its ablation."""

    @classmethod
    def build_network(cls, config: TrainConfig) -> Network:
        """Return an untrained backbone, which must have heads for the objects, and DINO's head."""
        network, tracking = super().build_network(config), config.tracking
        width, heads = network.backbone.embed_dim, object_heads(network.backbone, tracking)
        if width % heads:
            raise UsageError(
                f"tracking.num_heads ({heads}) must divide the backbone's width ({width})"
            )
        if tracking.mask != "random_blocks" and tracking.num_objects > heads:
            raise UsageError(
                f"tracking.num_objects ({tracking.num_objects}) must not be above the backbone's "
                f"{heads} attention heads; tracking.num_heads splits its last block into more"
            )
        return network

    def teacher_forward(self, views: Views, now: Progress) -> tuple[Tensor, Tensor]:
        """Return the teacher's CLS tokens, and a mask for each object and frame."""
        clips = views.global_clips
        if self.config.tracking.mask == "random_blocks":
            masks = block_masks(
                self.config.seed,
                views.positions,
                shape=(len(clips), self.config.tracking.num_objects, clips.shape[2]),
                grid=self.grid_of(views),
            )
            return self.encode_whole(views), send([masks], clips.device)[0]
        (heads,) = send([self.draw_heads(now)], clips.device)
        found = [self._track(part, heads) for part in self.teacher_parts(clips.flatten(0, 1))]
        tokens, maps = (torch.cat(parts) for parts in zip(*found, strict=True))
        masks = object_masks(maps, mask=self.config.tracking.mask)
        return tokens, masks.reshape(*clips.shape[:2], *masks.shape[1:])

    @torch.no_grad()
    def prepare(self, views: Views, now: Progress) -> TeacherOutput:
        """Return the teacher's output for the whole batch."""
        targets = super().prepare(views, now)
        if not self.config.model.drop_hidden_patches or targets.masks is None:
            return targets
        # The host waits here, once a step: how much the student computes is for the masks to say.
        return replace(targets, num_visible=targets.masks.sum(dim=-1).long().cpu())

    def encode_student(self, clips: Tensor, targets: TeacherOutput) -> Tensor:
        """Return the student's CLS tokens of the clips, once for each object, masked."""
        assert targets.masks is not None  # of `teacher_forward`
        masks, backbone = targets.masks.flatten(0, 1), self.student.backbone
        if targets.num_visible is None:
            return encode_views(backbone, apply_masks(clips, masks))
        visible = masks.bool().transpose(0, 1).flatten(1, 2)  # (O, M * T, N)
        counts = targets.num_visible.flatten(0, 1).transpose(0, 1).flatten(1, 2)
        tokens = encode_visible(backbone, clips.flatten(0, 1), visible, counts)
        return tokens.reshape(len(visible), *clips.shape[:2], -1)

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


class DoraImages(Dora):
    """DORA* (Table 8): on single images of a folder or tar, whose objects are not tracked."""

    data = "images"
