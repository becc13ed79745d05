"""The losses and masks of SimCLR, SwAV, VICReg, DINO, iBOT and AttMask against their authors' code.

Bounds: 1e-5 relative for losses and outputs, 1e-4 relative (L2) for gradients, both of float32 sums
in another order; masks equal; statistics of random masks within 4 standard errors. Nothing here
knows a number or a size of the record: those come with it.
"""

import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.config.presets import resolve_config
from training.losses.cross_entropy import cross_entropies, distillation_losses
from training.losses.dino import combine, teacher_probabilities, update_center
from training.losses.ibot import patch_loss
from training.losses.simclr import nt_xent
from training.losses.sinkhorn import sinkhorn_teacher
from training.losses.swav import balanced_codes, enqueue, is_full, swapped_prediction
from training.losses.vicreg import vicreg_terms
from training.methods.base import Network, Views
from training.methods.ibot import Ibot, MaskedNetwork
from training.methods.masking import (
    HINT_SHARE,
    attention_masks,
    draw_ibot_blocks,
    draw_ratio,
)
from training.methods.registry import build_method
from training.models.projection_heads import DinoHead
from training.models.vit import create_vit, encode, encode_tokens, encode_with_attention
from training.rng import numpy_generator
from training.schedules import Progress, linear

Record = dict[str, Any]


@pytest.fixture(scope="module")
def golden(reference_dir: Path) -> Record:
    record: Record = torch.load(reference_dir / "golden" / "golden_baselines.pt", weights_only=True)
    return record


def check(ours: Tensor, theirs: Tensor) -> None:
    """Compare a loss or an output: 1e-5 of its largest value."""
    assert ours.shape == theirs.shape
    scale = float(theirs.abs().max())
    torch.testing.assert_close(ours.detach(), theirs, rtol=1e-5, atol=1e-5 * scale)


def check_gradient(ours: Tensor | None, theirs: Tensor) -> None:
    """Compare a gradient by its L2 norm; one that is 0 has to be 0."""
    assert ours is not None
    assert ours.shape == theirs.shape
    assert float((ours - theirs).norm()) <= 1e-4 * float(theirs.norm())


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.clone().requires_grad_() for tensor in tensors]


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    found = torch.autograd.grad(loss, inputs, retain_graph=True, materialize_grads=True)
    return tuple(found)


# SimCLR


def test_simclr_of_two_views(golden):
    case = golden["simclr"]["two_views"]
    temperatures = [key.removeprefix("loss_T") for key in case if key.startswith("loss_T")]
    assert temperatures
    images = case["indexes"]
    for temperature in temperatures:
        (z,) = leaves(case["z"])
        loss = nt_xent(z, images, images, temperature=float(temperature))
        (gradient,) = gradients(loss, z)
        check(loss, case[f"loss_T{temperature}"])
        check_gradient(gradient, case[f"grad_z_T{temperature}"])
        # SimCLR's own code sums over an image's two rows where the equation takes the mean.
        check(2 * loss, case[f"google_loss_T{temperature}"])
        check_gradient(2 * gradient, case[f"google_grad_z_T{temperature}"])


def test_simclr_of_many_crops(golden):
    case = golden["simclr"]["multi_crop"]
    (z,) = leaves(case["z"])
    assert len(case["indexes"]) % case["num_views"] == 0
    loss = nt_xent(z, case["indexes"], case["indexes"], temperature=case["temperature"])
    check(loss, case["loss"])
    check_gradient(gradients(loss, z)[0], case["grad_z"])


@pytest.mark.parametrize(
    ("siblings", "name"), [("negative", "frames_as_images"), ("positive", "clip_as_class")]
)
def test_simclr_of_clips(golden, siblings, name):
    case = golden["simclr"]["clips"]
    (z,) = leaves(case["z"])
    images, clips = case["frame_indexes"], case["clip_indexes"]
    assert int(clips.max()) + 1 == case["num_clips"]
    assert int((clips == clips[0]).sum()) % case["clip_length"] == 0
    loss = nt_xent(z, images, clips, temperature=case["temperature"], siblings=siblings)
    check(loss, case[f"loss_{name}"])
    check_gradient(gradients(loss, z)[0], case[f"grad_z_{name}"])


