"""The multiplications of a clip, counted from the config: for costs ahead of a run, and its MFU.

Counted are the networks and the head's last layer, for masked patches too unless
model.drop_hidden_patches leaves them out; not the head's MLP, decoding, the object tracker and the
optimizer.
"""

from dataclasses import dataclass

from training.config.train import TrainConfig


@dataclass(frozen=True)
class BackboneShape:
    """What the multiplications of a ViT follow from."""

    width: int
    depth: int
    patch_size: int

    def forward_gmac(
        self, pixels: int, *, cls_alone: bool = False, visible_share: float = 1.0
    ) -> float:
        """Return the billions of multiplications of a forward pass over one square image.

        A block of N tokens of width D takes 12 N D^2 in its matrices and 2 N^2 D in its attention.

        Args:
            pixels: Of the image's side.
            cls_alone: The last block gives the CLS token alone, whose query, projection and MLP are
                10 D^2; of the others it needs keys and values.
            visible_share: Of the patches, that go through the blocks.
        """
        width, patches = self.width, visible_share * (pixels // self.patch_size) ** 2
        tokens = patches + 1
        block = 12 * tokens * width**2 + 2 * tokens**2 * width
        last = (2 * tokens + 10) * width**2 + 2 * tokens * width if cls_alone else block
        embedding = patches * 3 * self.patch_size**2 * width
        return ((self.depth - 1) * block + last + embedding) / 1e9


@dataclass(frozen=True)
class _Passes:
    """Images of a frame that go through the networks."""

    student: int
    teacher: int
    """Of the global crop's size."""
    local: int
    """Of the local crop's size, through the student."""
    whole_student: bool = False
    whole_teacher: bool = False
    """Whether more than the CLS token of the global crops is read."""
    head_width: int = 256
    """Of what the head's last layer multiplies with the prototypes; 0: there are none."""
    masked_patches: float = 0.0
    """Patches of a frame that the head's last layer sees of both networks, on average; a share of
    those of a global crop."""


def clip_tflop(
    config: TrainConfig,
    shape: BackboneShape,
    *,
    as_computed: bool = False,
    visible_share: float = 1.0,
) -> float:
    """Return the TFLOP of one clip: forward and backward of the student, forward of the teacher.

    Args:
        as_computed: Leave out what the trainer does not compute, the last block's tokens that
            nobody reads; else whole networks, as others count them.
        visible_share: Of the student's patches in global crops, where `as_computed` and
            model.drop_hidden_patches leave out the hidden ones.
    """
    data, passes = config.data, _passes(config)
    drops = as_computed and config.model.drop_hidden_patches
    of_student = shape.forward_gmac(
        data.global_crop_pixels,
        cls_alone=as_computed and not passes.whole_student,
        visible_share=visible_share if drops else 1.0,
    )
    of_teacher = shape.forward_gmac(
        data.global_crop_pixels, cls_alone=as_computed and not passes.whole_teacher
    )
    of_local = shape.forward_gmac(data.local_crop_pixels, cls_alone=as_computed)
    head = passes.head_width * config.model.num_prototypes / 1e9
    masked = passes.masked_patches * (data.global_crop_pixels // shape.patch_size) ** 2 * head
    trained = passes.student * (of_student + head) + passes.local * (of_local + head) + masked
    gmac = 3 * trained + passes.teacher * (of_teacher + head) + masked
    return 2 * gmac * data.clip_length / 1000


def has_teacher(config: TrainConfig) -> bool:
    """Return whether the method has a second network."""
    return _passes(config).teacher > 0


def _passes(config: TrainConfig) -> _Passes:
    views, local = config.data.global_crops, config.data.local_crops
    counted = max(local - config.loss.local_crops_skipped, 0)  # of methods with a teacher
    match config.method:
        case "dora" | "dora_images":
            objects = config.tracking.num_objects * views
            tracks = config.tracking.mask != "random_blocks"
            return _Passes(objects, views, counted, whole_teacher=tracks)
        case "simclr" | "vicreg":
            return _Passes(views, 0, local, head_width=0)
        case "swav":
            return _Passes(views, 0, local, head_width=config.swav.output_dim)
        case "ibot" | "attmask":
            masked = views * config.ibot.masked_probability * sum(config.ibot.mask_ratio) / 2
            return _Passes(
                views,
                views,
                counted,
                whole_student=True,
                whole_teacher=True,
                masked_patches=masked,
            )
        case _:
            return _Passes(views, views, counted)
