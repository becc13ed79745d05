"""A run that starts from weights which are there already."""

import json
from typing import Any

import pytest
import torch

from tests.support.shard_set import TINY, write_shard_set
from tests.support.tiny_run import ONE_PROCESS, make_run, tiny_config
from training.config.presets import resolve_config
from training.engine.checkpoint import load_network
from training.engine.checkpoint_files import find_checkpoint
from training.engine.setup import build_state
from training.methods.base import Network
from training.models.vit import encode, position_embedding
from training.pretrain import ORIGIN_FILE, pretrain
from training.weights.backbones import open_backbone
from training.weights.initialize import initialize_backbones
from wtours.errors import CheckpointError, UsageError

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    make_run(root / "walk", tiny_config())
    return root


def initialized(config, name, root):
    method = build_state(config, ONE_PROCESS).method
    origin = initialize_backbones(method, name, lambda run: root / run)
    return method, origin


def images(pixels):
    return torch.rand(2, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))


def normalized(pixels, mean, std):
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def test_all_backbones_of_a_method_start_from_a_runs_and_the_head_does_not(runs):
    expected = load_network(find_checkpoint(runs / "walk"))[1]
    method, origin = initialized(tiny_config("seed=5"), "walk", runs)
    networks = [module for module in method.modules() if isinstance(module, Network)]
    assert len(networks) == 2
    for network in networks:
        for name, value in network.backbone.state_dict().items():
            assert torch.equal(value, expected.backbone.state_dict()[name]), name
    ours = method.student.head.state_dict()
    assert not torch.equal(ours["mlp.0.weight"], expected.head.state_dict()["mlp.0.weight"])
    assert (origin["kind"], origin["name"], len(origin["sha256"])) == ("run", "step-00000120", 64)
    assert all(p.requires_grad for p in method.student.backbone.parameters())


def test_other_crops_get_the_position_embedding_resized(runs):
    source = load_network(find_checkpoint(runs / "walk"))[1].backbone
    method, _ = initialized(tiny_config("data.global_crop_pixels=48"), "walk", runs)
    embedding = method.student.backbone.pos_embed
    assert torch.equal(embedding, position_embedding(source, (6, 6)))
    torch.testing.assert_close(
        encode(method.student.backbone, images(48)), encode(source, images(48)), rtol=0, atol=0
    )


def test_another_normalization_of_pixels_gives_the_same_tokens_of_the_same_image(tmp_path):
    transformers = pytest.importorskip("transformers")  # seconds, in one worker of the tests
    sizes: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
    # transformers takes 1e-12 under the root of a norm; beside weights this small it would show.
    sizes["layer_norm_eps"] = 1e-6
    torch.manual_seed(1)
    theirs = transformers.ViTModel(
        transformers.ViTConfig(**sizes, intermediate_size=192, image_size=32, patch_size=8),
        add_pooling_layer=False,
    )
    theirs.save_pretrained(tmp_path / "hf")
    halves = [0.5, 0.5, 0.5]
    transformers.ViTImageProcessor(
        image_mean=halves, image_std=halves, size={"height": 32, "width": 32}
    ).save_pretrained(tmp_path / "hf")
    source = open_backbone(f"hf:{tmp_path / 'hf'}", lambda name: tmp_path / name)
    assert source.normalization == (tuple(halves), tuple(halves))
    config = tiny_config("model.embed_dim=48", "model.num_heads=3", "model.depth=2")
    method, _ = initialized(config, f"hf:{tmp_path / 'hf'}", tmp_path)
    pixels = images(32)
    ours = encode(
        method.student.backbone.eval(),
        normalized(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    )
    expected = encode(source.network, normalized(pixels, halves, halves))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_run_records_what_it_started_from_and_resumes_from_its_own_checkpoint(runs, tmp_path):
    shards = write_shard_set(tmp_path / "shards")
    like_the_walk = ("model.depth=2", "model.embed_dim=48", "model.num_heads=3")
    config = resolve_config("official", None, [*TINY, *like_the_walk, "model.init=walk"])
    options = {"shards_dir": shards, "run_dir": runs / "fine", "world": ONE_PROCESS}
    report = pretrain(config, **options)
    origin = json.loads((runs / "fine" / ORIGIN_FILE).read_text())
    assert origin["sha256"] == open_backbone("walk", lambda name: runs / name).description["sha256"]
    again = pretrain(config, **options)
    assert again.started_at_step == report.steps
    with pytest.raises(UsageError, match="did not start from random weights"):
        open_backbone("fine,random", lambda name: runs / name)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        (
            "walk",
            ["model.embed_dim=96"],
            r"model.init: walk does not fit the model \(.* of another size",
        ),
        (
            "walk",
            ["model.num_heads=6"],
            "model.init: walk has 3 attention heads and the model 6: set model.num_heads=3",
        ),
        ("walk", ["model.embed_dim=96", "model.num_heads=6"], "of another size"),
        ("walk", ["model.depth=3"], r"model.init: walk does not fit the model \(.*missing"),
        ("nowhere", [], "nowhere is not there"),
    ],
)
def test_weights_that_are_absent_or_do_not_fit_are_one_line(runs, name, overrides, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        initialized(tiny_config(*overrides), name, runs)
    assert "\n" not in str(caught.value)
