"""From a config to what a run is made of: clips, length, networks, optimizer."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.config.train import TrainConfig
from training.data.clips import ClipViews, open_source
from training.distributed.sharding import divided_like, shard
from training.distributed.world import World
from training.engine.optim import build_optimizer
from training.engine.precision import build_scaler, compile_blocks
from training.engine.state import TrainState
from training.methods.registry import build_method, method_class
from training.models.vit_blocks import FastBlock
from training.rng import derived_seed
from training.schedules import Progress
from wtours.errors import TrainingError
from wtours.text import counted


def open_views(path: Path | str, config: TrainConfig) -> ClipViews:
    """Return the stream of clips of a shard set (folder or URL), or a folder or tar of images."""
    return ClipViews(open_source(path, config.data, method_class(config).data), config)


def run_length(config: TrainConfig, views: ClipViews) -> Progress:
    """Return the first step of a run, which has the number of all of them.

    Raises:
        TrainingError: too few clips for a batch, or no step.
    """
    optim, epoch_clips = config.optim, len(views.sampler)
    steps_per_epoch: float = epoch_clips // optim.global_batch_size
    if not steps_per_epoch:
        raise TrainingError(
            f"an epoch of {counted(epoch_clips, 'clip')} (there are {len(views.source):,}) does "
            f"not fill a batch of {optim.global_batch_size}: --set "
            f"optim.global_batch_size={epoch_clips} or less, --set "
            f"data.clips_per_epoch={optim.global_batch_size} or more, or shard more video"
        )
    steps = optim.steps or round(optim.epochs * steps_per_epoch)
    if not steps:
        raise TrainingError(
            f"optim.epochs={optim.epochs:g} is less than a step, of which an epoch has "
            f"{steps_per_epoch:g}: raise it, or set optim.steps"
        )
    if optim.steps:
        steps_per_epoch = optim.steps / optim.epochs
    return Progress(step=0, steps=steps, steps_per_epoch=steps_per_epoch)


def build_state(config: TrainConfig, world: World) -> TrainState:
    """Return untrained networks, the same on every rank, and their optimizer."""
    torch.manual_seed(derived_seed(config.seed, "weights"))
    method = build_method(config).to(world.device)
    if config.model.compile:
        compile_blocks(method)
    return TrainState(
        method=method,
        optimizer=build_optimizer(method.student, config.optim),
        step=0,
        scaler=build_scaler(config, world.device),
    )


def replicate(state: TrainState, world: World) -> nn.Module:
    """Return what averages the method's gradients over ranks: DDP, FSDP, or the method itself.

    With optim.parallel=fsdp2 the state's weights and moments are divided over the ranks.
    """
    method = state.method
    if world.world_size == 1:
        return method
    if method.config.optim.parallel == "fsdp2":
        _divide(state)
        return method
    device_ids = [world.device] if world.device.type == "cuda" else None
    # The buffers are the same on all ranks already: batch norm's statistics are those of all ranks,
    # and what a method keeps (centers, queues) it has reduced or gathered. torch 2.14 warns of the
    # option's old name, which is the only one that earlier versions know.
    known, new = inspect.signature(DistributedDataParallel).parameters, "forward_sync_buffers"
    option: dict[str, Any] = {new if new in known else "broadcast_buffers": False}
    # The gradients lie in the buckets that are exchanged, and not once more beside them.
    return DistributedDataParallel(
        method, device_ids=device_ids, gradient_as_bucket_view=True, **option
    )


def _divide(state: TrainState) -> None:
    """Divide weights and moments over the ranks; the blocks are made whole one after the other."""
    student = state.method.student
    moments = {name: state.optimizer.state.get(p, {}) for name, p in student.named_parameters()}
    blocks = [block for block in state.method.modules() if isinstance(block, FastBlock)]
    shard(state.method, blocks, methods=("prepare",))
    state.optimizer = build_optimizer(student, state.method.config.optim)
    for name, parameter in student.named_parameters():
        if of_it := moments[name]:
            state.optimizer.state[parameter] = {
                key: divided_like(value, parameter) for key, value in of_it.items()
            }
