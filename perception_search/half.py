"""Embeddings as they are stored, in float16 and mapped to be read, for those who compute with them.

Imports torch where it is needed, or loaded anyway.
"""

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def as_float32(array: NDArray[np.floating]) -> NDArray[np.float32]:
    """The same numbers in float32, exactly; the same array where it is.

    By torch where something else has loaded it: NumPy takes ten times as long. It is not loaded
    for this, since that takes longer than NumPy takes for 500,000 rows.
    """
    if array.dtype != np.float16 or "torch" not in sys.modules:
        return array.astype(np.float32, copy=False)
    wide = np.empty(array.shape, np.float32)  # by NumPy, which gives memory back sooner than torch
    as_tensor(wide).copy_(as_tensor(array))
    return wide


def as_tensor(array: NDArray[Any]) -> "torch.Tensor":
    """The same numbers in the same memory; nothing may write to it."""
    import torch

    return torch.from_numpy(array if array.flags.writeable else np.asarray(_Writable(array)))


class _Writable:
    """An array that says it may be written to: torch warns of others, and a copy takes long."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array  # holds the memory
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = array.__array_interface__ | {"data": (address, False)}
