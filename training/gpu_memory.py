"""`--gpu-memory`: the settings with which a step of a run fits a GPU, chosen by counting.

The batch stays, and the loss but for a batch norm in the head and stochastic depth, which are those
of a micro-batch: what changes is the precision, then in how many a process's clips go through the
networks, then whether activations are computed twice.
"""

from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from training.config.presets import GpuMemory
from training.config.train import TrainConfig
from training.data.clips import ClipViews
from training.data.loader import clips_per_rank
from training.distributed.world import World
from training.engine.precision import for_device, numerics
from training.engine.setup import build_state, open_views, run_length
from training.estimate import counted_state_bytes, decoded_batches, kept_bytes, line_through
from training.methods.registry import is_additive
from wtours.errors import UsageError
from wtours.text import bytes_text, counted

_RESERVED_BYTES = 1.5e9
"""For CUDA, cuBLAS and what the allocator cannot use."""
_PASSING = 1.25
"""Operators need memory in passing, beside what the backward pass needs: a quarter is assumed.

No GPU was at hand to measure it on."""


@dataclass(frozen=True)
class Fit:
    """A config whose step fits, and what it takes, in bytes of one process."""

    config: TrainConfig
    memory_bytes: float
    needed_bytes: float
    clips_per_process: int

    def describe(self) -> str:
        """Return one line for a person."""
        optim = self.config.optim
        part = -(-self.clips_per_process // optim.accumulation_steps)
        model = self.config.model
        twice = ", activations computed twice" if model.activation_checkpointing else ""
        has_parts = optim.accumulation_steps > 1 and model.head_batch_norm
        norm = ", with a batch norm in the head that is of a part" if has_parts else ""
        return (
            f"for a GPU of {bytes_text(self.memory_bytes)}: optim.precision={optim.precision} "
            f"optim.accumulation_steps={optim.accumulation_steps} (parts of {part} of "
            f"{counted(self.clips_per_process, 'clip')}{twice}), about "
            f"{bytes_text(self.needed_bytes)}; a step still has "
            f"{counted(optim.global_batch_size, 'clip')}{norm}"
        )


def fit_memory(
    config: TrainConfig,
    memory: GpuMemory,
    *,
    shards_dir: Path | str,
    world: World,
    processes: int,
) -> Fit:
    """Return the config that changes least and fits: what is kept is counted on a step or two.

    Counted, not timed: every process, and every start of a run, comes to the same settings.

    Raises:
        UsageError: nothing fits; says what would.
        ShardError: a shard set that is missing or damaged.
        TrainingError: too few clips for a batch.
    """
    config, share = for_device(config, world.device), clips_per_rank(config, processes)
    views = open_views(shards_dir, config)
    may_split = is_additive(config) and "optim.accumulation_steps" not in memory.fixed
    most = 0
    for candidate, splits in _candidates(config, memory.fixed):
        state_bytes, per_part = _counted(candidate, views, world, share, processes)
        steps = candidate.optim.accumulation_steps
        for count in range(steps, share + 1 if splits and may_split else steps + 1):
            needed = _needed(config, state_bytes, per_part, share, part=-(-share // count))
            if share % count == 0 and needed <= memory.bytes:
                fitting = candidate.with_values("optim", accumulation_steps=count)
                return Fit(fitting, memory.bytes, needed, share)
        for size in range(most + 1, share + 1):  # all of a process's batch, as one part
            if _needed(config, state_bytes, per_part, size, part=size) <= memory.bytes:
                most = size
    raise _nothing_fits(config, memory.bytes, share, most)


def _candidates(config: TrainConfig, fixed: Set[str]) -> Iterator[tuple[TrainConfig, bool]]:
    """Yield what may be changed, least first, with whether micro-batches may be made of it."""
    lower = config.optim.precision == "float32" and "optim.precision" not in fixed
    yield config, not lower
    if lower:
        config = config.with_values("optim", precision="bfloat16")
        yield config, True
    if not config.model.activation_checkpointing and "model.activation_checkpointing" not in fixed:
        yield config.with_values("model", activation_checkpointing=True), True


def _counted(
    config: TrainConfig, views: ClipViews, world: World, share: int, processes: int
) -> tuple[float, tuple[tuple[int, ...], list[float]]]:
    """Return the bytes of weights, gradients and moments; those kept by one and by two clips."""
    sizes = (1, 2) if share > 1 else (1,)
    length = run_length(config, views)
    # What masks hide changes as the network learns: there must be room for all patches.
    config = config.with_values("model", drop_hidden_patches=False)
    with numerics(config.optim, world.device):
        state = build_state(config, world)
        _, batches = decoded_batches(views, sizes)
        kept = [float(kept_bytes(state, batch, length, config, world)) for batch in batches]
    return counted_state_bytes(state, processes), (sizes, kept)


def _needed(
    config: TrainConfig,
    state_bytes: float,
    per_part: tuple[tuple[int, ...], list[float]],
    share: int,
    *,
    part: int,
) -> float:
    """Return the bytes of a process with `share` clips, of which `part` are computed at a time."""
    # Of a frame: its crops, and what the teacher says of it.
    data = config.data
    crops = data.global_crops * data.global_crop_pixels**2
    crops += data.local_crops * data.local_crop_pixels**2
    frame = 3 * data.frame_crop_pixels**2 + 4 * (3 * crops + config.model.num_prototypes)
    views = float(share * data.clip_length * frame)
    kept = line_through(*per_part, size=part) * _PASSING
    return state_bytes + views + kept + _RESERVED_BYTES


def _nothing_fits(config: TrainConfig, memory_bytes: float, share: int, most: int) -> UsageError:
    memory, total = bytes_text(memory_bytes), config.optim.global_batch_size
    if most == 0:
        return UsageError(
            f"not even one clip fits a GPU of {memory}: take a smaller model.backbone, "
            f"data.global_crop_pixels or data.clip_length"
        )
    why = f"{counted(share, 'clip')} of a process do not fit a GPU of {memory}"
    if not is_additive(config):
        why += f", and {config.method} takes no micro-batches: it compares the clips of a batch"
    gpus = -(-total // most)
    return UsageError(
        f"{why}; {most} fit: start {gpus} processes on {gpus} GPUs (torchrun), or set "
        f"optim.global_batch_size={most}, which is another batch"
    )
