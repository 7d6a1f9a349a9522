"""A compiled tower gives what the tower gives, and is compiled for one shape."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import MINI_CLS, MINI_NOCLS, T16, tower_state
from torch._dynamo.utils import counters

from perception_search.encoder import PerceptionEncoder
from perception_search.encoder.compiled import compiled
from perception_search.encoder.towers import VisionTower, to_unit_range

NAME = T16.name


def computation(config):
    with torch.device("meta"):
        tower = VisionTower(config)
    tower.load_state_dict(tower_state(tower), assign=True)
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
    compute = computation(replace(config, depth=1))
    fast = compiled(compute, 4, backend=backend)
    size = config.image_size
    pixels = torch.randint(0, 256, (9, 3, size, size), dtype=torch.uint8)
    with torch.inference_mode():
        for part in (pixels[:4], pixels[4:8], pixels[8:]):
            torch.testing.assert_close(fast(part), compute(part), rtol=0, atol=1e-4)
    assert num_graphs() == 1, "one shape, and nothing that a graph cannot hold"


def test_an_encoder_compiles_once_for_batches_of_any_length(t16_files, num_graphs, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(_compile_eagerly, torch.compile))
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


def _compile_eagerly(compile_, compute, *, dynamic, backend):
    """Traces as ever, then runs the traced operations one by one: that is enough here."""
    assert backend == "inductor"
    return compile_(compute, dynamic=dynamic, backend="eager")


def test_int8_is_not_compiled():
    with pytest.raises(ValueError, match="compile=True with dtype='int8'"):
        PerceptionEncoder(NAME, dtype="int8", compile=True)
