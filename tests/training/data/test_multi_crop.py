import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from PIL import Image
from scipy.stats import ks_2samp
from torch.utils.data import default_collate
from torchvision import transforms
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from training.config.sections import AugmentConfig, DataConfig
from training.data import color_jitter as photometric
from training.data.color_jitter import ColorDraws, apply_color, draw_color
from training.data.multi_crop import (
    draw_boxes,
    draw_views,
    make_global,
    make_local,
    resample_weights,
)
from training.data.normalization import MEAN, STD
from training.rng import derived_seed, numpy_generator

PLAIN = AugmentConfig(
    flip_probability=0,
    jitter_probability=0,
    grey_probability=0,
    global_blur_probability=0,
    local_blur_probability=0,
)


def some_images(n=3, height=24, width=20):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("box", [(3, 40), (0, 60), (20, 9), (59, 1)])
@pytest.mark.parametrize(
    ("kernel", "mode", "antialias"),
    [
        ("bilinear", InterpolationMode.BILINEAR, False),
        ("bicubic", InterpolationMode.BICUBIC, True),
    ],
)
def test_resampling_a_box_equals_torchvisions_resized_crop(box, kernel, mode, antialias):
    start, length = box
    image = some_images(1, 60, 60)
    expected = TF.resized_crop(image, start, 0, length, 60, [16, 20], mode, antialias)
    rows = resample_weights(
        torch.tensor(start), torch.tensor(length), source=60, pixels=16, kernel=kernel
    )
    columns = resample_weights(
        torch.tensor(0), torch.tensor(60), source=60, pixels=20, kernel=kernel
    )
    torch.testing.assert_close(rows @ image @ columns.T, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("ours", "theirs", "amounts"),
    [
        (photometric.adjust_brightness, TF.adjust_brightness, (0.6, 1.0, 1.4)),
        (photometric.adjust_contrast, TF.adjust_contrast, (0.6, 1.0, 1.4)),
        (photometric.adjust_saturation, TF.adjust_saturation, (0.8, 1.0, 1.2)),
        (photometric.adjust_hue, TF.adjust_hue, (-0.1, 0.0, 0.5)),
    ],
)
def test_each_color_operation_equals_torchvisions(ours, theirs, amounts):
    images = some_images()
    images[0, :, :4] = 0.5  # gray and black have no hue
    images[1, :, :4] = 0.0
    expected = torch.stack(
        [theirs(image, amount) for image, amount in zip(images, amounts, strict=True)]
    )
    torch.testing.assert_close(ours(images, torch.tensor(amounts)), expected, atol=2e-6, rtol=0)


def test_blur_equals_torchvisions_with_a_kernel_of_13():
    images, sigmas = some_images(), (0.1, 1.0, 2.0)
    expected = torch.stack(
        [TF.gaussian_blur(image, 13, s) for image, s in zip(images, sigmas, strict=True)]
    )
    ours = photometric.gaussian_blur(images, torch.tensor(sigmas))
    torch.testing.assert_close(ours, expected, atol=2e-6, rtol=0)


def test_a_batch_gets_each_images_own_operations_in_its_own_order():
    images = some_images(4)
    draws = draw_color(numpy_generator(0, "test"), (4,), AugmentConfig(), 0.5)
    draws = draws._replace(
        jitter=torch.tensor([True, True, False, True]),
        gray=torch.tensor([False, True, False, False]),
        blur_sigma=torch.tensor([0.0, 0.0, 1.5, 1.0]),
    )
    functions = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    amounts = (draws.brightness, draws.contrast, draws.saturation, draws.hue)
    expected = []
    for i, image in enumerate(images):
        if draws.jitter[i]:
            for operation in draws.order[i].tolist():
                image = functions[operation](image, amounts[operation][i].item())
        if draws.gray[i]:
            image = TF.rgb_to_grayscale(image, 3)
        if draws.blur_sigma[i]:
            image = TF.gaussian_blur(image, 13, draws.blur_sigma[i].item())
        expected.append(image)
    torch.testing.assert_close(apply_color(images, draws), torch.stack(expected), atol=5e-6, rtol=0)


def test_boxes_are_distributed_as_torchvisions():
    scale, n = (0.05, 0.4), 4000
    ours = draw_boxes(numpy_generator(0, "boxes"), (n,), height=300, width=200, scale=scale)
    torch.manual_seed(0)
    image = torch.empty(3, 300, 200)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(n)]
    )
    for column in range(4):  # two samples of n from one distribution: below 0.05 but for 1 in 10000
        assert kolmogorov_smirnov(ours[:, column], theirs[:, column]) < 0.05
    area = ours[:, 2] * ours[:, 3] / (300 * 200)
    assert 0.045 < area.min() < 0.06
    assert 0.38 < area.max() < 0.405