# SwAV


def test_swav_steps_with_its_queue(golden):
    record = golden["swav"]
    check(F.normalize(record["prototypes_raw"], dim=-1), record["prototypes"])
    assigned = record["crops_for_assign"]
    for number, step in enumerate(record["steps"]):
        features, prototypes, raw = leaves(
            step["features"], record["prototypes"], record["prototypes_raw"]
        )
        assert len(features) == record["num_crops"]
        unit = F.normalize(features, dim=-1)
        queue = step["queue_before"]
        assert queue.shape[1] == record["queue_length"]

        def loss_of(directions: Tensor, unit: Tensor = unit, step: Record = step) -> Tensor:
            logits, queue = unit @ directions.T, step["queue_before"]
            queued = [queue[view] @ directions.T if is_full(queue) else None for view in assigned]
            codes = [
                balanced_codes(
                    logits[view],
                    of_queue,
                    epsilon=record["epsilon"],
                    iterations=record["sinkhorn_iterations"],
                )
                for view, of_queue in zip(assigned, queued, strict=True)
            ]
            check(torch.stack(codes), step["assignments"])
            rows = [
                logits[view] if of_queue is None else torch.cat([of_queue, logits[view]])
                for view, of_queue in zip(assigned, queued, strict=True)
            ]
            check(torch.stack(rows), step["logits_for_assignment"])
            return swapped_prediction(logits, torch.stack(codes), temperature=record["temperature"])

        loss = loss_of(prototypes)
        check(loss, step["loss"])
        of_features, of_prototypes = gradients(loss, features, prototypes)
        check_gradient(of_features, step["grad_features"])
        assert ("grad_prototypes" in step) == (number >= record["freeze_prototypes_niters"])
        if "grad_prototypes" in step:
            check_gradient(of_prototypes, step["grad_prototypes"])
        # solo-learn trains the raw prototypes through their normalization, as our head does.
        loss = loss_of(F.normalize(raw, dim=-1))
        of_features, of_raw = gradients(loss, features, raw)
        check(loss, step["solo_loss"])
        check_gradient(of_features, step["solo_grad_features"])
        check_gradient(of_raw, step["solo_grad_weight_v"])
        check(enqueue(queue, unit[assigned]), step["queue_after"])


def test_swav_sinkhorn(golden):
    record = golden["swav"]["sinkhorn"]
    cases = [key for key in record if key.startswith("assignment_eps")]
    assert cases
    for key in cases:
        match = re.fullmatch(r"assignment_eps(.+)_iters(\d+)", key)
        assert match
        epsilon, iterations = float(match[1]), int(match[2])
        ours = sinkhorn_teacher(record["logits"], temp=epsilon, iterations=iterations)
        check(ours, record[key])
        check(balanced_codes(record["logits"], epsilon=epsilon, iterations=iterations), record[key])
    collapsed = record["assignment_of_identical_rows"]
    same = record["logits"][:1].expand(len(collapsed), -1)
    check(balanced_codes(same, epsilon=0.05, iterations=3), collapsed)


# VICReg


def test_vicreg(golden):
    for name in ("small", "wide"):
        case = golden["vicreg"][name]
        x, y = leaves(case["x"], case["y"])
        terms = vicreg_terms(x, y)
        for code, variance_share in (("official", 0.5), ("solo", 1.0)):
            variance = variance_share * terms.variance
            named = {
                "invariance": terms.invariance,
                "variance": variance,
                "covariance": terms.covariance,
                "total": 25 * terms.invariance + 25 * variance + terms.covariance,
            }
            for term, value in named.items():
                check(value, case[f"{code}_{term}"])
                of_x, of_y = gradients(value, x, y)
                check_gradient(of_x, case[f"{code}_{term}_grad_x"])
                check_gradient(of_y, case[f"{code}_{term}_grad_y"])


