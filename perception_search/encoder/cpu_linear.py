"""Linear layers that are faster on a CPU, in the place of those of a tower's blocks.

Packed ones give the same numbers from weights laid out as the processor wants them; int8 ones give
an approximation. Knows no model.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from perception_search.encoder.device import computes_in_bfloat16, cpu_flags
from perception_search.encoder.layers import Block


class PackedLinear(nn.Module):
    """A linear layer on a CPU whose weight is laid out for oneDNN once, instead of at each call.

    A call on few tokens is bound by memory, and its weight is read once instead of three times.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self.bias = bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs), in the dtype of the weight."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return out


class Int8Linear(nn.Module):
    """A linear layer on a CPU with int8 weights (one scale per output) and int8 inputs.

    Inputs are quantised as they come, with one scale per call.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        scales = (weight.abs().amax(dim=1).double() / 127).clamp_min(1e-12)
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():  # torch moves these to torchao, which is another package
            warnings.simplefilter("ignore", UserWarning)
            quantised = torch.quantize_per_channel(
                weight.float(), scales, zeros, axis=0, dtype=torch.qint8
            )
        self.packed = torch.ops.quantized.linear_prepack(quantised, bias.float())
        # Without these instructions sums of two 8-bit products overflow 16 bits: give up one bit.
        self.reduce_range = not cpu_flags() & {"avx512_vnni", "avx_vnni"}

    def forward(self, x: Tensor) -> Tensor:
        """Float32 (..., inputs) -> float32 (..., outputs)."""
        out: Tensor = torch.ops.quantized.linear_dynamic(x, self.packed, self.reduce_range)
        return out


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch has packed layers, and this processor instructions for `dtype`."""
    operators = torch.ops.mkldnn  # Linux and Windows; they are torch's own, not yet public
    has_operators = hasattr(operators, "_reorder_linear_weight") and hasattr(
        operators, "_linear_pointwise"
    )
    return has_operators and (dtype == torch.float32 or computes_in_bfloat16())


def to_packed(tower: nn.Module) -> None:
    """Put packed layers in the place of every linear layer of the tower's blocks, in place."""
    _replace(tower, PackedLinear)


def to_int8(tower: nn.Module) -> None:
    """Put int8 layers in the place of every linear layer of the tower's blocks, in place.

    Pooling, norms, embeddings and projections stay float32: they are small and decide the most.
    """
    _replace(tower, Int8Linear)


def _replace(tower: nn.Module, make: Callable[[Tensor, Tensor], nn.Module]) -> None:
    for block in [module for module in tower.modules() if isinstance(module, Block)]:
        attn, mlp = block.attn, block.mlp
        attn.in_proj = make(attn.in_proj_weight, attn.in_proj_bias)
        del attn.in_proj_weight, attn.in_proj_bias
        attn.out_proj = make(attn.out_proj.weight, attn.out_proj.bias)  # type: ignore[assignment]
        mlp.c_fc = make(mlp.c_fc.weight, mlp.c_fc.bias)  # type: ignore[assignment]
        mlp.c_proj = make(mlp.c_proj.weight, mlp.c_proj.bias)  # type: ignore[assignment]
