"""A tower compiled by torch, for batches of one size; knows no weights."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from perception_search.encoder.layers import Blocks

Compute = Callable[[Tensor], Tensor]


def compile_blocks(blocks: Blocks, *, backend: str = "inductor") -> None:
    """Have the blocks of a tower compiled at their first call, in place.

    They are alike: the first is compiled, which takes seconds, and all of them run its code. A
    whole tower takes a minute, and was no faster.

    Args:
        blocks: not those with layers of `cpu_linear`, which no compiler knows.
        backend: of `torch.compile`.
    """
    for block in blocks.resblocks:
        block.compile(dynamic=False, backend=backend)


def in_full_batches(compute: Compute, batch_size: int) -> Compute:
    """`compute`, asked for `batch_size` frames at a time, so that it is compiled for one shape.

    What a batch lacks are black frames, whose embeddings are dropped. Frames of another height or
    width are compiled for again.

    Args:
        compute: uint8 (B, 3, H, W) -> (B, dim).
        batch_size: the most frames that will be asked for.
    """

    def run(pixels: Tensor) -> Tensor:
        num_frames = len(pixels)
        full = F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, batch_size - num_frames))  # (batch_size, ...)
        return compute(full)[:num_frames]

    return run
