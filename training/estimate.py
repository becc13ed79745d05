"""What a run will take, from a few measured steps that are thrown away: `wtours estimate`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.config.train import TrainConfig
from training.data.clips import Batch, ClipViews
from training.data.loader import clips_per_rank
from training.distributed.world import World
from training.engine.metrics import peak_memory_bytes
from training.engine.precision import for_device, numerics
from training.engine.setup import build_state, open_views, run_length
from training.engine.state import TrainState
from training.engine.step import apply_gradients, compute_gradients
from training.models.vit_blocks import FastBlock
from training.schedules import Progress
from wtours.text import counted

_STEPS = 2
"""Timed at each batch, after one that is not."""
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Estimate:
    """What a run takes; of a process unless said. Sizes in bytes, times in seconds."""

    device: str
    """Where it was measured."""
    threads: int
    """Of the CPU."""
    precision: str
    processes: int
    clips_per_process: int
    """In a step."""
    clips_per_part: int
    """In a micro-batch, whose activations are kept together."""
    measured_clips: tuple[int, ...]
    """Clips in the measured steps; larger batches are extrapolated linearly."""
    measured_seconds: tuple[float, ...]
    """Of a step, without the wait for data."""
    measured_peak_bytes: int
    """With the most clips: of the GPU, or all of the process on a CPU."""
    parameters: int
    """Of the student; the teacher has as many."""
    state_bytes: int
    """Weights of both, gradients and moments, counted."""
    activation_bytes: int
    """Kept for the backward pass of a micro-batch, counted; operators need more in passing."""
    step_seconds: float
    decode_seconds_per_clip: float
    """Of one worker."""
    workers_needed: int
    """Decoding processes with which a step need not wait."""
    read_bytes_per_second: float
    """From the shards, of all processes."""
    clips_per_second: float
    """Of all processes."""
    steps: int
    hours: float
    """Of the whole schedule, on processes like the one measured that lose nothing to each other."""
    drops_hidden_patches: bool
    """Whether time and activations depend on how much the masks hide."""

    @property
    def notes(self) -> tuple[str, ...]:
        """The limits of the numbers."""
        notes = [
            f"measured with {' and '.join(map(str, self.measured_clips))} clips in a step on "
            f"{self.device}, {counted(self.threads, 'thread')}, {self.precision}; nothing was "
            f"written"
        ]
        if self.drops_hidden_patches:
            notes.append(
                "time and activations are those of the masks of random weights: what is hidden, "
                "and so left out, changes as the network learns (mask_coverage in the metrics)"
            )
        if self.device == "cpu":
            notes.append(
                "hours are for this CPU: for a GPU run the same command there; parameters, state "
                "and activations are counted from the tensors and are the same there"
            )
        return tuple(notes)


def estimate(
    config: TrainConfig, *, shards_dir: Path | str, world: World, processes: int
) -> Estimate:
    """Measure a few steps of one process with one and two clips, and extrapolate to the run.

    Raises:
        UsageError: the batch cannot be divided by the number of processes.
        ShardError: a shard set that is missing or damaged.
        TrainingError: too few clips for a batch.
    """
    config, share = for_device(config, world.device), clips_per_rank(config, processes)
    views = open_views(shards_dir, config)
    length = run_length(config, views)
    sizes = (1, 2) if share > 1 else (1,)
    with numerics(config.optim, world.device):
        state = build_state(config, world)
        decoding, batches = decoded_batches(views, sizes)
        kept, seconds = [], []
        for batch in batches:
            kept.append(kept_bytes(state, batch, length, config, world))
            seconds.append(_step_seconds(state, batch, length, config, world))
    part = -(-share // min(config.optim.accumulation_steps, share))
    step_seconds = line_through(sizes, seconds, share)
    decode = decoding / sum(sizes)
    waiting = decode * share / max(config.data.num_workers, 1)
    per_step = max(step_seconds, waiting) if config.data.num_workers else step_seconds + waiting
    return Estimate(
        device=world.device.type if world.device.type == "cpu" else torch.cuda.get_device_name(),
        threads=torch.get_num_threads(),
        precision=config.optim.precision,
        processes=processes,
        clips_per_process=share,
        clips_per_part=part,
        measured_clips=sizes,
        measured_seconds=tuple(seconds),
        measured_peak_bytes=peak_memory_bytes(world.device),
        parameters=sum(parameter.numel() for parameter in state.method.student.parameters()),
        state_bytes=counted_state_bytes(state, processes),
        activation_bytes=round(line_through(sizes, kept, part)),
        step_seconds=step_seconds,
        decode_seconds_per_clip=decode,
        workers_needed=max(1, -int(-decode * share // step_seconds)),
        read_bytes_per_second=views.source.mean_bytes * share * processes / per_step,
        clips_per_second=share * processes / per_step,
        steps=length.steps,
        hours=length.steps * per_step / 3600,
        drops_hidden_patches=config.model.drop_hidden_patches,
    )


def decoded_batches(views: ClipViews, sizes: Sequence[int]) -> tuple[float, list[Batch]]:
    """Return the seconds that the batches took, and the batches."""
    views.batch([0])  # opens the shards
    begun, found = time.perf_counter(), [views.batch(range(size)) for size in sizes]
    return time.perf_counter() - begun, found


def _step_seconds(
    state: TrainState, batch: Batch, now: Progress, config: TrainConfig, world: World
) -> float:
    """Return how long a step takes that has been done before."""
    taken = []
    for _ in range(_STEPS + 1):
        begun = time.perf_counter()
        gradients = compute_gradients(state, state.method, batch, now, config=config, world=world)
        gradients.read()  # waits for the device
        apply_gradients(state, now)
        taken.append(time.perf_counter() - begun)
    return min(taken[1:])


def kept_bytes(
    state: TrainState, batch: Batch, now: Progress, config: TrainConfig, world: World
) -> int:
    """Return the bytes of all tensors that are kept for the backward pass of a whole batch."""
    whole = config.with_values("optim", accumulation_steps=1)
    weights = {weight.untyped_storage().data_ptr() for weight in state.method.student.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        compute_gradients(state, state.method, batch, now, config=whole, world=world)
    return sum(kept.values())


def counted_state_bytes(state: TrainState, processes: int) -> int:
    """Return the bytes in one process of the weights of all networks, of gradients and moments.

    With `optim.parallel=fsdp2` a process has its part of them; and whole, during a step, what is in
    no block, and two blocks (the next is gathered while one computes), with their gradients.
    """
    method = state.method
    trained = [p.numel() for p in method.student.parameters() if p.requires_grad]
    weights = sum(p.numel() for p in method.parameters())
    moments = 2 if isinstance(state.optimizer, torch.optim.AdamW) else 1
    everything = weights + (1 + moments) * sum(trained)
    if method.config.optim.parallel == "fsdp2" and processes > 1:
        blocks = [
            sum(p.numel() for p in block.parameters())
            for block in method.modules()
            if isinstance(block, FastBlock)
        ]
        whole = 2 * (weights - sum(blocks)) + 4 * max(blocks, default=0)
        everything = min(everything, -(-everything // processes) + whole)
    return _FLOAT_BYTES * everything


def line_through(sizes: Sequence[int], values: Sequence[float], size: int) -> float:
    """Return the value at a size, on the line through the values at two sizes, or at one."""
    if len(sizes) == 1:
        return values[0]
    slope = max(values[1] - values[0], 0) / (sizes[1] - sizes[0])
    return values[0] + slope * (size - sizes[0])
