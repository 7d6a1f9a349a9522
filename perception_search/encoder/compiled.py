"""A computation compiled by torch for batches of one size; knows no model."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def compiled(
    compute: Callable[[Tensor], Tensor], batch_size: int, *, backend: str = "inductor"
) -> Callable[[Tensor], Tensor]:
    """`compute` with its first call compiling it, which takes a minute or so.

    A batch of fewer than `batch_size` frames is filled up with black ones, whose embeddings are
    dropped, so that one shape is all there is to compile. Frames of another height or width are
    compiled for again.

    Args:
        compute: uint8 (B, 3, H, W) -> (B, dim).
        batch_size: the most frames that will be asked for.
        backend: of `torch.compile`.
    """
    fast = torch.compile(compute, dynamic=False, backend=backend)

    def run(pixels: Tensor) -> Tensor:
        num_frames = len(pixels)
        full = F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, batch_size - num_frames))  # (batch_size, ...)
        return fast(full)[:num_frames]

    return run
