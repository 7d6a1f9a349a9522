"""The blocks both towers are built of, with the tensor names of the release; knows no model.

After the reference's `pe.py` and `rope.py` (facebookresearch/perception_models). Shapes: B batch,
N tokens, D width, H heads, d = D / H.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-5
_ROPE_BASE = 10000.0
_POOL_HEADS = 8


def rope_angles(
    grid_height: int,
    grid_width: int,
    head_dim: int,
    *,
    class_token: bool,
    device: torch.device | None = None,
) -> Tensor:
    """Rotation angles of every token and channel pair: float32 (N, head_dim / 2), in radians.

    Each pair is the channels (2i, 2i + 1). The first half of the pairs turns with the column, the
    second with the row. With a class token positions start at 1 and its own row, the first, is 0.
    """
    num_frequencies = head_dim // 4
    exponents = torch.arange(num_frequencies, dtype=torch.float32, device=device)
    frequencies = _ROPE_BASE ** (-exponents / num_frequencies)
    rows = torch.arange(grid_height, dtype=torch.float32, device=device) + class_token
    columns = torch.arange(grid_width, dtype=torch.float32, device=device) + class_token
    x = torch.outer(columns, frequencies).expand(grid_height, -1, -1)  # (Gh, Gw, head_dim / 4)
    y = torch.outer(rows, frequencies)[:, None].expand(-1, grid_width, -1)
    angles = torch.cat([x, y], dim=-1).flatten(0, 1)  # (Gh * Gw, head_dim / 2)
    return F.pad(angles, (0, 0, 1, 0)) if class_token else angles


def turns_of(angles: Tensor) -> Tensor:
    """What `rotate` takes, of angles (..., d / 2): cosines and sines, float32 (..., d / 2, 2)."""
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """`x` with each channel pair turned by its angle, computed in float32, in the dtype of `x`.

    A pair is one complex number, and one complex product is many times faster than shuffled sines
    and cosines; compilers, ONNX and Apple's GPUs know no complex numbers.

    Args:
        x: (..., d).
        turns: what `turns_of` gives, float32 (..., d / 2, 2).
    """
    pairs = x.float().view(*x.shape[:-1], -1, 2)  # (..., d / 2, 2)
    is_plain = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
    if is_plain or x.device.type not in ("cpu", "cuda"):
        (a, b), (cos, sin) = pairs.unbind(-1), turns.unbind(-1)
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turns))
    return turned.flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention (B, N, D) -> (B, N, D), rotated by position given `turns`."""

    def __init__(self, width: int, num_heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.causal = causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.in_proj: nn.Module | None = None  # in the place of both, where a CPU has a faster one

    def heads(self, x: Tensor) -> Tensor:
        """Queries, keys and values of tokens (B, N, D), before any rotation: (B, N, 3, H, d)."""
        if self.in_proj is None:
            qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        else:
            qkv = self.in_proj(x)
        return qkv.view(*x.shape[:2], 3, self.num_heads, -1)

    def forward(self, x: Tensor, turns: Tensor | None = None) -> Tensor:
        """Attended tokens; `turns` is what `turns_of` gives, for (N, d / 2) angles."""
        qkv = self.heads(x)  # (B, N, 3, H, d)
        qk, v = qkv[:, :, :2], qkv[:, :, 2]
        if turns is not None:
            qk = rotate(qk, turns[:, None, None])  # the same for q and k and every head
        q, k, v = (part.transpose(1, 2) for part in (qk[:, :, 0], qk[:, :, 1], v))  # (B, H, N, d)
        x = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        out: Tensor = self.out_proj(x.transpose(1, 2).flatten(2))  # (B, N, D)
        return out


class MLP(nn.Module):
    """Two linear layers with the exact GELU between, (..., D) -> (..., D)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transformed tokens."""
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x)))
        return out


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scaled tokens."""
        return x * self.gamma


class Block(nn.Module):
    """A pre-norm transformer block, (B, N, D) -> (B, N, D)."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_width: int,
        *,
        causal: bool = False,
        layer_scale: bool = False,
    ) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = Attention(width, num_heads, causal=causal)
        self.ls_1 = LayerScale(width) if layer_scale else nn.Identity()
        self.ln_2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = MLP(width, mlp_width)
        self.ls_2 = LayerScale(width) if layer_scale else nn.Identity()

    def forward(self, x: Tensor, turns: Tensor | None = None) -> Tensor:
        """Tokens after one block; `turns` is what `turns_of` gives, for (N, d / 2) angles."""
        x = x + self.ls_1(self.attn(self.ln_1(x), turns))
        out: Tensor = x + self.ls_2(self.mlp(self.ln_2(x)))
        return out


class Blocks(nn.Module):
    """The stack of blocks of a tower; the name of its list is the release's."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, turns: Tensor | None = None, *, num_blocks: int) -> Tensor:
        """Tokens after the first `num_blocks` blocks."""
        for block in self.resblocks[:num_blocks]:
            x = block(x, turns)
        return x


class ProbeAttention(nn.Module):
    """Multi-head attention of one learned query over the tokens, (1, 1, D), (B, N, D) -> (B, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, probe: Tensor, x: Tensor) -> Tensor:
        """What the probe sees."""
        batch, num_tokens, width = x.shape
        weight, bias = self.in_proj_weight, self.in_proj_bias
        q = F.linear(probe, weight[:width], bias[:width])  # (1, 1, D)
        q = q.view(1, _POOL_HEADS, 1, -1).expand(batch, -1, -1, -1)  # (B, H, 1, d)
        kv = F.linear(x, weight[width:], bias[width:])  # (B, N, 2D)
        kv = kv.view(batch, num_tokens, 2, _POOL_HEADS, -1)  # (B, N, 2, H, d)
        k, v = kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2)  # (B, H, N, d)
        out: Tensor = self.out_proj(F.scaled_dot_product_attention(q, k, v).flatten(1))  # (B, D)
        return out


class AttentionPool(nn.Module):
    """Tokens (B, N, D) -> one vector (B, D). No residual goes around the attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(1, 1, width))
        self.attn = ProbeAttention(width)
        self.layernorm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = MLP(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """The pooled vector."""
        x = self.attn(self.probe, x)
        out: Tensor = x + self.mlp(self.layernorm(x))
        return out
