"""A step of preset `official` written plainly: the trainer's oracle, and what it is timed against.

Frame by frame, explicit attention in every block, a head call for each frame and object, loops in
the loss, float32 throughout: as the released code goes about it, with the same matrix products
(docs/explanation/parity.md). It takes the weights of our networks and none of our functions.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STUDENT_TEMP, CENTER_MOMENTUM = 0.1, 0.9
EPSILON, ITERATIONS = 0.05, 30


@dataclass(frozen=True)
class PlainStep:
    """What a step computes before the optimizer moves."""

    loss: Tensor
    center: Tensor  # (1, K) of the next step
    masks: list[list[Tensor]]  # of each object and frame, (B, N)


def plain_step(
    student: Any,
    teacher: Any,
    global_clips: Tensor,
    local_crops: Tensor,
    *,
    center: Tensor,
    heads: list[int],
    teacher_temp: float = 0.04,
) -> PlainStep:
    """Return the loss of B clips; global_clips (B, T, 3, H, W), local_crops (L, B, T, 3, s, s)."""
    frames = list(global_clips.unbind(1))
    with torch.no_grad():
        looks = [look(teacher.backbone, frame) for frame in frames]
        teacher_logits = [head(teacher.head, tokens[:, 0]) for tokens, *_ in looks]
        masks = track(looks, heads)
        targets = [F.softmax((out - center) / teacher_temp, dim=-1) for out in teacher_logits]
        mean = torch.cat(teacher_logits).mean(dim=0, keepdim=True)
    masked_logits = [
        [
            head(student.head, look(student.backbone, hide(frame, mask))[0][:, 0])
            for frame, mask in zip(frames, masks_of_object, strict=True)
        ]
        for masks_of_object in masks
    ]
    local_logits = []
    for crops in local_crops.unbind(2):  # the crops of a frame, (L, B, 3, s, s)
        tokens = look(student.backbone, crops.flatten(0, 1))[0][:, 0]
        local_logits.append(head(student.head, tokens).chunk(len(crops)))
    loss = distillation(masked_logits, local_logits, targets)
    return PlainStep(loss, center * CENTER_MOMENTUM + mean * (1 - CENTER_MOMENTUM), masks)


def look(backbone: Any, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the tokens after the final norm, and q, k and the attention of the last block."""
    patches = backbone.patch_embed.proj(images).flatten(2).transpose(1, 2)
    tokens = torch.cat([backbone.cls_token.expand(len(images), -1, -1), patches], dim=1)
    tokens = tokens + positions(backbone, images)
    for block in backbone.blocks:
        update, query, key, attention = attend(block.attn, block.norm1(tokens))
        tokens = tokens + block.drop_path1(update)
        hidden = F.gelu(block.mlp.fc1(block.norm2(tokens)))
        tokens = tokens + block.drop_path2(block.mlp.fc2(hidden))
    return backbone.norm(tokens), query, key, attention


def attend(attention: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the attention's output, its q and k (B, A, n, d), and its whole map (B, A, n, n)."""
    images, count, width = tokens.shape
    num_heads: Any = attention.num_heads
    qkv: Any = attention.qkv
    project: Any = attention.proj
    qkv = qkv(tokens).reshape(images, count, 3, num_heads, width // num_heads)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-2, -1) * (width // num_heads) ** -0.5
    weights = scores.softmax(dim=-1)
    output = (weights @ value).transpose(1, 2).reshape(images, count, width)
    return project(output), query, key, weights


def positions(backbone: Any, images: Tensor) -> Tensor:
    """Return the position embedding, interpolated as DINO does, (1, 1 + N, D)."""
    embedding: Tensor = backbone.pos_embed
    side, wanted = backbone.patch_embed.grid_size[0], images.shape[-1]
    wanted = wanted // backbone.patch_embed.patch_size[0]
    if side == wanted:
        return embedding
    patches = embedding[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = (wanted + 0.1) / side
    patches = F.interpolate(patches, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([embedding[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


def head(head: Any, tokens: Tensor) -> Tensor:
    """Return the logits (B, K); the last layer's weight is normalized at each call."""
    features = F.normalize(head.mlp(tokens), dim=-1)
    weight: Tensor = torch._weight_norm(head.last_layer.weight_v, head.last_layer.weight_g, 0)
    return F.linear(features, weight)


def track(looks: list[tuple[Tensor, Tensor, Tensor, Tensor]], heads: list[int]) -> list[Any]:
    """Return the binary masks of each object and frame, (B, N) each."""
    tokens, query, _, attention = looks[0]
    rows = attention[:, heads, 0, 1:]
    prototypes = rows @ whole(query)
    patches = F.normalize(tokens[:, 1:], dim=-1)
    logits = patches @ prototypes.transpose(1, 2) / EPSILON
    plan = (logits - logits.amax()).exp()
    for _ in range(ITERATIONS):
        plan = plan / plan.sum(dim=1, keepdim=True)
        plan = plan / plan.sum(dim=2, keepdim=True)
    refined = plan.transpose(1, 2) @ patches
    masks: list[Any] = [[] for _ in heads]
    for _, _, key, _ in looks:
        keys = whole(key)
        maps = (refined @ keys.transpose(1, 2) * keys.shape[-1] ** -0.5).softmax(dim=-1)
        for number in range(len(heads)):
            lengths = F.normalize(maps[:, number], dim=-1)
            masks[number].append((lengths > lengths.mean()).float())
    return masks


def whole(tokens: Tensor) -> Tensor:
    """Return the patches at full width, (B, N, D), of (B, A, 1 + N, d)."""
    return tokens[:, :, 1:].transpose(1, 2).flatten(2)


def hide(frame: Tensor, mask: Tensor) -> Tensor:
    """Return the frame (B, 3, H, W) times its mask (B, N), enlarged."""
    side = round(mask.shape[1] ** 0.5)
    grid = mask.reshape(len(mask), 1, side, side)
    return frame * F.interpolate(grid, frame.shape[-2:], mode="nearest")


def distillation(masked: list[list[Tensor]], local: list[Any], targets: list[Tensor]) -> Tensor:
    """Return the loss; the first local crop is left out, the sum over frames not set back."""
    total: Any = 0
    frame_loss: Any = 0
    for masked_frames in masked:
        for frame, target in enumerate(targets):
            of_object = cross_entropy(masked_frames[frame], target)
            of_crops = [cross_entropy(crop, target) for crop in local[frame][1:]]
            frame_loss = frame_loss + 0.5 * (of_object + sum(of_crops) / len(of_crops))
        frame_loss = frame_loss / len(targets)
        total = total + frame_loss
    loss: Tensor = total / len(masked)
    return loss


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return H(target, student), a scalar: the mean over clips."""
    return torch.sum(-target * F.log_softmax(logits / STUDENT_TEMP, dim=-1), dim=-1).mean()
