"""How timm's blocks are run: the same numbers from fewer and faster operations.

Of the last block only what is read is computed, and on a CPU the matrix products take the quickest
of torch's ways. Modules and names of weights stay timm's; a `block` here is timm's `Block` with its
`Attention`, without dropout and gate (`training.models.vit.build_backbone` refuses others).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.linear import linear


@dataclass(frozen=True)
class Heads:
    """Queries, keys and values of a block by head, each (B, A, tokens, d)."""

    query: Tensor
    key: Tensor
    value: Tensor


def run_block(block: Any, tokens: Tensor) -> Tensor:
    """Return a block's output for all of its tokens, (B, N, D)."""
    return run_last_block(block, tokens)[0]


def run_last_block(block: Any, tokens: Tensor) -> tuple[Tensor, Heads]:
    """Return a block's output for all of its tokens, and what it attended with."""
    return _whole_block(block)(block, tokens)


def compile_block(block: nn.Module) -> None:
    """From now on run the block, where all of its tokens are asked for, as torch.compile makes it.

    The function is compiled, not the block: all blocks are alike, and share what is compiled.
    """
    block.is_compiled = True  # type: ignore[assignment]


def _whole_block(block: Any) -> Callable[[Any, Tensor], tuple[Tensor, Heads]]:
    return _compiled(_run_whole) if hasattr(block, "is_compiled") else _run_whole


@functools.cache
def _compiled(function: Callable[..., Any]) -> Any:
    return torch.compile(function, dynamic=False)


def _run_whole(block: Any, tokens: Tensor) -> tuple[Tensor, Heads]:
    heads = project_heads(block.attn, block.norm1(tokens))
    return _after_attention(block, tokens, heads), heads


def run_block_for_cls(block: Any, tokens: Tensor) -> Tensor:
    """Return a block's output for the first token alone, (B, 1, D).

    The others are needed as keys and values only: five sixths of the block's work are saved.
    """
    normed, attention = block.norm1(tokens), block.attn
    width = attention.num_heads * attention.head_dim
    weight, bias = attention.qkv.weight, attention.qkv.bias
    of_query, of_rest = (None, None) if bias is None else (bias[:width], bias[width:])
    query = linear(normed[:, :1], weight[:width], of_query)
    key, value = linear(normed, weight[width:], of_rest).chunk(2, dim=-1)
    query, key, value = (_by_head(part, attention.num_heads) for part in (query, key, value))
    heads = Heads(attention.q_norm(query), attention.k_norm(key), value)
    return _after_attention(block, tokens[:, :1], heads)


def project_heads(attention: Any, normed: Tensor) -> Heads:
    """Return queries, keys and values of tokens (B, N, D)."""
    query, key, value = (
        _by_head(part, attention.num_heads) for part in attention.qkv(normed).chunk(3, dim=-1)
    )
    return Heads(attention.q_norm(query), attention.k_norm(key), value)


def attend(heads: Heads) -> Tensor:
    """Return what each query gets of the values, (B, A, queries, d).

    In bfloat16 on a CPU the map is written out: torch's fused attention is several times slower
    there in the backward pass.
    """
    query, key, value = heads.query, heads.key, heads.value
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        scores: Tensor = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        return scores.softmax(dim=-1) @ value
    return F.scaled_dot_product_attention(query, key, value)


def _after_attention(block: Any, tokens: Tensor, heads: Heads) -> Tensor:
    """Return the block's output for the tokens (B, M, D) that the queries are of."""
    attention = block.attn
    attended = attention.norm(attend(heads).transpose(1, 2).flatten(2))
    tokens = tokens + block.drop_path1(block.ls1(attention.proj(attended)))
    output: Tensor = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
    return output


def _by_head(tokens: Tensor, num_heads: int) -> Tensor:
    """Return (B, A, N, d) of tokens (B, N, A * d)."""
    return tokens.reshape(*tokens.shape[:2], num_heads, -1).transpose(1, 2)
