"""The student, its EMA teacher, and how they are built."""

import copy
from collections.abc import Sequence

import torch
from timm.layers.drop import DropPath
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from training.config.train import TrainConfig
from training.losses.cross_entropy import distillation_loss
from training.models.projection_heads import DinoHead
from training.models.vit import build_backbone, encode, num_heads
from wtours.errors import UsageError


class Network(nn.Module):
    """A backbone and its head; `state_dict` names are `backbone.*` and `head.*`."""

    def __init__(self, backbone: VisionTransformer, head: DinoHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(
        self, views: Sequence[Tensor], targets: Sequence[Tensor], student_temp: float
    ) -> list[Tensor]:
        """Return the cross-entropy of each kind of view with its target, from one call for DDP.

        The head, and so a batch norm in it, sees the CLS tokens of all views as one batch.

        Args:
            views: Of each kind (V, B, T, 3, H, W), e.g. masked clips and local crops.
            targets: For each kind (B, T, K) float32, the teacher's probabilities.
            student_temp: Softmax temperature, > 0.

        Returns:
            For each kind (V, T), the mean over clips, nats.
        """
        tokens = [encode(self.backbone, view.flatten(0, -4)) for view in views]
        features = torch.split(self.head.project(torch.cat(tokens)), [len(part) for part in tokens])
        last = self.head.last_layer
        return [
            distillation_loss(
                part.reshape(*view.shape[:3], -1),
                last.weight_v,
                last.weight_g,
                target,
                student_temp=student_temp,
            )
            for part, view, target in zip(features, views, targets, strict=True)
        ]


def make_teacher(student: Network) -> Network:
    """Return a copy of the student without gradients and without stochastic depth.

    It stays in training mode as in DINO: that matters to batch norm only, which then uses the
    statistics of the teacher's own batch.
    """
    teacher = copy.deepcopy(student)
    teacher.requires_grad_(False)
    for module in teacher.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    return teacher


@torch.no_grad()
def ema_update(teacher: Network, student: Network, momentum: float) -> None:
    """Set each weight of the teacher to momentum * teacher + (1 - momentum) * student.

    Args:
        teacher: Changed in place; its buffers (batch norm's running statistics) are left alone.
        student: The network itself, not DDP's wrapper.
        momentum: In [0, 1].
    """
    ours: list[Tensor] = list(teacher.parameters())
    theirs: list[Tensor] = list(student.parameters())
    torch._foreach_mul_(ours, momentum)
    torch._foreach_add_(ours, theirs, alpha=1 - momentum)


def build_network(config: TrainConfig) -> Network:
    """Return a randomly initialized backbone and head, for global crops of the config's size.

    Raises:
        UsageError: an unknown backbone, crops that its patches do not fill, or fewer attention
            heads than objects.
    """
    model, data = config.model, config.data
    backbone = build_backbone(
        model.backbone,
        img_size=data.global_crop_pixels,
        patch_size=model.patch_size,
        depth=model.depth,
        embed_dim=model.embed_dim,
        num_heads=model.num_heads,
        drop_path_rate=model.drop_path_rate,
    )
    patch = backbone.patch_embed.patch_size[0]
    for name, pixels in (
        ("data.global_crop_pixels", data.global_crop_pixels),
        ("data.local_crop_pixels", data.local_crop_pixels),
    ):
        if pixels % patch:
            raise UsageError(f"{name} ({pixels}) must be a multiple of the patch size ({patch})")
    _check_heads(backbone, config)
    backbone.set_grad_checkpointing(model.activation_checkpointing)
    head = DinoHead(
        backbone.embed_dim,
        model.num_prototypes,
        hidden_dim=model.head_hidden_dim,
        batch_norm=model.head_batch_norm,
        norm_last_layer=model.norm_last_layer,
    )
    return Network(backbone, head)


def _check_heads(backbone: VisionTransformer, config: TrainConfig) -> None:
    tracking, heads = config.tracking, object_heads(backbone, config)
    if backbone.embed_dim % heads:
        raise UsageError(
            f"tracking.num_heads ({heads}) must divide the backbone's width ({backbone.embed_dim})"
        )
    if tracking.mask != "random_blocks" and tracking.num_objects > heads:
        raise UsageError(
            f"tracking.num_objects ({tracking.num_objects}) must not be above the backbone's "
            f"{heads} attention heads; tracking.num_heads splits its last block into more"
        )


def object_heads(backbone: VisionTransformer, config: TrainConfig) -> int:
    """Return the heads in which objects are looked for: the last block's, or as it is split."""
    return config.tracking.num_heads or num_heads(backbone)