def test_vicreg_of_a_collapse_has_no_gradient(golden):
    case = golden["vicreg"]["collapsed"]
    x, y = leaves(case["x"], case["y"])
    terms = vicreg_terms(x, y)
    total = 25 * terms.invariance + 12.5 * terms.variance + terms.covariance
    check(total, case["official_total"])
    of_x, of_y = gradients(total, x, y)
    check_gradient(of_x, case["official_total_grad_x"])
    assert torch.equal(of_y, torch.zeros_like(y))


# DINO and iBOT: the losses of recorded logits, which go through a last layer that is the identity.


def pairs_loss(
    student_globals: Tensor, student_locals: Tensor, targets: Tensor, *, student_temp: float
) -> Tensor:
    """Return the loss of logits (2, M, K) and (L, M, K) with the targets (2, M, K)."""
    width = targets.shape[-1]
    weights = (torch.eye(width), torch.ones(width, 1))
    whole, local = distillation_losses(
        [student_globals.flatten(0, 1)[None, :, None], student_locals[:, :, None]],
        *weights,
        [targets.flip(0).flatten(0, 1)[:, None], targets.mean(dim=0)[:, None]],
        student_temp=student_temp,
    )
    return combine(whole, local, reduction="pairs")


def test_dino(golden):
    record = golden["dino"]
    for step in record["steps"]:
        (student,) = leaves(step["student"])
        views = record["num_local_crops"] + 2
        by_view = student.reshape(views, -1, student.shape[-1])
        teacher = step["teacher"].reshape(2, -1, student.shape[-1])
        center = step["center_before"][0]
        targets = teacher_probabilities(teacher, center, temp=step["teacher_temp"])
        loss = pairs_loss(by_view[:2], by_view[2:], targets, student_temp=record["student_temp"])
        check(loss, step["loss"])
        check_gradient(gradients(loss, student)[0], step["grad_student"])
        after = update_center(center, teacher, momentum=record["center_momentum"])
        check(after, step["center_after"][0])


def test_ibot_temperatures(golden):
    for name in ("teacher_temp_schedule", "teacher_patch_temp_schedule"):
        theirs = golden["ibot"][name]
        warmup = int((theirs >= theirs[-1] - 1e-7).nonzero()[0]) + 1
        ours = [
            linear(epoch, start=float(theirs[0]), end=float(theirs[-1]), steps=warmup)
            for epoch in range(len(theirs))
        ]
        check(torch.tensor(ours, dtype=theirs.dtype), theirs)


def masked_loss(
    features: Tensor, weights: tuple[Tensor, Tensor], targets: Tensor, masks: Tensor, temp: float
) -> Tensor:
    """Return the patch loss of features (images, N, c) with targets (images, N, K)."""
    (rows,) = cross_entropies(
        [features[masks][None]], *weights, [targets[masks]], student_temp=temp
    )
    return patch_loss(rows[0], masks, masks.flatten().nonzero()[:, 0])


def test_ibot_losses(golden):
    record = golden["ibot"]["loss"]
    temp, momentum = record["student_temp"], record["center_momentum"]
    for step in record["steps"]:
        assert step["teacher_temp"] == pytest.approx(
            float(golden["ibot"]["teacher_temp_schedule"][step["epoch"]])
        )
        names = ("student_cls", "student_patch", "student_local_cls")
        cls, patch, local = leaves(*(step[name] for name in names))
        width = cls.shape[-1]
        weights = (torch.eye(width), torch.ones(width, 1))
        masks = step["masks"].bool().flatten(0, 1).flatten(1)
        center, patch_center = step["center_before"][0], step["patch_center_before"][0, 0]
        targets = teacher_probabilities(
            step["teacher_cls"].reshape(2, -1, width), center, temp=step["teacher_temp"]
        )
        patch_targets = teacher_probabilities(
            step["teacher_patch"], patch_center, temp=step["teacher_patch_temp"]
        )
        images = targets.shape[1]
        loss_cls = pairs_loss(
            cls.reshape(2, images, width),
            local.reshape(-1, images, width),
            targets,
            student_temp=temp,
        )
        loss_patch = masked_loss(patch, weights, patch_targets, masks, temp)
        check(loss_cls, step["loss_cls"])
        check(loss_patch, step["loss_patch"])
        check(loss_cls + loss_patch, step["loss"])
        found = gradients(loss_cls + loss_patch, cls, patch, local)
        for name, gradient in zip(names, found, strict=True):
            check_gradient(gradient, step[f"grad_{name}"])
        after = update_center(center, step["teacher_cls"], momentum=momentum)
        check(after, step["center_after"][0])
        patch_after = update_center(patch_center, step["teacher_patch"], momentum=momentum)
        check(patch_after, step["patch_center_after"][0, 0])


