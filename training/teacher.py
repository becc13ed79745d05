"""The student's and teacher's network, and how the teacher follows the student."""

import copy

import torch
from timm.layers.drop import DropPath
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from training.head import DinoHead
from training.vit import encode


class Network(nn.Module):
    """A backbone and its head; `state_dict` names are `backbone.*` and `head.*`."""

    def __init__(self, backbone: VisionTransformer, head: DinoHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(
        self, masked: Tensor | None, local_crops: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the logits of both kinds of views from one call, as DDP needs it.

        The head, and so a batch norm in it, sees the CLS tokens of all views as one batch.

        Args:
            masked: (..., 3, H, W) masked clips, e.g. (O, B, T, 3, 224, 224), or None.
            local_crops: (..., 3, s, s), e.g. (L, B, T, 3, 96, 96), or None.

        Returns:
            For each argument its logits (..., K), or None where it was None.
        """
        views = [view for view in (masked, local_crops) if view is not None]
        tokens = [encode(self.backbone, view.flatten(0, -4)) for view in views]
        parts = self.head(torch.cat(tokens)).split([len(part) for part in tokens])
        logits = iter(
            part.reshape(*view.shape[:-3], -1) for part, view in zip(parts, views, strict=True)
        )
        return (
            None if masked is None else next(logits),
            None if local_crops is None else next(logits),
        )


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
