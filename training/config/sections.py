"""The sections of a training run's settings, documented field by field.

The defaults are the preset `official`, the authors' released code.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from wtours.shards.clip_starts import IntervalRange
from wtours.text import counted

Count = Annotated[int, Field(gt=0)]
WholeNumber = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Scale = tuple[float, float]
LoggerName = Literal["tensorboard", "wandb", "mlflow"]


class Section(BaseModel):
    """Frozen settings that refuse unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelConfig(Section):
    """The backbone (a timm ViT) and the projection head."""

    backbone: str = "vit_small_patch16_224"
    """Name of a timm ViT."""
    init: str | None = None
    """Weights that the backbone starts from, named as for `wtours eval`: a run, a file of DINO's or
    DORA's authors, timm:NAME, hf:NAME; the head is random all the same. None: random weights."""
    patch_size: Count | None = None
    """Patch side in pixels; None: the backbone's own."""
    depth: Count | None = None
    """Number of blocks; None: the backbone's own."""
    embed_dim: Count | None = None
    """Width D; None: the backbone's own."""
    num_heads: Count | None = None
    """Attention heads per block; None: the backbone's own."""
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Stochastic depth of the student's last block (0 in the first, linear between); its masks are
    drawn per step and rank, so 0 is needed to compare runs on different numbers of ranks."""
    drop_hidden_patches: bool = False
    """Leave out of DORA's student the patches that its masks hide, instead of showing it their mean
    color: faster, and another model than the released code's. For masks that hide (`tracking.mask`
    binary or random_blocks)."""
    activation_checkpointing: bool = False
    """Compute the student's blocks a second time in the backward pass instead of keeping what is in
    them: less memory, more time, the same numbers."""
    compile: bool = False
    """Compile the backbones' blocks (torch.compile): faster steps after a slower start; the numbers
    differ in the last digits."""
    num_prototypes: Annotated[int, Field(gt=1)] = 65536
    """Outputs K of the head; SimCLR and VICReg have none."""
    head_hidden_dim: Count = 2048
    """Width of the head's hidden layers: two, or one of SimCLR and SwAV."""
    head_batch_norm: bool = False
    """Batch norm after the head's hidden layers, with the statistics of all ranks."""
    norm_last_layer: bool = False
    """Keep the last layer's weight norms at 1 instead of training them."""

    @property
    def sizes(self) -> dict[str, int]:
        """Return the backbone's sizes that are not its own, by their names in timm."""
        names = ("patch_size", "depth", "embed_dim", "num_heads")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class DataConfig(Section):
    """Clips, and the crops taken from them."""

    clip_length: Count = 8
    """Frames T of a clip."""
    frame_interval_seconds: Positive | tuple[Positive, ...] | IntervalRange = 1.0
    """Time between two frames of a clip, in seconds: one number; or clip_length - 1 of them; or
    {min: 0.25, max: 0.5}, of which each clip draws its own."""
    min_start_distance_seconds: NonNegative = 0.0
    """No two clips of a video start nearer to each other; 0: a clip at every frame."""
    split: str | None = None
    """Take clips of this part of the set's split.json (`wtours shards split`), e.g. train."""
    across_cuts: bool = False
    """Allow clips that hold a cut."""
    clips_per_epoch: Count | None = None
    """Clips in one epoch; None: each valid clip once."""
    clips_per_video: Count | None = None
    """Instead of clips_per_epoch and mixture: an epoch is so many clips of each video."""
    clips_per_neighborhood: Count = 1
    """So many clips of the stream in a row begin near each other, in one shot."""
    neighborhood_seconds: Positive = 10.0
    """How near: within so many seconds of the first of them."""
    mixture: dict[str, Count] | None = None
    """Weight of each video by its id, e.g. {venice: 2, oslo: 1}: so many of each sum of the weights
    clips are of it, and a video that is not named is left out; None: all clips count alike."""
    num_workers: WholeNumber = 2
    """Decoding processes per rank; 0 decodes in the training process."""
    frame_crop_pixels: Count = 300
    """Side of the square that each frame of a clip is first reduced to."""
    frame_crop_scale: Scale = (0.2, 1.0)
    """Share of the frame's area in that first crop: one box per clip."""
    global_crops: Literal[1, 2] = 1
    """Global views of a clip; with 2, the teacher of one view teaches the student of the other."""
    global_crop_pixels: Count = 224
    """Side of a global crop."""
    global_crop_scale: Scale = (0.4, 1.0)
    """Share of the first crop's area in a global crop: one box per clip."""
    local_crops: WholeNumber = 6
    """Local crops of each frame; 0: none."""
    local_crop_pixels: Count = 112
    """Side of a local crop."""
    local_crop_scale: Scale = (0.05, 0.4)
    """Share of the first crop's area in a local crop: a box per crop and frame."""

    @property
    def mean_interval_seconds(self) -> float:
        """Return the mean time between two frames of a clip."""
        interval = self.frame_interval_seconds
        if isinstance(interval, IntervalRange):
            return (interval.min + interval.max) / 2
        return sum(interval) / len(interval) if isinstance(interval, tuple) else interval

    @model_validator(mode="after")
    def _check_clips(self) -> Self:
        interval, size = self.frame_interval_seconds, self.clips_per_neighborhood
        if isinstance(interval, tuple) and len(interval) != self.clip_length - 1:
            raise ValueError(
                f"data.frame_interval_seconds lists {counted(len(interval), 'interval')}, and a "
                f"clip of {self.clip_length} frames has {self.clip_length - 1}"
            )
        if self.clips_per_video is not None and (self.clips_per_epoch or self.mixture):
            raise ValueError(
                "data.clips_per_video goes without data.clips_per_epoch and data.mixture"
            )
        for name in ("clips_per_epoch", "clips_per_video"):
            if (value := getattr(self, name) or size) % size:
                raise ValueError(
                    f"data.{name} ({value}) must be a multiple of "
                    f"data.clips_per_neighborhood ({size})"
                )
        return self

    @model_validator(mode="after")
    def _check_scales(self) -> Self:
        for name in ("frame_crop_scale", "global_crop_scale", "local_crop_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ValueError(f"data.{name} ({low}, {high}) must be 0 < low <= high <= 1")
        return self


class AugmentConfig(Section):
    """Photometric changes, redrawn for each frame of each crop; and the flip."""

    flip_probability: Share = 0.5
    """Horizontal flip of a global crop: one draw per clip."""
    jitter_probability: Share = 0.8
    """Color jitter at all."""
    brightness: NonNegative = 0.4
    """Factor from 1 - this to 1 + this."""
    contrast: NonNegative = 0.4
    """Factor from 1 - this to 1 + this."""
    saturation: NonNegative = 0.2
    """Factor from 1 - this to 1 + this."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Shift from -this to this, in turns of the color circle."""
    grey_probability: Share = 0.2
    """Gray instead of color."""
    global_blur_probability: Share = 0.1
    """Gaussian blur of a global crop's frame, sigma 0.1 to 2 pixels."""
    local_blur_probability: Share = 0.5
    """Gaussian blur of a local crop's frame, sigma 0.1 to 2 pixels."""


class OptimConfig(Section):
    """Length of the run, optimizer and schedules."""

    name: Literal["adamw", "lars"] = "adamw"
    """The optimizer: AdamW (released code), or LARS (paper) with momentum .9 and trust .001."""
    global_batch_size: Count = 128
    """Clips in a step on all ranks together; a multiple of the number of ranks."""
    accumulation_steps: Count = 1
    """Micro-batches that a rank's clips of a step go through the networks in, to need less memory;
    at most one for each clip."""
    epochs: Positive = 100
    """Length of the run; an epoch is clips_per_epoch // global_batch_size steps."""
    steps: Count | None = None
    """Length of the run in steps; an epoch is then steps / epochs steps, for every field here."""
    lr: Positive = 5e-4
    """Peak learning rate, for `lr_clips` clips in a step."""
    lr_clips: Count | None = 256
    """The peak is lr x global_batch_size / lr_clips; None: lr as it is."""
    lr_scaling: Literal["linear", "sqrt"] = "linear"
    """sqrt: the peak grows with the square root of global_batch_size / lr_clips instead."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each block's learning rate is this times that of the block after it, the embeddings' that of
    the first block; the last block's is that much below the head's. 1: all have the same."""
    min_lr: NonNegative = 1e-5
    """Learning rate at the end of its cosine."""
    warmup_epochs: NonNegative = 10
    """Linear warm-up of the learning rate from 0."""
    weight_decay: NonNegative = 0.04
    """Weight decay at step 0; biases and one-dimensional parameters have none."""
    weight_decay_end: NonNegative = 0.4
    """Weight decay at the end of its cosine."""
    momentum: Share = 0.996
    """Momentum of the teacher at step 0: teacher = m * teacher + (1 - m) * student."""
    momentum_end: Share = 1.0
    """Momentum of the teacher at the end of its cosine."""
    clip_grad: Positive | None = 3.0
    """Largest gradient norm; None: not clipped."""
    clip_grad_by: Literal["parameter", "global"] = "parameter"
    """Each parameter by its own norm (released code), or all by their common norm."""
    freeze_last_layer_epochs: NonNegative = 1
    """Epochs during which the head's last layer is not trained."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Autocast of both networks; weights, loss and optimizer stay float32. auto: bfloat16 on CUDA,
    float32 on a CPU. With float16 the loss is scaled, and a step whose gradients overflow is left
    out."""
    float32_matmul_precision: Literal["highest", "high", "medium"] = "high"
    """How CUDA multiplies what is float32, as torch.set_float32_matmul_precision takes it: "high"
    is TF32, with the 10 bits of float16; "highest" all 23. A CPU always has all of them."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """How processes share a run: ddp, each has all weights; fsdp2, weights, gradients and moments
    are divided over them, for ViT-L and larger."""
    deterministic: bool = False
    """Take the operators that give the same bits each time; slower on a GPU."""


class CheckpointConfig(Section):
    """When a run can be resumed from."""

    every_steps: Count = 500
    """Steps between checkpoints; the last step always has one."""
    every_minutes: Positive | None = 30
    """Minutes after which there is one in any case, by rank 0's clock; None: by steps alone."""
    keep_last: Count = 2
    """Newest checkpoints kept; older ones are removed."""
    keep_every: Count | None = None
    """The checkpoints of multiples of this step are made, and never removed."""


class FaultsConfig(Section):
    """Timeouts after which a process counts as failed and the run ends."""

    silence_seconds: Positive = 15
    """Without a heartbeat for so long, a process was killed, stopped or cut off."""
    stall_seconds: Positive | None = None
    """Without progress on any process for so long, training hangs; None: ten times the slowest step
    so far, at least 40 s."""
    first_step_seconds: Positive = 1800
    """The same up to the end of the second step, which may load and compile."""


class WatchConfig(Section):
    """What monitors measure and draw while a run trains; it changes nothing that is computed."""

    overlay_every_steps: Count | None = None
    """Steps between two drawings of the evaluated network's attention over clips; None: never."""
    overlay_clips: Count = 2
    """Clips drawn, spread over the shard set."""
    knn_train: str | None = None
    """Labeled training images of a k-NN, as `wtours eval knn --train` takes them; None: no k-NN."""
    knn_val: str | None = None
    """Labeled images that are classified."""
    knn_every_steps: Count = 1000
    """Steps between two k-NN evaluations, which all ranks share."""
    knn_k: Count = 20
    """Neighbors."""
    effective_rank_every_steps: Count = 10
    """Steps between two measurements of `effective_rank`: its eigenvalues make the host wait for a
    GPU."""
    profile_steps: tuple[Count, Count] | None = None
    """First and last step of which rank 0 writes a torch.profiler trace, and on CUDA a snapshot of
    the memory, into the run's folder `profile`, e.g. [100, 104]; the first step after a start is
    left out. None: never."""
    peak_tflops: Positive | None = None
    """Dense bfloat16 TFLOP/s of the device, which the MFU is a share of; None: known for common
    GPUs, else there is no MFU."""
    loggers: tuple[LoggerName, ...] = ("tensorboard",)
    """Where metrics and images are shown beside metrics.jsonl: any of tensorboard, wandb, mlflow,
    e.g. [tensorboard, wandb]; []: nowhere. One that fails is left out, and never stops a run."""

    @field_validator("loggers", mode="before")
    @classmethod
    def _check_loggers(cls, value: Any) -> Any:
        """Take "tensorboard,wandb", too, as people type it behind --set."""
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_both(self) -> Self:
        if (self.knn_train is None) != (self.knn_val is None):
            raise ValueError("watch.knn_train and watch.knn_val go together")
        if self.profile_steps is not None and self.profile_steps[0] > self.profile_steps[1]:
            first, last = self.profile_steps
            raise ValueError(f"watch.profile_steps [{first}, {last}] ends before it begins")
        return self
