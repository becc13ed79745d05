"""From a config to what a run is made of: clips, schedules, networks, optimizer."""

import logging

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.config.train import TrainConfig
from training.data.clips import Clips, ClipViews, steps_in_epoch
from training.data.image_clips import StillImages
from training.data.source import DataIdentity
from training.distributed.world import World
from training.engine.optim import build_optimizer
from training.engine.precision import build_scaler, compile_blocks
from training.engine.schedules import Schedules
from training.engine.state import TrainState
from training.methods.student_teacher import build_network, make_teacher
from training.rng import derived_seed
from wtours.shards import ClipDataset, ClipSampler

LOG = logging.getLogger(__name__)


def build_views(clips: Clips, config: TrainConfig) -> ClipViews:
    """Return the stream of clips in the order of the config's seed."""
    if (
        not config.data.across_cuts
        and isinstance(clips, ClipDataset)
        and not clips.index.shots_known
    ):
        LOG.warning("some videos are not analyzed: their clips may go over cuts")
    sampler = ClipSampler(len(clips), seed=config.seed, clips_per_epoch=config.data.clips_per_epoch)
    return ClipViews(clips, sampler, data=config.data, augment=config.augment, seed=config.seed)


def identity_of(clips: Clips) -> DataIdentity:
    """Return what a checkpoint records of the data."""
    if isinstance(clips, StillImages):
        return clips.identity
    return DataIdentity(clips.index.dataset.index.sha256, len(clips))


def build_schedules(config: TrainConfig, *, num_clips: int) -> Schedules:
    """Return the schedules of a run on `num_clips` clips.

    Raises:
        TrainingError: too few clips for a batch.
    """
    optim, loss = config.optim, config.loss
    steps_per_epoch: float = steps_in_epoch(
        num_clips, config.data, global_batch_size=optim.global_batch_size
    )
    steps = optim.steps or round(optim.epochs * steps_per_epoch)
    if optim.steps:
        steps_per_epoch = optim.steps / optim.epochs
    scale = optim.global_batch_size / optim.lr_clips if optim.lr_clips else 1.0
    return Schedules(
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        lr=optim.lr * scale,
        min_lr=optim.min_lr,
        warmup_epochs=optim.warmup_epochs,
        weight_decay=optim.weight_decay,
        weight_decay_end=optim.weight_decay_end,
        momentum=optim.momentum,
        momentum_end=optim.momentum_end,
        teacher_temp=loss.teacher_temp,
        warmup_teacher_temp=loss.warmup_teacher_temp,
        warmup_teacher_temp_epochs=loss.warmup_teacher_temp_epochs,
        freeze_last_layer_epochs=optim.freeze_last_layer_epochs,
    )


def build_state(config: TrainConfig, world: World) -> TrainState:
    """Return untrained networks, the same on every rank, and their optimizer."""
    torch.manual_seed(derived_seed(config.seed, "weights"))
    student = build_network(config).to(world.device)
    teacher = make_teacher(student)
    if config.model.compile:
        compile_blocks(student)
        compile_blocks(teacher)
    return TrainState(
        student=student,
        teacher=teacher,
        optimizer=build_optimizer(student, config.optim.name),
        center=torch.zeros(config.model.num_prototypes, device=world.device),
        step=0,
        scaler=build_scaler(config, world.device),
    )


def replicate(student: nn.Module, world: World) -> nn.Module:
    """Return what averages the student's gradients over ranks: DDP, or the student itself."""
    if world.world_size == 1:
        return student
    device_ids = [world.device] if world.device.type == "cuda" else None
    # The buffers are batch norm's statistics, which are those of all ranks already.
    return DistributedDataParallel(student, device_ids=device_ids, broadcast_buffers=False)
