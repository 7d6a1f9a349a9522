"""Stored numbers are made float32 exactly, with torch and without."""

import sys

import numpy as np
import pytest
import torch

from perception_search import half

EVERY = np.arange(1 << 16, dtype=np.uint16).view(np.float16)  # every number there is


@pytest.mark.parametrize("by_torch", [True, False])
def test_every_number_stays_what_it_is(monkeypatch, by_torch):
    assert "torch" in sys.modules
    if not by_torch:
        monkeypatch.delitem(sys.modules, "torch")
    for given in (
        EVERY,
        EVERY.reshape(256, 256),
        EVERY.reshape(64, -1).T,
        EVERY[:0],
        EVERY[1:100:3],
    ):
        wide = half.as_float32(given)
        assert wide.dtype == np.float32
        assert wide.shape == given.shape
        assert np.array_equal(wide, given.astype(np.float32), equal_nan=True)
    already = np.ones((2, 3), np.float32)
    assert half.as_float32(already) is already


def test_a_tensor_of_a_mapped_array_is_the_array(tmp_path, recwarn):
    np.arange(12, dtype=np.float16).tofile(tmp_path / "numbers")
    mapped = np.memmap(tmp_path / "numbers", np.float16, "r", 0, (3, 4))
    tensor = half.as_tensor(mapped)
    assert tensor.data_ptr() == mapped.ctypes.data
    assert torch.equal(tensor, torch.arange(12, dtype=torch.float16).reshape(3, 4))
    assert not recwarn.list
