"""The seam between the training loop and a method: what a method is given, returns and declares.

A method is one file here and one row of `training.methods.registry`; what else a
new one needs: docs/explanation/architecture.md. The loop (`training.engine`) runs a step of it as

    targets = method.prepare(views, now)           # no gradient, this rank's whole batch
    output = method(views, targets)                # through DDP; in micro-batches, if `additive`
    output.loss.backward(); optimizer.step()
    method.after_step(now)                         # EMA, centers, queues

and knows nothing else about it. What differs between ranks is reduced by the method itself, with
`training.distributed.collectives`, which do nothing when there is one rank.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils._pytree import register_dataclass

from training.config.train import TrainConfig
from training.models.vit import build_backbone
from training.schedules import Progress
from wtours.errors import UsageError


@dataclass(frozen=True)
class Views:
    """What the networks see of this rank's B clips, normalized; an image is a clip of one frame."""

    global_clips: Tensor
    """(G, B, T, 3, H, W) float32, G = 1 or 2 crops of each clip."""
    local_crops: Tensor
    """(L, B, T, 3, s, s) float32; L may be 0."""
    positions: Tensor
    """(B,) int64 on the CPU, the clips' positions in the endless stream of clips. What is drawn for
    a clip follows from the seed and its position (`training.rng`), so it is the same on any number
    of ranks; what is drawn for a step, from the seed and the step."""

    def clips(self, part: slice) -> "Views":
        """Return the views of some of the clips."""
        return Views(self.global_clips[:, part], self.local_crops[:, part], self.positions[part])


@dataclass(frozen=True)
class Targets:
    """What `Method.prepare` hands to `Method.forward`; a method subclasses it for what it needs."""

    measures_rank: bool = field(kw_only=True)
    """Whether the step's metrics have the embeddings' `effective_rank`."""

    def clips(self, part: slice) -> Self:
        """Return the targets of some of the clips; only asked of an `additive` method."""
        return self

    def metrics(self) -> dict[str, Tensor]:
        """Return scalars of this rank's whole batch to be logged.

        Called once a step, after the backward pass: computing them may wait for the device.
        """
        return {}


@dataclass(frozen=True)
class StepOutput:
    """What a method says of a (micro-)batch."""

    loss: Tensor
    """Scalar with gradients. Its mean over ranks is the loss of the global batch: DDP averages the
    ranks' gradients."""
    metrics: dict[str, Tensor]
    """Detached scalars to be logged, averaged over micro-batches and ranks like the loss."""


register_dataclass(StepOutput)  # FSDP finds the loss in what `forward` returns


