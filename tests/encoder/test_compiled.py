"""A compiled tower gives what the tower gives; one block is compiled, for one shape."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import MINI_CLS, MINI_NOCLS, T16, tower_state
from torch._dynamo.utils import counters

from perception_search.encoder import PerceptionEncoder
from perception_search.encoder.compiled import compile_blocks, in_full_batches
from perception_search.encoder.towers import VisionTower, to_unit_range

NAME = T16.name


def computation(config, compile_with=None):
    with torch.device("meta"):
        tower = VisionTower(config)
    tower.load_state_dict(tower_state(tower), assign=True)
    if compile_with is not None:
        compile_blocks(tower.transformer, backend=compile_with)
    return lambda pixels: tower(to_unit_range(pixels, torch.float32))


def has_compiler():
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True


@pytest.fixture
def num_graphs():
    """How many graphs were compiled during the test."""
    torch.compiler.reset()
    counters.clear()
    return lambda: counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(
    ("config", "backend"),
    [
        (MINI_CLS.vision, "aot_eager"),
        (MINI_NOCLS.vision, "aot_eager"),
        (MINI_CLS.vision, "inductor"),
    ],
    ids=["cls traced", "nocls traced", "cls compiled"],
)
def test_a_compiled_tower_gives_what_the_tower_gives(
    config, backend, num_graphs, monkeypatch, tmp_path
):
    if backend == "inductor" and not has_compiler():
        pytest.skip("there is no C++ compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    config = replace(config, depth=12)  # torch compiles one function 8 times at most
    compute = computation(config)
    fast = in_full_batches(computation(config, compile_with=backend), 4)
    size = config.image_size
    pixels = torch.randint(0, 256, (9, 3, size, size), dtype=torch.uint8)
    with torch.inference_mode():
        for part in (pixels[:4], pixels[4:8], pixels[8:]):
            torch.testing.assert_close(fast(part), compute(part), rtol=0, atol=1e-4)
    assert num_graphs() == 1, "one block, one shape, and nothing that a graph cannot hold"


def test_an_encoder_compiles_once_for_batches_of_any_length(t16_files, num_graphs, monkeypatch):
    traced = functools.partial(compile_blocks, backend="eager")  # that is enough here
    monkeypatch.setattr("perception_search.encoder.compiled.compile_blocks", traced)
    options = {"weights": t16_files["safetensors"], "device": "cpu", "dtype": "float32"}
    encoder = PerceptionEncoder(NAME, batch_size=3, compile=True, **options)
    plain = PerceptionEncoder(NAME, batch_size=3, **options)
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 256, (length, 3, 32, 32), np.uint8) for length in (1, 4, 0, 3)]
    for got, batch in zip(encoder.encode_overlapped(batches), batches, strict=True):
        wanted = plain.encode_frames(batch)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)
        np.testing.assert_allclose(encoder.encode_frames(batch), wanted, rtol=0, atol=1e-4)
    assert num_graphs() == 1


def test_int8_is_not_compiled():
    with pytest.raises(ValueError, match="compile=True with dtype='int8'"):
        PerceptionEncoder(NAME, dtype="int8", compile=True)