# iBOT and AttMask: whole steps through a small ViT


class Networks:
    """The student and teacher of a recorded step, with its weights."""

    def __init__(self, step: Record) -> None:
        self.step = step
        self.mask_token = step["student"]["backbone.masked_embed"].clone().requires_grad_()
        self.student, self.student_head = self._build(step["student"])
        self.teacher, self.teacher_head = self._build(step["teacher"])

    def _build(self, weights: dict[str, Tensor]) -> tuple[Any, DinoHead]:
        step = self.step
        backbone = create_vit(
            "vit_tiny_patch16_224",
            img_size=step["global_images"].shape[-1],
            patch_size=step["patch_size"],
            embed_dim=weights["backbone.cls_token"].shape[-1],
            depth=step["depth"],
            num_heads=step["num_heads"],
            mlp_ratio=step["mlp_ratio"],
        )
        assert backbone.norm.eps == pytest.approx(step["layer_norm_eps"])
        num_prototypes, bottleneck = weights["head.last_layer.weight_v"].shape
        hidden, in_dim = weights["head.mlp.0.weight"].shape
        head = DinoHead(in_dim, num_prototypes, hidden_dim=hidden, bottleneck_dim=bottleneck)
        backbone.load_state_dict(of_part(weights, "backbone.", without="masked_embed"))
        head.load_state_dict(of_part(weights, "head."))
        return backbone, head

    def gradients(self, loss: Tensor) -> dict[str, Tensor | None]:
        loss.backward()
        found = {f"backbone.{name}": p.grad for name, p in self.student.named_parameters()}
        found |= {f"head.{name}": p.grad for name, p in self.student_head.named_parameters()}
        return found | {"backbone.masked_embed": self.mask_token.grad}


def of_part(weights: dict[str, Tensor], prefix: str, without: str = "-") -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix) and not name.endswith(without)
    }


def student_losses(networks: Networks, masks: Tensor, expected: Record) -> tuple[Tensor, Tensor]:
    """Return the CLS and the patch loss of the step's images, student outputs compared."""
    step, head = networks.step, networks.student_head
    images, crops = step["global_images"].flatten(0, 1), step["local_images"]
    seen = encode_tokens(networks.student, images, masks=masks, mask_token=networks.mask_token)
    local = encode(networks.student, crops.flatten(0, 1))
    with torch.no_grad():
        teacher = encode_tokens(networks.teacher, images)
        teacher_cls = networks.teacher_head(teacher.cls_token)
        teacher_patch = networks.teacher_head(teacher.patch_tokens)
        targets = teacher_probabilities(
            teacher_cls, step["center_before"][0], temp=step["teacher_temp"]
        )
        patch_targets = teacher_probabilities(
            teacher_patch, step["patch_center_before"][0, 0], temp=step["teacher_temp"]
        )
    check(teacher_cls, step["teacher_cls"])
    check(teacher_patch, step["teacher_patch"])
    check(head(seen.cls_token), expected["student_cls"])
    check(head(seen.patch_tokens), expected["student_patch"])
    check(head(local), step["student_local_cls"])
    last = (head.last_layer.weight_v, head.last_layer.weight_g)
    count, temp = step["global_images"].shape[1], step["student_temp"]
    by_view = targets.reshape(2, count, -1)
    whole, of_crops = distillation_losses(
        [
            head.project(seen.cls_token)[None, :, None],
            head.project(local).reshape(len(crops), count, 1, -1),
        ],
        *last,
        [by_view.flip(0).flatten(0, 1)[:, None], by_view.mean(dim=0)[:, None]],
        student_temp=temp,
    )
    loss_cls = combine(whole, of_crops, reduction="pairs")
    loss_patch = masked_loss(head.project(seen.patch_tokens), last, patch_targets, masks, temp)
    check(loss_cls, expected["loss_cls"])
    check(loss_patch, expected["loss_patch"])
    check(loss_cls + loss_patch, expected["loss"])
    return loss_cls, loss_patch