class Network(nn.Module):
    """A backbone and a head; the names of its weights are `backbone.*` and `head.*`."""

    def __init__(self, backbone: VisionTransformer, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head: Any = head
        """A module with an interface of the method's own."""


T = TypeVar("T", bound=Targets)


class Method(nn.Module, Generic[T]):
    """A self-supervised method: its networks, and the loss that trains them.

    Its `state_dict` is what a checkpoint's `model.safetensors` holds, so a queue or a center is a
    buffer. What `prepare` or `forward` finds for `after_step` (a next center, rows for a queue) is
    kept in a plain attribute until then: a step that is not finite ends before `after_step`, and
    the state that is saved for its replay is the one that it began with.
    """

    data: ClassVar[Literal["clips", "images"]] = "clips"
    """What it is trained on: clips of a shard set, or single images of a folder or tar."""
    additive: ClassVar[bool] = True
    """Whether the loss of a batch is the mean of those of its micro-batches once `prepare` has seen
    all of it. One that compares the clips of a batch with each other in `forward` is not, and is
    refused optim.accumulation_steps > 1."""
    evaluated: ClassVar[Literal["student", "teacher"]] = "student"
    """The network that is evaluated, drawn and exported: the attribute's name, which is also the
    prefix of its weights in a checkpoint."""

    student: Network
    """The network that the optimizer trains; of a method without a teacher the only one."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.student = self.build_network(config)

    @classmethod
    def build_network(cls, config: TrainConfig) -> Network:
        """Return an untrained backbone and the method's head.

        Raises:
            UsageError: settings that do not fit each other or the backbone.
        """
        backbone = configured_backbone(config)
        return Network(backbone, cls.build_head(config, backbone.embed_dim))

    @classmethod
    def build_head(cls, config: TrainConfig, width: int) -> nn.Module:
        """Return the method's untrained head on tokens of `width` channels."""
        raise NotImplementedError

    def prepare(self, views: Views, now: Progress) -> T:
        """Return the targets of this rank's whole batch; no gradient flows through them."""
        raise NotImplementedError

    def forward(self, views: Views, targets: T) -> StepOutput:
        """Return the loss of some clips; called through DDP, once for each backward pass.

        Args:
            views: Of all clips of the step, or of a micro-batch.
            targets: Of the same clips.
        """
        raise NotImplementedError

    def after_step(self, now: Progress) -> None:
        """Move what the optimizer does not: teachers, centers, queues."""

    def frozen(self, now: Progress) -> Iterable[nn.Parameter]:
        """Return the trained parameters that this step leaves as they are.

        They are those of the head's last layer, if it has one, during the first epochs.
        """
        last = getattr(self.student.head, "last_layer", None)
        thawed = now.epoch >= self.config.optim.freeze_last_layer_epochs
        return () if thawed or last is None else last.parameters()

    def scheduled(self, now: Progress) -> dict[str, float]:
        """Return the method's scheduled values of a step, to be logged."""
        return {}

    def out_of_reach(self, run: Progress) -> list[str]:
        """Return what the method's schedules do not come to in a run, a line each."""
        return []

    def measures_rank(self, now: Progress) -> bool:
        """Return whether the step measures `effective_rank`, for which the host waits."""
        return (now.step + 1) % self.config.watch.effective_rank_every_steps == 0

    @property
    def evaluated_network(self) -> Network:
        """Return the network that is evaluated, drawn and exported."""
        network: Network = getattr(self, self.evaluated)
        return network


def frozen_throughout(what: str, config: TrainConfig, run: Progress) -> list[str]:
    """Return a line that says so where the epochs of `what` being frozen are all of a run's."""
    epochs = config.optim.freeze_last_layer_epochs
    if run.last.epoch >= epochs:
        return []
    return [
        f"{what} never trained: optim.freeze_last_layer_epochs={epochs:g} takes all of the run's "
        f"{run.length}; set it lower"
    ]


def configured_backbone(config: TrainConfig) -> VisionTransformer:
    """Return a randomly initialized backbone for global crops of the config's size.

    Raises:
        UsageError: an unknown backbone, or crops that its patches do not fill.
    """
    model, data = config.model, config.data
    backbone = build_backbone(
        model.backbone,
        img_size=data.global_crop_pixels,
        drop_path_rate=model.drop_path_rate,
        **model.sizes,
    )
    patch = backbone.patch_embed.patch_size[0]
    for name in ("global_crop_pixels", "local_crop_pixels"):
        if getattr(data, name) % patch:
            raise UsageError(
                f"data.{name} ({getattr(data, name)}) must be a multiple of the patch size "
                f"({patch})"
            )
    backbone.set_grad_checkpointing(model.activation_checkpointing)
    return backbone


def micro_batches(views: Views, targets: T, count: int) -> Iterable[tuple[Views, T, float]]:
    """Yield the views and targets in parts of as equal a size as can be, and each part's share."""
    num_clips = len(views.positions)
    for chosen in torch.arange(num_clips).tensor_split(min(count, num_clips)):
        part = slice(int(chosen[0]), int(chosen[-1]) + 1)
        yield views.clips(part), targets.clips(part), len(chosen) / num_clips
