"""How timm's blocks are run: the same numbers from fewer and faster operations.

Of the last block only what is read is computed, and on a CPU the matrix products take the quickest
of torch's ways. Modules and names of weights stay timm's; a `block` here is timm's `Block` with its
`Attention`, without dropout and gate (`training.models.vit.build_backbone` refuses others).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training.models.linear import linear
from training.models.packing import Packing


@dataclass(frozen=True)
class Heads:
    """Queries, keys and values of a block by head, each (B, A, tokens, d)."""

    query: Tensor
    key: Tensor
    value: Tensor


class FastBlock(Block):
    """timm's block, called for what is read of it; its weights and their names are timm's."""

    is_compiled = False
    """Whether it runs, where all tokens are asked for, what torch.compile makes of `run_whole`: the
    function is compiled, not the block, since all blocks are alike and share what is compiled."""

    def forward(  # type: ignore[override]
        self,
        tokens: Tensor,
        read: Literal["tokens", "heads", "cls"] = "tokens",
        packing: Packing | None = None,
    ) -> Tensor | tuple[Tensor, Heads]:
        """Return the output for all tokens, (B, N, D), or packed (R, D).

        Args:
            tokens: (B, N, D), or packed (R, D).
            read: "heads": also what it attended with (not of packed tokens); "cls": the output for
                the first token alone, (B, 1, D).
            packing: Of B images whose tokens are packed.
        """
        if read == "cls":
            return _run_for_cls(self, tokens, packing)
        if packing is not None:  # only the attention pads them
            block: Any = self
            projected = packing.pad(block.attn.qkv(block.norm1(tokens)))
            heads = _heads_of(block.attn, *projected.chunk(3, dim=-1))
            attended = packing.unpad(attend(heads, packing.is_token))
            return _after_attention(self, tokens, attended, packing)
        output, heads = (_compiled() if self.is_compiled else run_whole)(self, tokens)
        return (output, heads) if read == "heads" else output


class SharedDropPath(DropPath):
    """Stochastic depth that blocks of different rates can share a compiled graph of."""

    rate: Tensor
    """Scalar, the same as `drop_prob`, which a graph would hold as a constant."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__(drop_prob)
        self.is_on = True
        self.register_buffer("rate", torch.tensor(drop_prob), persistent=False)

    def turn_off(self) -> None:
        """Drop nothing from now on, in training neither."""
        self.drop_prob, self.is_on = 0.0, False

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, D) of some images scaled up, of the others 0."""
        if not torch.compiler.is_compiling():
            return super().forward(tokens)  # type: ignore[no-untyped-call, no-any-return]
        if not (self.is_on and self.training):
            return tokens
        keep = 1 - self.rate
        kept = torch.rand(len(tokens), 1, 1, device=tokens.device) < keep
        return tokens * (kept / keep).to(tokens.dtype)


def use_fast_blocks(backbone: nn.Module) -> None:
    """Turn the blocks of a plain ViT of timm into `FastBlock`s with the same weights."""
    blocks: Any = backbone.blocks
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    for block, rate in zip(blocks, rates, strict=True):
        block.__class__ = FastBlock
        if any(rates):  # in the first block too, where timm has another module: one graph for all
            block.drop_path1, block.drop_path2 = SharedDropPath(rate), SharedDropPath(rate)


def set_drop_path(backbone: nn.Module, rate: float) -> None:
    """Give a backbone this stochastic depth in its last block, 0 in the first, linear between."""
    blocks: Any = backbone.blocks
    for block, of_it in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist(), strict=True):
        block.drop_path1, block.drop_path2 = SharedDropPath(of_it), SharedDropPath(of_it)


@functools.cache
def _compiled() -> Any:
    return torch.compile(run_whole, dynamic=False, fullgraph=True)


def run_whole(block: Any, tokens: Tensor) -> tuple[Tensor, Heads]:
    """Return a block's output for all of its tokens, (B, N, D), and what it attended with."""
    heads = _heads_of(block.attn, *block.attn.qkv(block.norm1(tokens)).chunk(3, dim=-1))
    return _after_attention(block, tokens, attend(heads)), heads


def _run_for_cls(block: Any, tokens: Tensor, packing: Packing | None) -> Tensor:
    # The others are needed as keys and values only: five sixths of the block's work are saved.
    normed, attention = block.norm1(tokens), block.attn
    width = attention.num_heads * attention.head_dim
    weight, bias = attention.qkv.weight, attention.qkv.bias
    of_query, of_rest = (None, None) if bias is None else (bias[:width], bias[width:])
    rest, mask = linear(normed, weight[width:], of_rest), None
    if packing is None:
        first, tokens = normed[:, :1], tokens[:, :1]
    else:
        rest, mask = packing.pad(rest), packing.is_token
        first, tokens = (part.index_select(0, packing.first)[:, None] for part in (normed, tokens))
    heads = _heads_of(attention, linear(first, weight[:width], of_query), *rest.chunk(2, dim=-1))
    return _after_attention(block, tokens, attend(heads, mask))


def _heads_of(attention: Any, *projected: Tensor) -> Heads:
    """Return queries, keys and values by head of those side by side, each (B, N, D)."""
    query, key, value = (by_head(part, attention.num_heads) for part in projected)
    return Heads(attention.q_norm(query), attention.k_norm(key), value)


def attend(heads: Heads, mask: Tensor | None = None) -> Tensor:
    """Return what each query gets of the values, side by side of all heads, (B, queries, A * d).

    In bfloat16 on a CPU the map is written out: torch's fused attention is several times slower
    there in the backward pass. `mask` is (B, 1, 1, keys) bool, False where there is no key.
    """
    query, key, value = heads.query, heads.key, heads.value
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        scores: Tensor = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        attended = scores.softmax(dim=-1) @ value
    else:
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return attended.transpose(1, 2).flatten(2)


def _after_attention(
    block: Any, tokens: Tensor, attended: Tensor, packing: Packing | None = None
) -> Tensor:
    """Return the block's output for the tokens (..., D) that the queries were of, `attended`."""
    attention = block.attn
    branch = block.ls1(attention.proj(attention.norm(attended)))
    tokens = tokens + _drop(block.drop_path1, branch, packing)
    branch = block.ls2(_mlp(block.mlp, block.norm2(tokens)))
    output: Tensor = tokens + _drop(block.drop_path2, branch, packing)
    return output


def _mlp(mlp: Any, tokens: Tensor) -> Tensor:
    """Return what a block's MLP does of tokens (..., D).

    What the activation of timm's `Mlp` gives is computed once more in the backward pass, not kept:
    it is as large as what is kept of what goes into it, a quarter of a block's memory, and costs a
    hundredth of its time. The product after it is not done twice: the second computation ends once
    the product's input is there.
    """

    def second(hidden: Tensor) -> Tensor:
        output: Tensor = mlp.drop2(mlp.fc2(mlp.norm(mlp.drop1(mlp.act(hidden)))))
        return output

    if type(mlp) is not Mlp or not torch.is_grad_enabled():
        return mlp(tokens)  # type: ignore[no-any-return]
    return checkpoint(second, mlp.fc1(tokens), use_reentrant=False, preserve_rng_state=False)


def _drop(drop_path: Callable[[Tensor], Tensor], branch: Tensor, packing: Packing | None) -> Tensor:
    return drop_path(branch) if packing is None else packing.drop(drop_path, branch)


def by_head(tokens: Tensor, num_heads: int) -> Tensor:
    """Return (B, A, N, d) of tokens (B, N, A * d)."""
    return tokens.reshape(*tokens.shape[:2], num_heads, -1).transpose(1, 2)
