import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from tests.support.pixel_labels import ADE20K, stripes, write_data
from tests.support.tiny_run import make_run, tiny_config
from training.evaluation.datasets.segmentation import VOID, open_labeled_pixels
from training.evaluation.dense.upernet import UperNet, pyramid_blocks
from training.evaluation.dense.upernet_finetune import (
    FinetuneConfig,
    draw_batch,
    finetune_segmentation,
)
from training.models.vit import build_backbone, encode_blocks
from training.weights.backbones import open_backbone
from training.weights.export import export_run
from wtours.cli.app import app
from wtours.errors import CheckpointError

pytestmark = pytest.mark.medium  # imports transformers and trains: left out of the inner loop

MAPS = {
    "train": [stripes([0, 1, 2]), stripes([2, 0, 1]), stripes([1, -1])],
    "test": [stripes([1, 2, 0]), stripes([0, 2])],
}
QUICK = FinetuneConfig(
    steps=30, warmup_steps=5, lr=2e-3, batch_size=2, crop_pixels=32, hidden_dim=16
)


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "ade20k", ADE20K, MAPS)


def opened(folder):
    return open_backbone(str(make_run(folder, tiny_config())), lambda name: folder)


def test_the_schedule_is_the_papers():
    settings = FinetuneConfig()

    assert (settings.lr, settings.weight_decay, settings.batch_size) == (6e-5, 0.01, 4)
    assert settings.lr_at(0) == pytest.approx(6e-5 / 1500)
    assert settings.lr_at(1499) == pytest.approx(6e-5)
    assert settings.lr_at(80_750) == pytest.approx(3e-5)
    assert settings.lr_at(159_999) == pytest.approx(6e-5 / 158_500)


def test_a_vit_of_12_blocks_gives_blocks_4_6_8_and_12_at_strides_4_8_16_and_32():
    backbone = build_backbone("vit_tiny_patch16_224", embed_dim=24, num_heads=3)
    model = UperNet(backbone, 150, hidden_dim=8).eval()

    images = torch.randn(1, 3, 64, 128)
    with torch.no_grad():
        maps = model.maps(images)
        block_8, block_12 = (
            tokens.patch_tokens.transpose(1, 2).reshape(1, 24, 4, 8)
            for tokens in encode_blocks(backbone, images, [8, 12], norm=False)
        )

    assert pyramid_blocks(12) == [4, 6, 8, 12]
    assert [tuple(level.shape) for level in maps] == [
        (1, 24, 16, 32),
        (1, 24, 8, 16),
        (1, 24, 4, 8),
        (1, 24, 2, 4),
    ]
    torch.testing.assert_close(maps[2], block_8)
    torch.testing.assert_close(maps[3], F.max_pool2d(block_12, 2))


def test_the_loss_is_the_mean_over_scored_pixels_of_both_heads():
    model = UperNet(build_backbone("vit_tiny_patch16_224", depth=4, embed_dim=24), 3, hidden_dim=8)
    model.eval()
    images, labels = torch.randn(2, 3, 32, 32), torch.randint(-1, 3, (2, 32, 32))

    with torch.no_grad():
        maps = model.maps(images)
        expected = torch.zeros(())
        for head, weight in ((model.head, 1), (model.auxiliary_head, 0.4)):
            scores = F.interpolate(head(maps), (32, 32), mode="bilinear")
            log_probs = scores.log_softmax(1).permute(0, 2, 3, 1)[labels >= 0]
            expected -= weight * log_probs.gather(1, labels[labels >= 0][:, None]).mean()

        torch.testing.assert_close(model.loss(images, labels), expected)
        assert model.loss(images, torch.full_like(labels, VOID)) == 0


def test_a_few_steps_learn_the_stripes_and_are_published(tmp_path, data):
    backbone = opened(tmp_path / "run")
    before = backbone.network.blocks[0].attn.qkv.weight.clone()

    result = finetune_segmentation(backbone, data, QUICK)

    score = result.content["results"]
    assert score["pixel_accuracy_percent"] > 60  # chance is a third
    assert result.path.name.startswith("upernet-step-00000120-")
    assert result.content["protocol"]["lr"] == 2e-3
    assert not torch.equal(before, backbone.network.blocks[0].attn.qkv.weight)
    assert not list(result.path.parent.glob("*.safetensors"))


