"""The methods: their names, what else a config must say to use one, and their sections.

The defaults are the released code's; the presets have what goes with each method.
"""

from typing import Any, Literal, Self

from pydantic import model_validator

from training.config.sections import (
    Count,
    NonNegative,
    Positive,
    Scale,
    Section,
    Share,
    WholeNumber,
)

MethodName = Literal["dora", "dino", "dora_images", "simclr", "swav", "vicreg", "ibot", "attmask"]

_NO_KOLEO = {"loss.koleo_weight": (0, "it has no such term")}

REQUIRED: dict[MethodName, dict[str, tuple[Any, str]]] = {
    "dora": {},
    "dino": {"data.global_crops": (2, "it teaches a view by another")},
    "dora_images": {"data.clip_length": (1, "an image is no clip")},
    "simclr": {
        "data.global_crops": (2, "two views of an image are its positives"),
        **_NO_KOLEO,
    },
    "swav": {
        "data.global_crops": (2, "the codes of a view are predicted from another"),
        **_NO_KOLEO,
    },
    "vicreg": {
        **_NO_KOLEO,
        "data.global_crops": (2, "it compares two views"),
        "data.local_crops": (0, "it compares two views, and has no use for more"),
    },
    "ibot": {"data.global_crops": (2, "it teaches a view by another")},
    "attmask": {"data.global_crops": (2, "it teaches a view by another")},
}
"""The fields that a method fixes, with the value and the reason."""

_UNMASKED = "its student sees whole images"
_FILLED_IN = "its student fills in the patches that are hidden"

WITHOUT_HIDDEN_PATCHES: dict[MethodName, str] = {
    **dict.fromkeys(("dino", "simclr", "swav", "vicreg"), _UNMASKED),
    **dict.fromkeys(("ibot", "attmask"), _FILLED_IN),
}
"""The methods that model.drop_hidden_patches is not for, with the reason."""


class TrackingConfig(Section):
    """Object discovery and tracking (paper, equations 2 to 7)."""

    num_objects: Count = 3
    """Objects O per clip: attention heads drawn for each step."""
    num_heads: Count | None = None
    """Heads that the last block's queries and keys are split into to find objects (B.2: 16 or 32);
    None: the backbone's own. The network itself is not changed."""
    sinkhorn: bool = True
    """Refine the object prototypes with Sinkhorn-Knopp (equations 4 and 5); false: equation 3."""
    epsilon: Positive = 0.05
    """Entropy weight of Sinkhorn-Knopp."""
    iterations: Count = 30
    """Sinkhorn-Knopp iterations."""
    patch_center: bool = False
    """Subtract the frame's mean patch token from Z before equations 4 and 5 (neither in the paper
    nor in the released code): the masks of the objects then lie apart."""
    patch_norm: bool = True
    """L2-normalize the patch tokens Z before equations 4 and 5."""
    marginals: Literal["patch", "paper"] = "patch"
    """Assignment rows sum to 1 for each patch (released code) or to 1/n (paper)."""
    mask: Literal["binary", "soft", "literal", "random_blocks"] = "binary"
    """Object masks: where a map is above its mean (released code), the map divided by its maximum,
    or equation 7 to the letter; or blocks drawn at random for each object and frame."""
    attention_scale: Literal["head", "width"] = "head"
    """What the attention that finds objects is divided by: sqrt(D / heads) as in the network, or
    sqrt(D) as in equation 1."""


