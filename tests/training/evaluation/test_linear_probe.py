"""Linear evaluation as a whole: by itself, by two processes, and killed."""

import gzip
import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2

from tests.support.forked_ranks import forked, forked_ranks
from tests.support.tiny_run import ONE_PROCESS, make_run, tiny_config
from training.data.normalization import Normalization
from training.evaluation.datasets.image_folder import open_images
from training.evaluation.datasets.image_loader import ImageCrops, crop_batches
from training.evaluation.linear_probe import evaluate_linear, linear_features
from training.evaluation.linear_protocol import LinearProbeConfig, classifier_inputs
from training.models.vit import create_vit
from training.rng import derived_seed
from training.weights.backbones import Backbone, open_backbone
from wtours.errors import ImageDataError, UsageError
from wtours.progress import no_progress

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop

COLORS = {"cat": (200, 60, 60), "dog": (60, 200, 60), "emu": (60, 60, 200)}


def make_photos(root, count, *, seed):
    rng = np.random.default_rng(seed)
    for name, color in COLORS.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.normal(color, 70, (40, 48, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return str(root)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    return make_photos(root / "train", 7, seed=0), make_photos(root / "val", 3, seed=1)


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "tiny", tiny_config("model.depth=5"))


def settings(**changed):
    return LinearProbeConfig(
        **{"epochs": 3, "batch_size": 8, "rates": (0.1, 1.0), "num_workers": 0, **changed}
    )


def evaluate(run, splits, **changed):
    result = evaluate_linear(
        open_backbone(str(run), Path), *splits, config=settings(**changed), world=ONE_PROCESS
    )
    assert result is not None
    return result


def command(run, splits, *more):
    train, val = splits
    return [
        *("eval", "linear", str(run), "--train", train, "--val", val),
        *("--epochs", "3", "--batch-size", "8", "--lr", "0.1", "--lr", "1.0", *more),
    ]


def test_the_result_holds_the_best_and_the_last_epoch_of_each_rate(run, splits):
    result = evaluate(run, splits)
    content = json.loads(result.path.read_text())
    assert content["evaluation"] == "linear"
    assert content["protocol"]["blocks"] == [2, 3, 4, 5]
    assert content["train"]["fingerprint"] == open_images(splits[0]).fingerprint(
        ONE_PROCESS, no_progress
    )
    heads = content["results"]["heads"]
    assert [head["learning_rate_for_256"] for head in heads] == [0.1, 1.0]
    assert [head["learning_rate"] for head in heads] == [0.1 * 8 / 256, 8 / 256]
    for head in heads:
        by_epoch = head["top1_percent_by_epoch"]
        assert len(by_epoch) == 3
        assert head["last_top1_percent"] == by_epoch[-1]
        assert head["best_top1_percent"] == max(by_epoch) == by_epoch[head["best_epoch"] - 1]
        assert head["best_top5_percent"] == 100  # of three classes, the first five are all
    assert heads[1]["best_top1_percent"] > 60  # chance is 33


def test_the_same_as_a_plain_loop_over_torchvisions_crops(run, splits):
    """The whole protocol written again: PIL, torchvision, one optimizer, no part of ours but the
    backbone and the seeds of the draws."""
    result = evaluate(run, splits, rates=(1.0,), batch_size=21, epochs=2)
    backbone = open_backbone(str(run), Path)
    files = sorted(Path(splits[0]).rglob("*.png"))
    names = [entry.name for entry in open_images(splits[0]).entries]
    assert names == [str(f.relative_to(splits[0])) for f in files]
    to_input = v2.Compose(
        [
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    def features(images):
        blocks = backbone.network.get_intermediate_layers(
            torch.stack([to_input(image) for image in images]),
            n=4,
            return_prefix_tokens=True,
            norm=True,
        )
        return torch.cat([prefix[:, 0] for _, prefix in blocks], dim=1)

    def labels_of(paths):
        return torch.tensor([list(COLORS).index(path.parent.name) for path in paths])

    def crops(epoch):
        crop = v2.Compose([v2.RandomResizedCrop(32), v2.RandomHorizontalFlip()])
        for number, path in enumerate(files):
            torch.manual_seed(derived_seed(0, "crop", epoch, number))
            yield crop(Image.open(path))

    center = v2.Compose([v2.Resize(37, v2.InterpolationMode.BICUBIC), v2.CenterCrop(32)])
    val_files = sorted(Path(splits[1]).rglob("*.png"))
    val = features([center(Image.open(path)) for path in val_files])
    linear = torch.nn.Linear(4 * 48, 3)
    generator = torch.Generator().manual_seed(derived_seed(0, "linear weights"))
    with torch.no_grad():
        linear.weight.normal_(0, 0.01, generator=generator)
        linear.bias.zero_()
    optimizer = torch.optim.SGD(linear.parameters(), 21 / 256, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)
    top1, losses = [], []
    for epoch in range(2):
        loss = F.cross_entropy(linear(features(list(crops(epoch)))), labels_of(files))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        top1.append(100 * (linear(val).argmax(1) == labels_of(val_files)).float().mean().item())

    (head,) = result.content["results"]["heads"]
    assert head["last_loss"] == pytest.approx(losses[-1], rel=1e-5)
    assert head["top1_percent_by_epoch"] == pytest.approx(top1)


def test_a_tar_of_two_splits_with_equal_names_does_not_train_on_the_validation(
    run, tmp_path, data_dir
):
    case = data_dir / "cases" / "eval" / "same_names.tar.gz"
    if not case.is_file():
        pytest.skip(f"{case} is not there")
    path = tmp_path / "images.tar"
    path.write_bytes(gzip.decompress(case.read_bytes()))
    result = evaluate(run, (f"{path}:train", f"{path}:val"), epochs=10)
    head = result.content["results"]["heads"][1]
    assert head["last_top1_percent"] == 0  # the colors of its two classes are swapped


def test_two_processes_give_what_one_gives(run, splits, tmp_path):
    alone = evaluate(run, splits).path
    expected = json.loads(alone.read_text())
    alone.unlink()
    alone.with_suffix(".safetensors").unlink()
    words = command(run, splits, "--workers", "1", "--json")
    with forked_ranks(*words, folder=tmp_path / "ranks") as ranks:
        said = [rank.end() for rank in ranks]
    assert [rank.exitcode for rank in ranks] == [0, 0], said
    found = json.loads(alone.read_text())
    # The first alone prints it, after lines of its progress.
    assert json.JSONDecoder().raw_decode(said[0], said[0].index("{"))[0] == found
    assert "{" not in said[1]
    for ours, theirs in zip(found["results"]["heads"], expected["results"]["heads"], strict=True):
        assert ours.pop("last_loss") == pytest.approx(theirs.pop("last_loss"), rel=1e-5)
        assert ours == theirs
    assert found == expected


def test_an_evaluation_of_one_process_says_so_on_two(run, splits):
    words = ("eval", "knn", run, "--train", splits[0], "--val", splits[1])
    with forked_ranks(*words, folder=run / "ranks") as ranks:
        said = [rank.end() for rank in ranks]
    assert 0 not in [rank.exitcode for rank in ranks]
    assert "error: this evaluation runs in one process: leave out torchrun" in "".join(said)
    assert not (run / "eval").exists()


def test_an_unfinished_state_of_an_earlier_version_is_resumed(run, splits):
    whole = evaluate(run, splits)
    heads = whole.path.with_suffix(".safetensors")
    label = whole.content["checkpoint"]["sha256"][:8]
    old = heads.with_name(heads.name.replace(f"-{label}", ""))
    heads.rename(old)
    told = []
    again = evaluate_linear(
        open_backbone(str(run), Path),
        *splits,
        config=settings(),
        world=ONE_PROCESS,
        on_progress=lambda item, *_: told.append(item),
    )
    assert again == whole
    assert not [item for item in told if item.startswith("epoch")]  # all three were done


def test_killed_after_an_epoch_it_goes_on_to_the_same_bytes(run, splits):
    whole = evaluate(run, splits, epochs=40).path
    heads = whole.with_suffix(".safetensors")
    expected = whole.read_bytes(), heads.read_bytes()
    whole.unlink()
    heads.unlink()
    words = command(run, splits, "--workers", "0", "--epochs", "40")
    with forked(*words, output=run / "said.txt") as process:
        while not heads.exists() and process.is_alive():
            time.sleep(0.01)
        process.kill()
        process.end()
    assert heads.exists()
    assert not whole.exists()  # it was killed before the end
    evaluate(run, splits, epochs=40)
    assert (whole.read_bytes(), heads.read_bytes()) == expected


def test_heads_of_other_weights_under_the_same_name_are_not_gone_on_from(run, splits, tmp_path):
    evaluate(run, splits)
    changed = tiny_config("model.depth=5", "seed=1")
    alone = evaluate(make_run(tmp_path / "alone", changed), splits)
    again = evaluate(make_run(run, changed), splits)
    assert again.path.name == alone.path.name
    assert again.content["results"] == alone.content["results"]


def test_a_rate_that_diverges_is_published_beside_one_that_does_not(run, splits):
    heads = evaluate(run, splits, rates=(1.0, 1e38)).content["results"]["heads"]
    assert heads[0]["last_loss"] > 0
    assert heads[1]["last_loss"] is None


def test_a_damaged_checkpoint_is_refused_by_name(run, splits):
    heads = evaluate(run, splits).path.with_suffix(".safetensors")
    heads.write_bytes(heads.read_bytes()[:-100])
    with pytest.raises(Exception, match=rf"{heads.name} cannot be resumed from"):
        evaluate(run, splits)


def test_a_wide_vit_is_read_by_its_last_block_and_the_mean_patch(tmp_path):
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 768, "depth": 2, "num_heads": 12}
    network = create_vit("vit_tiny_patch16_224", **sizes).eval().requires_grad_(False)
    backbone = Backbone(network, 32, Normalization(), tmp_path, {})
    assert classifier_inputs(backbone) == ((2,), True)
    images = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8)
    found = linear_features(backbone, images, (2,), patch_average=True)
    pixels = images.permute(0, 3, 1, 2) / 255
    pixels = v2.functional.normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    tokens = network.forward_features(pixels)
    expected = torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_unreadable_image_is_one_line_also_from_a_worker(run, splits, tmp_path):
    broken = make_photos(tmp_path / "broken", 2, seed=2)
    (tmp_path / "broken" / "cat" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ImageDataError, match=r"^image cat/1\.png of .*broken") as refusal:
        evaluate(run, (broken, splits[1]), num_workers=1)
    assert "\n" not in str(refusal.value)
    assert not (run / "eval").exists()


def test_workers_are_no_forks_of_a_process_with_threads_and_read_what_it_reads(splits):
    def read(num_workers):
        images = open_images(splits[0])
        crops = ImageCrops(images, classes=images.classes, crop_pixels=32, epoch=(0, 1))
        return crop_batches(crops, [[0, 5], [], [7]], num_workers=num_workers, world=ONE_PROCESS)

    workers = read(1)
    batches = [next(workers)]
    (worker,) = multiprocessing.active_children()
    parent = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[1]
    assert int(parent) != os.getpid()
    batches += workers
    for (found, labels), (expected, its_labels) in zip(batches, read(0), strict=True):
        assert torch.equal(found, expected)
        assert torch.equal(labels, its_labels)


def test_crops_are_drawn_anew_each_epoch_whatever_was_drawn_before(splits):
    def crop(number, epoch):
        images = open_images(splits[0])
        crops = ImageCrops(images, classes=images.classes, crop_pixels=32, epoch=(0, epoch))
        found = crops[number]
        assert not isinstance(found, ImageDataError)
        return found[0]

    first = crop(3, 0)
    torch.manual_seed(123)
    assert torch.equal(crop(3, 0), first)
    assert not torch.equal(crop(3, 1), first)


@pytest.mark.parametrize(
    ("changed", "option"),
    [({"epochs": 0}, "--epochs"), ({"rates": ()}, "--lr"), ({"rates": (0.1, 0.1)}, "--lr")],
)
def test_settings_out_of_range_are_refused(changed, option):
    with pytest.raises(UsageError, match=f"{option} .*must be"):
        settings(**changed)
