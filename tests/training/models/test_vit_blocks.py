"""Blocks of all drop-path rates share one compiled graph, without a break; they are timm's."""

import copy
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import Block
from torch._dynamo.testing import CompileCounter

from training.methods.base import Network
from training.methods.student_teacher import make_teacher
from training.models.vit import build_backbone
from training.models.vit_blocks import FastBlock, SharedDropPath, run_whole

SIZES: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "depth": 3,
    "embed_dim": 24,
    "num_heads": 2,
}
# torch's tracing looks at the gradient of every input, and warns of itself.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


def student(rate=0.3):
    torch.manual_seed(0)
    return Network(
        build_backbone("vit_tiny_patch16_224", **SIZES, drop_path_rate=rate), torch.nn.Identity()
    )


def test_two_rates_share_a_graph_without_a_break():
    counter = CompileCounter()
    compiled = torch.compile(run_whole, backend=counter, fullgraph=True, dynamic=False)
    blocks = student().train().backbone.blocks
    assert [round(block.drop_path1.drop_prob, 2) for block in blocks] == [0, 0.15, 0.3]
    torch._dynamo.reset()
    for block in blocks:
        compiled(block, torch.zeros(2, 17, 24))
    assert counter.frame_count == 1
    explained = torch._dynamo.explain(run_whole)(blocks[1], torch.zeros(2, 17, 24))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


def test_a_compiled_rate_drops_as_many_images_and_keeps_the_mean():
    torch._dynamo.reset()
    drop = SharedDropPath(0.25).train()
    compiled = torch.compile(lambda tokens: drop(tokens), backend="eager", fullgraph=True)
    torch.manual_seed(0)
    kept = compiled(torch.ones(4000, 1, 1))
    assert kept.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert kept.mean() == pytest.approx(1, abs=0.05)
    drop.turn_off()
    assert (compiled(torch.ones(40, 1, 1)) == 1).all()


def test_a_teacher_drops_nothing():
    network = student()
    teacher = make_teacher(network).train()
    tokens = torch.randn(8, 17, 24)
    for block, other in zip(teacher.backbone.blocks, network.eval().backbone.blocks, strict=True):
        torch.testing.assert_close(block(tokens), other(tokens), rtol=0, atol=0)


def test_a_called_block_gives_what_timms_gives_and_its_cls_token_alone():
    theirs: Any = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True, **SIZES
    ).eval()
    ours = build_backbone("vit_tiny_patch16_224", **SIZES).eval()
    ours.load_state_dict(theirs.state_dict())
    assert [type(block) for block in ours.blocks] == [FastBlock] * 3
    tokens = torch.randn(2, 17, 24)
    block = copy.deepcopy(ours.blocks[1])
    whole = theirs.blocks[1](tokens)
    torch.testing.assert_close(block(tokens), whole)
    torch.testing.assert_close(block(tokens, read="cls"), whole[:, :1])
    output, heads = block(tokens, read="heads")
    torch.testing.assert_close(output, whole)
    assert heads.key.shape == (2, 2, 17, 12)


def kept_and_gradients(block, tokens):
    """How many numbers autograd keeps of a block besides its weights, and its gradients."""
    weights = {weight.data_ptr() for weight in block.parameters()}
    kept: dict[int, int] = {}

    def keep(value):
        memory = value.untyped_storage().data_ptr()
        if memory not in weights:
            kept[memory] = value.numel()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        output = block(tokens)
    return sum(kept.values()), torch.autograd.grad(output.square().sum(), block.parameters())


def test_a_block_keeps_what_goes_into_its_activation_and_not_what_comes_of_it():
    block = student(rate=0.0).backbone.blocks[1]
    theirs = copy.deepcopy(block)
    theirs.__class__ = Block
    tokens = torch.randn(4, 17, 24, requires_grad=True)
    kept, gradients = kept_and_gradients(block, tokens)
    all_kept, expected = kept_and_gradients(theirs, tokens)
    assert kept == all_kept - 4 * 17 * block.mlp.fc1.out_features
    torch.testing.assert_close(gradients, expected)