def kolmogorov_smirnov(a, b):
    grid = np.union1d(a, b)
    return np.abs(
        np.searchsorted(np.sort(a), grid, "right") / len(a)
        - np.searchsorted(np.sort(b), grid, "right") / len(b)
    ).max()


def test_a_picture_too_narrow_for_the_ratios_gives_its_central_box():
    (box,) = draw_boxes(numpy_generator(0, "b"), (1,), height=100, width=10, scale=(1.0, 1.0))
    assert box.tolist() == [43, 0, 13, 10]


def test_color_draws_have_the_probabilities_and_ranges_of_the_config():
    augment = AugmentConfig()
    draws = draw_color(numpy_generator(0, "color"), (20000,), augment, 0.5)
    assert draws.jitter.float().mean().item() == pytest.approx(0.8, abs=0.015)
    assert draws.gray.float().mean().item() == pytest.approx(0.2, abs=0.015)
    blurred = draws.blur_sigma[draws.blur_sigma > 0]
    assert len(blurred) / 20000 == pytest.approx(0.5, abs=0.015)
    for values, low, high in (
        (draws.brightness, 0.6, 1.4),
        (draws.contrast, 0.6, 1.4),
        (draws.saturation, 0.8, 1.2),
        (draws.hue, -0.1, 0.1),
        (blurred, 0.1, 2.0),
    ):
        assert low <= values.min() <= values.max() <= high
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
    _, counts = draws.order.unique(dim=0, return_counts=True)
    assert len(counts) == math.factorial(4)
    assert counts.min() > 20000 / 24 * 0.8


def test_a_global_crop_has_one_box_and_flip_a_clip_and_local_crops_a_box_a_frame():
    data = DataConfig(
        clip_length=2,
        frame_crop_pixels=40,
        global_crops=2,
        global_crop_pixels=32,
        local_crops=3,
        local_crop_pixels=16,
    )
    views = [draw_views(numpy_generator(0, "views", i), data, PLAIN) for i in range(2)]
    draws = torch.utils.data.default_collate(views)
    draws = draws._replace(flips=torch.tensor([[False, True], [True, False]]))
    frames = torch.randint(0, 256, (2, 2, 3, 40, 40), generator=torch.Generator().manual_seed(0))
    frames = frames.to(torch.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))

    ours = make_global(frames, draws, pixels=32) * std + mean
    assert ours.shape == (2, 2, 2, 3, 32, 32)
    for view, clip in np.ndindex(2, 2):
        box = draws.global_boxes[clip, view].tolist()
        expected = TF.resized_crop(
            frames[clip] / 255, *box, [32, 32], InterpolationMode.BILINEAR, False
        )
        expected = expected.flip(-1) if draws.flips[clip, view] else expected
        torch.testing.assert_close(ours[view, clip], expected, atol=5e-6, rtol=0)

    ours = make_local(frames, draws, pixels=16) * std + mean
    assert ours.shape == (3, 2, 2, 3, 16, 16)
    for crop, clip, frame in np.ndindex(3, 2, 2):
        box = draws.local_boxes[clip, crop, frame].tolist()
        expected = TF.resized_crop(
            frames[clip, frame] / 255, *box, [16, 16], InterpolationMode.BICUBIC, True
        )
        torch.testing.assert_close(ours[crop, clip, frame], expected.clamp(0, 1), atol=5e-6, rtol=0)


