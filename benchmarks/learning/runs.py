"""The pretraining runs of bench_learning: what is trained, on what, two at a time."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

SEEDS = (0, 1, 2)
CLIPS, CLIPS_PER_STEP = 1120, 4

RECIPE = (
    "optim.precision=bfloat16",
    "loss.teacher_temp=0.04",
    "loss.warmup_teacher_temp=0.04",
    "checkpoint.every_steps=140",
    "checkpoint.keep_last=1",
)
"""Over the preset `demo`: a recipe for short runs, not the paper's."""


@dataclass(frozen=True)
class Method:
    """What is compared.

    Attributes:
        name: Of its runs, followed by the seed.
        label: In tables.
        overrides: Over the recipe; None: random weights, nothing is trained.
        seeds: Of its runs.
    """

    name: str
    label: str
    overrides: tuple[str, ...] | None
    seeds: tuple[int, ...] = SEEDS


_TWO_VIEWS = (
    "data.global_crops=2",
    "optim.weight_decay=0.05",
    "optim.weight_decay_end=0.05",
)
"""Of methods without a teacher, as their presets have it."""
_TEACHER = ("data.global_crops=2", "loss.object_weights=mean", "loss.reduction=pairs")
_MASKED = (
    *(*_TEACHER, "ibot.patch_temp=0.04", "ibot.warmup_patch_temp=0.04"),
    # Batch norm in the head has it applied to every patch: at 2048 the head took half of the run.
    "model.head_hidden_dim=512",
)

RANDOM = Method("random", "random weights", None)
SIMCLR = Method("simclr", "SimCLR", ("method=simclr", *_TWO_VIEWS, "data.local_crops=0"))
SWAV = Method(
    "swav",
    "SwAV",
    (
        *("method=swav", *_TWO_VIEWS, "model.num_prototypes=256"),
        # With a queue its features collapsed (at epsilon .01), or its codes became uniform (.03):
        # without one, and sharper, it learns.
        *("swav.queue_length=0", "swav.epsilon=0.02"),
    ),
)
VICREG = Method("vicreg", "VICReg", ("method=vicreg", *_TWO_VIEWS, "data.local_crops=0"))
DINO = Method("dino", "DINO", ("method=dino", *_TEACHER))
IBOT = Method("ibot", "iBOT", ("method=ibot", *_MASKED))
ATTMASK = Method("attmask", "AttMask", ("method=attmask", *_MASKED))
DORA = Method("dora", "DORA, k = 3", ())
CENTERED = Method("dora_centered", "DORA, patches centered", ("tracking.patch_center=true",))
"""What makes the masks lie apart; neither in the paper nor in the released code."""
METHODS = (RANDOM, SIMCLR, SWAV, VICREG, DINO, IBOT, ATTMASK, DORA, CENTERED)
"""The paper's (Tables 3 to 5 and 8), as columns of the table."""
VARIANTS = (
    Method("dora_dropped", "DORA, hidden patches left out", ("model.drop_hidden_patches=true",)),
    Method("dora_plain", "DORA without Sinkhorn-Knopp", ("tracking.sinkhorn=false",), (0,)),
    Method("dora_blocks", "DORA, random block masks", ("tracking.mask=random_blocks",), (0,)),
    Method("dora_k1", "DORA, k = 1", ("tracking.num_objects=1",), (0,)),
    Method("dora_k2", "DORA, k = 2", ("tracking.num_objects=2",), (0,)),
    Method(
        "dora_k6",
        "DORA, k = 6 of 6 heads",
        ("tracking.num_objects=6", "tracking.num_heads=6"),
        (0,),
    ),
)
"""Whether what the masks hide must be computed; and the questions of the paper's Table 2, with one
seed each."""


@dataclass(frozen=True)
class TrainingRun:
    """One run of a method."""

    method: Method
    seed: int
    run_dir: Path
    num_clips: int = CLIPS


def runs_of(
    methods: Sequence[Method], folder: Path, *, num_clips: int = CLIPS
) -> list[TrainingRun]:
    """Return the runs of the methods that are trained, a seed of all of them after another."""
    return [
        TrainingRun(method, seed, folder / f"{method.name}-{seed}", num_clips)
        for seed in SEEDS
        for method in methods
        if method.overrides is not None and seed in method.seeds
    ]


def train_all(runs: Sequence[TrainingRun], shards: Path, *, jobs: int) -> Iterator[TrainingRun]:
    """Train what is not trained yet, `jobs` processes of one thread at a time; yield as they end.

    A run that was interrupted goes on from its last checkpoint.

    Raises:
        RuntimeError: a run failed; the message has its last lines.
    """
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(_train, run, shards) for run in runs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def command(run: TrainingRun, shards: Path) -> list[str]:
    """Return the command that trains a run."""
    words = [sys.executable, "-m", "wtours", "pretrain", str(shards)]
    words += ["--run", str(run.run_dir), "--preset", "demo"]
    steps = f"optim.steps={run.num_clips // CLIPS_PER_STEP}"
    for override in (*RECIPE, steps, f"seed={run.seed}", *(run.method.overrides or ())):
        words += ["--set", override]
    return words


ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    # timm's plain attention: with it a step in bfloat16 takes a third less on a CPU.
    "TIMM_FUSED_ATTN": "0",
}


def _train(run: TrainingRun, shards: Path) -> TrainingRun:
    done = subprocess.run(
        command(run, shards),
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{run.run_dir.name}: {done.stderr.strip()[-500:]}")
    return run