def test_ibot_step_of_a_small_network(golden):
    step = golden["ibot"]["step"]
    temperatures = golden["ibot"]["teacher_temp_schedule"]
    assert step["teacher_temp"] == pytest.approx(float(temperatures[step["epoch"]]))
    networks = Networks(step)
    masks = step["masks"].bool().flatten(0, 1).flatten(1)
    loss_cls, loss_patch = student_losses(networks, masks, step)
    found = networks.gradients(loss_cls + loss_patch)
    assert found.keys() == step["grads"].keys()
    for name, theirs in step["grads"].items():
        check_gradient(found[name], theirs)
    momentum = golden["ibot"]["loss"]["center_momentum"]
    after = update_center(step["center_before"][0], step["teacher_cls"], momentum=momentum)
    check(after, step["center_after"][0])
    # The center of all patches from their mean feature: the last layer is linear in it.
    with torch.no_grad():
        tokens = encode_tokens(networks.teacher, step["global_images"].flatten(0, 1)).patch_tokens
        head = networks.teacher_head
        mean = head.last_layer(head.project(tokens).flatten(0, 1).mean(dim=0, keepdim=True))
    patch_after = update_center(step["patch_center_before"][0, 0], mean, momentum=momentum)
    check(patch_after, step["patch_center_after"][0, 0])


def test_attmask_step_of_a_small_network(golden):
    step = golden["attmask"]["step"]
    networks = Networks(golden["ibot"]["step"])
    images = networks.step["global_images"].flatten(0, 1)
    with torch.no_grad():
        attention = encode_with_attention(networks.teacher, images).cls_attention.mean(dim=1)
    check(attention, step["cls_attention"])
    masks = attention_masks(attention, ratio=step["ratio"])
    assert torch.equal(masks, step["masks"].bool().flatten(0, 1).flatten(1))
    loss_cls, loss_patch = student_losses(networks, masks, step)
    found = networks.gradients(loss_cls + loss_patch)
    assert found.keys() == step["grad_norms"].keys()
    for name, norm in step["grad_norms"].items():
        gradient = found[name]
        assert gradient is not None
        assert float(gradient.norm()) == pytest.approx(float(norm), rel=1e-4)
    for name, theirs in step["grads"].items():
        check_gradient(found[name], theirs)


@pytest.mark.parametrize("name", ["ibot", "attmask"])
def test_the_methods_compute_the_recorded_steps(golden, name):
    step, expected = golden["ibot"]["step"], golden[name]["step"]
    networks, momentum = Networks(step), golden["ibot"]["loss"]["center_momentum"]
    method = method_of(networks, name, momentum, ratio=float(expected.get("ratio", 0.3)))
    if name == "ibot":
        masks = expected["masks"].bool().flatten(2)[:, :, None]
        drawn = masks, masks.flatten(2).sum(dim=-1)
        method.draw_masks = lambda *_: drawn  # type: ignore[method-assign]
    images, crops = (step[key][:, :, None] for key in ("global_images", "local_images"))
    views, now = Views(images, crops, torch.arange(images.shape[1])), Progress(0, 10, 10)
    targets = method.prepare(views, now)
    assert torch.equal(targets.hidden.flatten(), expected["masks"].bool().flatten())
    output = method(views, targets)
    check(output.loss, expected["loss"])
    check(output.metrics["loss_patch"], expected["loss_patch"])
    output.loss.backward()
    for key, theirs in expected["grads"].items():
        ours = (
            method.student.mask_token
            if key.endswith("masked_embed")
            else method.student.get_parameter(key)
        )
        check_gradient(ours.grad, theirs)
    method.after_step(now)
    check(method.center, step["center_after"][0])
    check(method.patch_center, step["patch_center_after"][0, 0])