class LossConfig(Section):
    """Distillation between teacher and student (paper, equations 8 to 10)."""

    local_crops_skipped: WholeNumber = 1
    """Local crops, from the first, that the loss leaves out (1 in the released code)."""
    object_weights: Literal["carry", "mean"] = "carry"
    """Weights of the objects: as the released code's carried sum, or equal."""
    reduction: Literal["mean", "sum", "pairs"] = "mean"
    """Half the mean over objects and half that over crops (released code), the paper's sums, or the
    mean over all pairs of a teacher's and a student's view (DINO)."""
    teacher_centering: Literal["mean", "sinkhorn"] = "mean"
    """Teacher outputs centered by a moving mean, or by Sinkhorn-Knopp over the global batch."""
    sinkhorn_iterations: Count = 3
    """Iterations of the teacher's Sinkhorn-Knopp, where it is used."""
    student_temp: Positive = 0.1
    """Student softmax temperature."""
    teacher_temp: Positive = 0.04
    """Teacher softmax temperature after its warm-up."""
    warmup_teacher_temp: Positive = 0.04
    """Teacher softmax temperature at step 0."""
    warmup_teacher_temp_epochs: NonNegative = 30
    """Epochs over which the teacher temperature goes linearly from the one to the other."""
    center_momentum: Share = 0.9
    """Momentum of the moving mean that centers the teacher."""
    koleo_weight: NonNegative = 0.0
    """Weight of the KoLeo term (DINOv2), which spreads the student's CLS tokens of a process in
    each global view: its mean over the views, where DINOv2 sums over its two, so that its .1 is .2
    here. It compares the images of a step, which then takes no micro-batches."""

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.reduction != "mean" and self.object_weights == "carry":
            raise ValueError(
                f"loss.reduction={self.reduction} goes only with loss.object_weights=mean"
            )
        return self


class SimclrConfig(Section):
    """SimCLR's contrastive loss, of method=simclr; its projector has model.head_hidden_dim."""

    temperature: Positive = 0.2
    """Softmax temperature (solo-learn's ImageNet-100 recipe; SimCLR's own code: 0.1)."""
    siblings: Literal["exclude", "negative", "positive"] = "exclude"
    """What the other frames of an image's clip are: neither positives nor negatives; negatives as
    any other image; or positives as its other views."""
    output_dim: Count = 512
    """Width of the embedding that is compared."""


class SwavConfig(Section):
    """SwAV's codes and queue, of method=swav; its prototypes are model.num_prototypes."""

    temperature: Positive = 0.1
    """Softmax temperature of the predictions."""
    epsilon: Positive = 0.05
    """Entropy weight of Sinkhorn-Knopp; smaller ones make the codes harder."""
    sinkhorn_iterations: Count = 3
    """Iterations of Sinkhorn-Knopp."""
    output_dim: Count = 128
    """Width of the features that are compared with the prototypes."""
    queue_length: WholeNumber = 3072
    """Past images per global view that share in the codes' balance; 0: none."""
    queue_start_epoch: NonNegative = 15
    """Epoch from which the queue is filled; it is used once it is full."""


class VicregConfig(Section):
    """VICReg's three terms, of method=vicreg; its projector has model.head_hidden_dim twice."""

    invariance_weight: NonNegative = 25.0
    """Weight of the mean squared difference of the views."""
    variance_weight: NonNegative = 25.0
    """Weight of the hinge on each dimension's standard deviation."""
    covariance_weight: NonNegative = 1.0
    """Weight of the squared covariances of different dimensions."""
    halve_variance: bool = False
    """Halve the variance term, as the authors' code does; their paper and solo-learn do not."""
    output_dim: Count = 2048
    """Width of the embedding (8192 in the authors' code)."""


class IbotConfig(Section):
    """iBOT's masked patches, of method=ibot and method=attmask; CLS tokens: section `loss`."""

    patch_weight: NonNegative = 1.0
    """Weight of the loss of masked patches beside that of CLS tokens."""
    patch_temp: Positive = 0.07
    """The teacher's softmax temperature for patches after its warm-up."""
    warmup_patch_temp: Positive = 0.04
    """That at step 0; the warm-up has loss.warmup_teacher_temp_epochs."""
    patch_center_momentum: Share = 0.9
    """Momentum of the moving mean that centers the teacher's patches."""
    mask_ratio: Scale = (0.1, 0.5)
    """Bounds of the share of patches to mask; drawn for each frame of a view (attmask: a step)."""
    masked_probability: Share = 0.5
    """Share of the global views' frames that have a mask at all."""

    @model_validator(mode="after")
    def _check_ratio(self) -> Self:
        low, high = self.mask_ratio
        if not 0 <= low <= high < 1:
            raise ValueError(f"ibot.mask_ratio ({low}, {high}) must be 0 <= low <= high < 1")
        return self


class AttmaskConfig(Section):
    """Which patches the teacher's attention has masked, of method=attmask."""

    kind: Literal["high", "low", "hint"] = "high"
    """Mask those with the most attention, with the least, or the most but for a few shown again."""
    hint_share: Share = 0.1
    """Of "hint": shown patches are this times a second draw of ibot.mask_ratio."""