def test_the_same_weights_give_the_same_scores_whatever_names_them(tmp_path, data):
    config = tiny_config("model.drop_path_rate=0.5")
    run = make_run(tmp_path / "run", config)
    exported = export_run(run, to="hf").path
    settings = dataclasses.replace(QUICK, steps=4)
    ours, theirs = (
        finetune_segmentation(
            open_backbone(name, lambda name: tmp_path / name), data, settings
        ).content
        for name in (str(run), f"hf:{exported}")
    )
    assert ours["results"] == theirs["results"]
    assert ours["protocol"] == theirs["protocol"]
    assert ours["protocol"]["drop_path_rate"] == 0.1


def test_a_stopped_run_goes_on_to_the_same_numbers(tmp_path, data):
    settings = dataclasses.replace(QUICK, steps=6, save_every_steps=2, drop_path_rate=0.5)
    whole = finetune_segmentation(opened(tmp_path / "whole"), data, settings)

    class StoppedError(Exception):
        pass

    def stop(item, done, total):
        if done == 5:
            raise StoppedError

    with pytest.raises(StoppedError):
        finetune_segmentation(opened(tmp_path / "run"), data, settings, on_progress=stop)
    (kept,) = (tmp_path / "run/eval").glob("upernet-*.safetensors")
    whole_state = kept.read_bytes()
    kept.write_bytes(whole_state[:100])
    with pytest.raises(CheckpointError, match=r"cannot be resumed from .*; remove it"):
        finetune_segmentation(opened(tmp_path / "run"), data, settings)
    kept.write_bytes(whole_state)
    steps = []
    resumed = finetune_segmentation(
        opened(tmp_path / "run"),
        data,
        settings,
        on_progress=lambda item, done, total: steps.append(done),
    )

    assert steps[0] == 5  # steps 1 to 4 were kept
    assert resumed.content["results"] == whole.content["results"]


def test_labels_move_with_the_picture(data):
    images, _ = open_labeled_pixels(data)

    pixels, labels = draw_batch(images, QUICK, step=3)

    assert pixels.shape == (2, 32, 32, 3)
    assert labels.shape == (2, 32, 32)
    again = draw_batch(images, QUICK, step=3)
    assert torch.equal(pixels, again[0])
    brightest = pixels.float().argmax(dim=-1)  # class 0 is red, 1 green, 2 blue, but for the hue
    scored = labels >= 0
    assert (brightest == labels)[scored].double().mean() > 0.9
    assert np.isin(labels.unique().numpy(), [-1, 0, 1, 2]).all()


def test_what_a_picture_lacks_to_the_crop_has_the_mean_color_and_no_label(data):
    images, _ = open_labeled_pixels(data)

    pixels, labels = draw_batch(images, dataclasses.replace(QUICK, scale=(0.5, 0.5)), step=0)

    mean_color = torch.tensor([124, 116, 104], dtype=torch.uint8)  # 0 once it is normalized
    for beyond in (np.s_[:, 16:], np.s_[:, :, 24:]):  # pictures of 16 x 24 pixels
        assert (pixels[beyond] == mean_color).all()
        assert (labels[beyond] == VOID).all()
    assert (labels[:, :16, :24] != VOID).any()


def test_the_command_fine_tunes_a_few_steps(tmp_path, data):
    run = make_run(tmp_path / "run", tiny_config())
    words = ["eval", "segment", str(run), "--data", str(data), "--finetune", "--json"]

    result = CliRunner().invoke(app, [*words, "--steps", "1", "--short-side", "32"])

    assert result.exit_code == 0
    published = json.loads(result.stdout)
    assert published["evaluation"] == "upernet"
    assert (published["protocol"]["steps"], published["protocol"]["warmup_steps"]) == (1, 0)
    assert published["protocol"]["hidden_dim"] == 512