def method_of(networks: Networks, name: str, momentum: float, *, ratio: float) -> Ibot:
    """Return the method with the networks, centers and temperatures of a recorded step."""
    step = networks.step
    temps = ("loss.teacher_temp", "loss.warmup_teacher_temp")
    patch_temps = ("ibot.patch_temp", "ibot.warmup_patch_temp")
    values = {
        **dict.fromkeys((*temps, *patch_temps), step["teacher_temp"]),
        "loss.student_temp": step["student_temp"],
        "loss.center_momentum": momentum,
        "ibot.patch_center_momentum": momentum,
        "ibot.mask_ratio": [ratio, ratio],
        "ibot.masked_probability": 1,
        "data.global_crop_pixels": step["global_images"].shape[-1],
        "data.local_crop_pixels": step["local_images"].shape[-1],
        "model.patch_size": step["patch_size"],
        "model.embed_dim": step["student"]["backbone.cls_token"].shape[-1],
        "model.depth": step["depth"],
        "model.num_heads": step["num_heads"],
        "model.num_prototypes": step["center_before"].shape[-1],
    }
    overrides = [f"{key}={value}" for key, value in values.items()]
    method = build_method(resolve_config(name, None, overrides))
    assert isinstance(method, Ibot)
    method.student = MaskedNetwork(Network(networks.student, networks.student_head))
    method.student.mask_token = torch.nn.Parameter(step["student"]["backbone.masked_embed"])
    method.teacher = MaskedNetwork(Network(networks.teacher, networks.teacher_head))
    method.center = step["center_before"][0]
    method.patch_center = step["patch_center_before"][0, 0]
    return method


# Masks


class PythonsRandom:
    """Python's generator, from which iBOT's code draws."""

    def __init__(self, seed: int) -> None:
        self.source = random.Random(seed)

    def random(self) -> float:
        return self.source.random()

    def integers(self, high: int, /) -> int:
        return self.source.randint(0, high - 1)


RATIOS = {"uniform_0.1_0.5": (0.3 - 0.2, 0.3 + 0.2), "ibot_half_none": (0.3 - 0.2, 0.3 + 0.2)}


def bounds_of(name: str) -> tuple[float, float]:
    """Return between what the ratio of a recorded distribution lies."""
    if name.startswith("fixed_"):
        return (float(name.removeprefix("fixed_")),) * 2
    return RATIOS[name]


def ratio_as_ibot_draws_it(source: random.Random, name: str) -> float:
    """Return a ratio drawn in the order of iBOT's loader."""
    low, high = bounds_of(name)
    if low == high:
        return low
    ratio = source.uniform(low, high)
    return source.choice([0.0, ratio]) if name == "ibot_half_none" else ratio


def test_ibot_masks_of_the_same_draws_are_equal(golden):
    cases = golden["ibot_masks"]["exact"]
    assert cases
    for name, case in cases.items():
        for seed, (theirs, theirs_ratio) in enumerate(
            zip(case["masks"], case["ratios"], strict=True)
        ):
            draws = PythonsRandom(seed)
            ratio = ratio_as_ibot_draws_it(draws.source, name)
            assert ratio == pytest.approx(float(theirs_ratio), rel=1e-6)
            generator = cast(np.random.Generator, draws)  # all that is needed of one
            ours = draw_ibot_blocks(generator, tuple(theirs.shape), ratio=ratio)
            assert np.array_equal(ours, theirs.numpy().astype(bool)), (name, seed)


def close(ours: float, theirs: float, standard_error: float, what: str) -> None:
    """Compare two statistics; 1e-9 stands for what both know exactly."""
    assert abs(ours - theirs) <= 4 * standard_error + 1e-9, (what, ours, theirs, standard_error)