def test_a_second_global_view_is_its_own_and_leaves_all_other_draws_as_they_were():
    one, two = (
        draw_views(numpy_generator(0, "views"), DataConfig(global_crops=count), AugmentConfig())
        for count in (1, 2)
    )
    assert torch.equal(two.global_boxes[:1], one.global_boxes)
    assert torch.equal(two.local_boxes, one.local_boxes)
    for ours, theirs in zip(two.local_color, one.local_color, strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(two.global_boxes[0], two.global_boxes[1])
    assert not torch.equal(two.global_color.hue[0], two.global_color.hue[1])


def test_color_changes_go_to_the_crop_and_frame_they_were_drawn_for():
    data = DataConfig(
        clip_length=2, frame_crop_pixels=16, local_crops=2, local_crop_pixels=16,
        local_crop_scale=(1, 1),
    )  # fmt: skip
    draws = draw_views(numpy_generator(0, "views"), data, PLAIN)
    gray = torch.tensor([[False, True], [False, False]])  # crop 0, frame 1
    draws = draws._replace(local_color=draws.local_color._replace(gray=gray))
    frames = torch.randint(0, 256, (1, 2, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    crops = make_local(frames.to(torch.uint8), torch.utils.data.default_collate([draws]), pixels=16)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    crops = crops * std + mean
    is_gray = (crops.amax(dim=3) - crops.amin(dim=3) < 1e-5).flatten(3).all(dim=-1)
    assert is_gray[:, 0].tolist() == gray.tolist()


def test_a_seed_depends_on_run_purpose_and_index_and_is_the_same_everywhere():
    assert derived_seed(0, "views", 1) == 5970175614753261993
    seeds = {derived_seed(s, p, i) for s in range(3) for p in ("views", "heads") for i in range(3)}
    assert len(seeds) == 18


def test_draws_are_named_tuples_of_the_same_leading_shape():
    draws = draw_color(numpy_generator(0, "x"), (2, 3), AugmentConfig(), 0.1)
    assert isinstance(draws, ColorDraws)
    assert {tuple(part.shape[:2]) for part in draws} == {(2, 3)}


def summaries(images):
    """What a crop looks like: brightness, colorfulness, contrast and sharpness, (n, 4)."""
    gray = images.mean(1)
    color = (images.amax(1) - images.amin(1)).mean((1, 2))
    sharp = gray.diff(dim=1).abs().mean((1, 2)) + gray.diff(dim=2).abs().mean((1, 2))
    found = torch.stack([gray.mean((1, 2)), color, gray.std((1, 2)), sharp], dim=1)
    return found.numpy().round(3)  # a gray image has no color, but for rounding


@pytest.mark.medium
def test_local_crops_look_as_those_of_the_pil_pipeline():
    """600 crops of one picture by torchvision on PIL images, as the released code; 600 of ours."""
    coarse = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(5))
    picture = (F.interpolate(coarse, (120, 120), mode="bicubic").clamp(0, 1) * 255).byte()
    data = DataConfig(clip_length=10, local_crops=6, frame_crop_pixels=120, local_crop_pixels=32)
    generator = np.random.default_rng(0)
    draws = default_collate([draw_views(generator, data, AugmentConfig()) for _ in range(10)])
    frames = picture[:, None].expand(10, 10, -1, -1, -1)
    ours = make_local(frames, draws, pixels=32).flatten(0, 2)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    jitter = transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)
    pipeline = transforms.Compose(
        [
            transforms.RandomResizedCrop(
                32, scale=(0.05, 0.4), interpolation=transforms.InterpolationMode.BICUBIC
            ),
            transforms.RandomApply([jitter], p=0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([transforms.GaussianBlur(13, (0.1, 2.0))], p=0.5),
            transforms.ToTensor(),
        ]
    )
    torch.manual_seed(1)
    pil = Image.fromarray(picture[0].permute(1, 2, 0).numpy())
    theirs = torch.stack([pipeline(pil) for _ in range(600)])
    found, expected = summaries(ours * std + mean), summaries(theirs)
    for number in range(4):
        assert ks_2samp(found[:, number], expected[:, number]).pvalue > 1e-3
    unblurred = draws._replace(
        local_color=draws.local_color._replace(
            blur_sigma=torch.zeros_like(draws.local_color.blur_sigma)
        )
    )
    other = summaries(make_local(frames, unblurred, pixels=32).flatten(0, 2) * std + mean)
    assert ks_2samp(other[:, 3], expected[:, 3]).pvalue < 1e-3  # the test can fail


def test_without_local_crops_there_is_an_empty_view_and_the_global_crop_is_the_same():
    frames = torch.randint(0, 256, (2, 3, 3, 40, 40), dtype=torch.uint8)
    made = []
    for local_crops in (2, 0):
        data = DataConfig(
            clip_length=3, frame_crop_pixels=40, global_crop_pixels=16, local_crop_pixels=8,
            local_crops=local_crops,
        )  # fmt: skip
        draws = default_collate(
            [draw_views(numpy_generator(0, "views", n), data, PLAIN) for n in range(2)]
        )
        assert make_local(frames, draws, pixels=8).shape == (local_crops, 2, 3, 3, 8, 8)
        made.append(draws.global_boxes)
        assert make_global(frames, draws, pixels=16).shape == (1, 2, 3, 3, 16, 16)
    torch.testing.assert_close(made[0], made[1])
