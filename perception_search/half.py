"""Embeddings as they are stored, in float16 and mapped to be read, for those who compute with them.

Imports torch where it is needed, or loaded anyway.
"""

import functools
import sys
import warnings
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
    if "torch" not in sys.modules:
        return array.astype(np.float32, copy=False)
    wide: NDArray[np.float32] = as_tensor(array).float().numpy()
    return wide


def as_tensor(array: NDArray[Any]) -> "torch.Tensor":
    """The same numbers in the same memory; nothing may write to it."""
    import torch

    _warn_unseen()
    return torch.from_numpy(array)


@functools.cache
def _warn_unseen() -> None:
    """Have torch say now what it says once a process: that it could write into a mapped array.

    It will not, and a copy would take as long as what is computed.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.from_numpy(np.frombuffer(b"0", np.uint8))