def error_of_mean(values: NDArray[np.float64], draws: int) -> float:
    """Return the standard error of the difference of our mean and one of other draws."""
    return float(values.std(ddof=1)) * math.sqrt(1 / len(values) + 1 / draws)


def error_of_std(values: NDArray[np.float64], draws: int) -> float:
    """Return that of the standard deviation (delta method)."""
    deviations = values - values.mean()
    variance = float((deviations**2).mean())
    if variance == 0:
        return 0.0
    excess = float((deviations**4).mean()) - variance**2
    return math.sqrt(excess) / (2 * math.sqrt(variance)) * math.sqrt(1 / len(values) + 1 / draws)


OUR_DRAWS = 4000


def drawn(name: str, side: int) -> Iterator[tuple[float, NDArray[np.bool_]]]:
    probability = 0.5 if name == "ibot_half_none" else 1.0
    for number in range(OUR_DRAWS):
        generator = numpy_generator(2, f"parity/{name}/{side}", number)
        ratio = draw_ratio(generator, ratios=bounds_of(name), masked_probability=probability)
        yield ratio, draw_ibot_blocks(generator, (side, side), ratio=ratio)


@pytest.mark.medium
def test_ibot_masks_have_the_statistics_of_its_code(golden):
    cases = golden["ibot_masks"]["statistics"]
    assert cases
    for key, case in cases.items():
        match = re.fullmatch(r"grid(\d+)_(.+)", key)
        assert match
        side, name = int(match[1]), match[2]
        targets, masks = zip(*drawn(name, side), strict=True)
        compare_statistics(key, np.array(targets), np.stack(masks), case)


def compare_statistics(
    key: str, targets: NDArray[np.float64], masks: NDArray[np.bool_], case: Record
) -> None:
    draws, count = case["num_draws"], masks[0].size
    shares = masks.mean(axis=(1, 2))
    shortfall = targets * count - masks.sum(axis=(1, 2))
    for name, values in (
        ("mean_ratio", shares),
        ("mean_target", targets),
        ("mean_shortfall_patches", shortfall),
    ):
        close(values.mean(), case[name], error_of_mean(values, draws), f"{key} {name}")
    spread = error_of_std(shares, draws)
    close(shares.std(), case["std_ratio"], spread, f"{key} std_ratio")
    of_mean = shares.std() / math.sqrt(draws)
    close(of_mean, case["standard_error_of_mean"], spread / math.sqrt(draws), f"{key} error")
    none = shares == 0
    close(
        none.mean(), case["share_without_mask"], error_of_share(none.mean(), draws), f"{key} none"
    )
    # The largest of many is known to a patch or two, and never above what was asked for.
    assert max(shares.max(), case["max_ratio"]) <= targets.max() + 1 / count
    assert abs(shares.max() - case["max_ratio"]) <= 2 / count + 1e-9
    for quantile, theirs in zip(
        (0.05, 0.25, 0.5, 0.75, 0.95), case["quantiles_5_25_50_75_95"].tolist(), strict=True
    ):
        slack = 4 * error_of_share(quantile, draws)
        assert (shares <= theirs + 1e-6).mean() >= quantile - slack, (key, quantile)
        assert (shares < theirs - 1e-6).mean() <= quantile + slack, (key, quantile)
    theirs = case["patch_probability"].numpy()
    ours = masks.mean(axis=0)
    errors = error_of_share((ours + theirs) / 2, draws)
    assert (np.abs(ours - theirs) <= 4 * errors + 1e-6).all(), key


def error_of_share(share: Any, draws: int) -> Any:
    """Return the standard error of the difference of two shares, ours of OUR_DRAWS."""
    return np.sqrt(share * (1 - share) * (1 / OUR_DRAWS + 1 / draws))


