"""Texts of different lengths in one row of tokens, none of them padding; knows no words.

Every text is cut at its end token and stands behind the one before. Positions begin again with
each text, and a token sees the earlier tokens of its own text alone: a causal mask of blocks on
the diagonal, which xformers computes without looking outside the blocks (its
`memory_efficient_attention` with `BlockDiagonalCausalMask`).
"""

import importlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception_search.encoder.layers import Block
from perception_search.encoder.towers import TextTower
from perception_search.errors import EncoderError, MissingExtra

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values (1, T, H, d) -> what each token of its own text sees (1, T, H, d)."""


class PackedTexts(NamedTuple):
    """N texts, one behind the other.

    Attributes:
        tokens: int64 (T,).
        positions: int64 (T,), of every token in its own text, from 0.
        lengths: int64 (N,); they sum to T.
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    lengths: NDArray[np.int64]


def pack(rows: NDArray[np.int64]) -> PackedTexts:
    """Rows of tokens (N, L) without what follows their end, which is their largest id."""
    lengths = rows.argmax(axis=1) + 1
    positions = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
    used = positions < lengths[:, None]  # (N, L)
    return PackedTexts(rows[used], positions[used], lengths)


def encode_packed(
    tower: TextTower,
    rows: NDArray[np.int64],
    attention: Callable[[NDArray[np.int64], torch.device], Attend],
) -> Tensor:
    """Raw embeddings float32 (N, output_dim), as the tower gives them for these rows.

    Args:
        tower: on any device.
        rows: tokens (N, L), of texts.
        attention: gives what attends within texts of these lengths (N,), on this device.
    """
    table = tower.positional_embedding
    texts = pack(rows)
    attend = attention(texts.lengths, table.device)
    tokens, positions, ends = (
        torch.from_numpy(array).to(table.device)
        for array in (texts.tokens, texts.positions, texts.lengths.cumsum() - 1)
    )
    x = tower.token_embedding(tokens).to(table.dtype) + table[positions]  # (T, D)
    x = x[None]  # (1, T, D)
    for block in tower.transformer.resblocks:
        assert isinstance(block, Block)
        q, k, v = block.attn.heads(block.ln_1(x)).unbind(2)  # each (1, T, H, d)
        x = x + block.attn.out_proj(attend(q, k, v).flatten(2))
        x = x + block.mlp(block.ln_2(x))
    x = tower.ln_final(x[0, ends])  # (N, D)
    out: Tensor = x.float() @ tower.text_projection.float()
    return out


def xformers_attention(lengths: NDArray[np.int64], device: torch.device) -> Attend:
    """Attention within texts of these lengths (N,), by xformers. `check_xformers` comes first.

    What attends raises EncoderError where xformers has nothing for its input.
    """
    ops = importlib.import_module("xformers.ops")
    mask = ops.fmha.attn_bias.BlockDiagonalCausalMask.from_seqlens(lengths.tolist(), device=device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        try:
            out: Tensor = ops.memory_efficient_attention(q, k, v, attn_bias=mask)
        except NotImplementedError as error:  # with a page of reasons
            raise EncoderError(
                f"attention='xformers' cannot compute {q.dtype} with this build of xformers, torch "
                f"{torch.__version__} and this GPU; `python -m xformers.info` says why, and 'sdpa' "
                "computes everywhere"
            ) from error
        return out

    return attend


def check_xformers(device: torch.device) -> None:
    """Raise unless xformers can compute there.

    Raises:
        MissingExtra: xformers is not installed.
        ValueError: the device is no GPU of CUDA.
    """
    if device.type != "cuda":
        raise ValueError(
            f"attention='xformers' with device='{device}'; xformers computes on cuda alone, "
            "'sdpa' everywhere"
        )
    try:
        importlib.import_module("xformers.ops")
    except ImportError as error:
        raise MissingExtra(
            "attention='xformers' needs xformers: pip install 'perception-search[xformers]'"
        ) from error
