"""Texts packed into one row give what padded rows give."""

import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from synthetic import MINI_CLS, T16, tower_state

from perception_search.encoder import PerceptionEncoder
from perception_search.encoder.packing import (
    check_xformers,
    encode_packed,
    pack,
    xformers_attention,
)
from perception_search.encoder.tokenizer import tokenize
from perception_search.encoder.towers import TextTower
from perception_search.errors import EncoderError, MissingExtra

TEXTS = ["a cat", "", "two dogs on a beach, one of them asleep under an umbrella", "a", "cat " * 40]


def own_text_so_far(lengths):
    """bool (T, T): which tokens a token sees, told from the texts one by one."""
    texts = [(number, place) for number, length in enumerate(lengths) for place in range(length)]
    return torch.tensor(
        [[theirs == mine and seen <= place for theirs, seen in texts] for mine, place in texts]
    )


def masked_attention(lengths, device):
    """The slow, obvious way: every token looks at every other, through a mask."""
    mask = own_text_so_far(lengths).to(device)

    def attend(q, k, v):
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (1, H, T, d)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

    return attend


@pytest.fixture(scope="module")
def rows():
    with pytest.warns(UserWarning, match="longer than"):
        return tokenize(TEXTS, MINI_CLS.text.context_length)


def test_texts_are_cut_at_their_ends_and_positions_begin_again(rows):
    texts = pack(rows)
    expected = [list(row[: list(row).index(49407) + 1]) for row in rows]
    assert texts.tokens.tolist() == [token for text in expected for token in text]
    assert texts.positions.tolist() == [place for text in expected for place in range(len(text))]
    assert texts.lengths.tolist() == [len(text) for text in expected]
    assert texts.lengths.min() == 2
    assert texts.lengths.max() == MINI_CLS.text.context_length


@pytest.mark.parametrize("config", [MINI_CLS.text, T16.text], ids=["mini", "T16"])
def test_packed_texts_have_the_embeddings_of_padded_ones(config, rows):
    with torch.device("meta"):
        tower = TextTower(config)
    tower.load_state_dict(tower_state(tower), assign=True)
    with torch.inference_mode():
        packed = encode_packed(tower, rows, masked_attention)
        padded = tower(torch.from_numpy(rows))
        alone = torch.cat([tower(torch.from_numpy(row[None])) for row in rows])
    assert packed.shape == (len(TEXTS), config.output_dim)
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-5)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)


def test_the_mask_for_xformers_is_the_same(monkeypatch):
    """xformers computes on CUDA alone, but its mask can be written out anywhere."""
    ops = pytest.importorskip("xformers.ops", reason="xformers is not installed")
    lengths = np.array([3, 2, 7, 1])

    def attention(q, k, v, attn_bias):
        mask = attn_bias.materialize((q.shape[1], k.shape[1])) == 0
        torch.testing.assert_close(mask, own_text_so_far(lengths))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

    monkeypatch.setattr(ops, "memory_efficient_attention", attention)
    q, k, v = torch.randn(3, 1, 13, 4, 8)
    cpu = torch.device("cpu")
    actual = xformers_attention(lengths, cpu)(q, k, v)
    torch.testing.assert_close(actual, masked_attention(lengths, cpu)(q, k, v))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="xformers computes on CUDA alone")
def test_xformers_gives_the_embeddings_of_torch(t16_files):
    pytest.importorskip("xformers.ops", reason="xformers is not installed")
    options = {"weights": t16_files["safetensors"], "device": "cuda"}
    expected = PerceptionEncoder(T16.name, **options).encode_text(TEXTS[:-1])
    actual = PerceptionEncoder(T16.name, attention="xformers", **options).encode_text(TEXTS[:-1])
    assert ((actual * expected).sum(axis=1) > 0.999).all()


def test_a_build_of_xformers_without_kernels_is_told_in_a_sentence(monkeypatch):
    def memory_efficient_attention(*_, **__):
        raise NotImplementedError(
            "No operator found\n  because:\n    xFormers wasn't build with CUDA"
        )

    mask = types.SimpleNamespace(from_seqlens=lambda lengths, device: None)
    bias = types.SimpleNamespace(BlockDiagonalCausalMask=mask)
    ops = types.ModuleType("xformers.ops")
    ops.fmha = types.SimpleNamespace(attn_bias=bias)
    ops.memory_efficient_attention = memory_efficient_attention
    monkeypatch.setitem(sys.modules, "xformers", types.ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    attend = xformers_attention(np.array([3, 2]), torch.device("cpu"))
    with pytest.raises(EncoderError, match=r"^attention='xformers' cannot .* 'sdpa' .*$"):
        attend(*torch.randn(3, 1, 5, 2, 8))


def test_xformers_is_refused_where_it_cannot_compute(t16_files, monkeypatch):
    weights = t16_files["safetensors"]
    encoder = PerceptionEncoder(T16.name, weights=weights, device="cpu", attention="xformers")
    with pytest.raises(
        ValueError, match=r"attention='xformers' with device='cpu'; .* 'sdpa' every"
    ):
        encoder.encode_text(["a cat"])
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    with pytest.raises(MissingExtra, match=r"pip install 'perception-search\[xformers\]'"):
        check_xformers(torch.device("cuda"))
    with pytest.raises(ValueError, match="attention='flash'; 'sdpa' or 'xformers'"):
        PerceptionEncoder(T16.name, attention="flash")