def test_attmask_masks_of_recorded_attention(golden):
    record = golden["attmask"]
    attention, cases = record["attention"], record["cases"]
    seen = set()
    number = attention.shape[1]
    for key, theirs in cases.items():
        masked = theirs.bool()
        if match := re.fullmatch(r"attmask_(high|low)_r([\d.]+)_p1\.0", key):
            kind: Literal["high", "low"] = "high" if match[1] == "high" else "low"
            ours = attention_masks(attention, ratio=float(match[2]), kind=kind)
            assert torch.equal(ours, masked), key
        elif match := re.fullmatch(r"high_before_hint_r([\d.]+)", key):
            assert torch.equal(attention_masks(attention, ratio=float(match[1])), masked), key
        elif match := re.fullmatch(r"hint_candidates_s([\d.]+)", key):
            assert float(match[1]) == HINT_SHARE
            assert torch.equal(attention_masks(attention, ratio=float(match[1])), masked), key
        elif match := re.fullmatch(r"attmask_hint_r([\d.]+)_show([\d.]+)_p1\.0_seed\d+", key):
            check_hint(attention, ratio=float(match[1]), shown=float(match[2]), theirs=masked)
        elif match := re.fullmatch(r"attmask_high_r([\d.]+)_p([\d.]+)_seed(\d+)", key):
            coins = record[f"uniform_seed{match[3]}"] <= float(match[2])
            ours = attention_masks(attention, ratio=float(match[1])) & coins[:, None]
            assert torch.equal(ours, masked), key
        else:
            raise AssertionError(f"no comparison for {key}")
        seen.add(key)
    assert seen == cases.keys()
    assert all(case.shape[1] == number for case in cases.values())


def order_of(attention: Tensor, number: int) -> Tensor:
    candidates = int(attention.shape[1] * HINT_SHARE)
    generator = numpy_generator(0, "parity/hint", number)
    return torch.from_numpy(generator.random((len(attention), candidates)))


def check_hint(attention: Tensor, *, ratio: float, shown: float, theirs: Tensor) -> None:
    """Which candidates are shown is drawn otherwise: counts are equal, and what may be shown."""
    high, candidates = (attention_masks(attention, ratio=r) for r in (ratio, HINT_SHARE))
    ours = attention_masks(
        attention, ratio=ratio, kind="hint", shown=shown, order=order_of(attention, 0)
    )
    for masks in (ours, theirs):
        assert not (masks & ~high).any()
        assert not (high & ~masks & ~candidates).any()
    assert torch.equal(ours.sum(dim=1), theirs.sum(dim=1))


def test_attmask_hints_are_drawn_alike(golden):
    record = golden["attmask"]
    (key,) = (key for key in record if key.startswith("hint_probability"))
    match = re.fullmatch(r"hint_probability_r([\d.]+)_show([\d.]+)_p([\d.]+)", key)
    assert match
    ratio, shown, probability = map(float, match.groups())
    attention, draws = record["attention"], 4000  # the record's, see its README
    counts = torch.zeros_like(attention)
    for number in range(OUR_DRAWS):
        masks = attention_masks(
            attention, ratio=ratio, kind="hint", shown=shown, order=order_of(attention, number)
        )
        coins = numpy_generator(1, "parity/coins", number).random(len(attention)) < probability
        counts += masks & torch.from_numpy(coins)[:, None]
    ours, theirs = (counts / OUR_DRAWS).numpy(), record[key].numpy()
    errors = error_of_share((ours + theirs) / 2, draws)
    assert (np.abs(ours - theirs) <= 4 * errors + 1e-6).all()
    rows = draws * len(attention)  # each a coin
    share = record[f"hint_share_masked_p{match[3]}"]
    assert abs(share - probability) <= 4 * math.sqrt(probability * (1 - probability) / rows)


def test_attention_of_the_cls_token_is_the_mean_over_heads(golden):
    record = golden["attmask"]
    check(record["full_attention"][:, :, 0, 1:].mean(dim=1), record["cls_attention"])


def test_every_part_of_the_record_is_compared(golden):
    assert golden.keys() == {
        *("meta", "simclr", "swav", "vicreg", "dino", "ibot", "ibot_masks", "attmask"),
    }
