"""The vision and the text tower: tensors in, tensors out; they know no files and no pictures.

Parameters carry the names of the release, so that its tensors load by name. The vision tower
follows arXiv 2504.13181, section 2, and the reference's `pe.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception_search.encoder.config import TextConfig, VisionConfig
from perception_search.encoder.layers import (
    LAYER_NORM_EPS,
    AttentionPool,
    Block,
    Blocks,
    rope_angles,
    turns_of,
)


def to_unit_range(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels 0..255 of any dtype as -1..1 of `dtype`, in one pass."""
    minus_one = torch.full((1,), -1.0, dtype=dtype, device=pixels.device)
    return torch.add(minus_one, pixels, alpha=1 / 127.5)


class VisionTower(nn.Module):
    """Pixels -> embeddings, or -> tokens where the configuration has no pooling."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        if config.class_token:
            self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(config.num_tokens, width))
        self.conv1 = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.ln_pre = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.transformer = Blocks(
            [
                Block(width, config.num_heads, config.mlp_width, layer_scale=config.layer_scale)
                for _ in range(config.depth)
            ]
        )
        self.ln_post = (
            nn.LayerNorm(width, eps=LAYER_NORM_EPS) if config.final_norm else nn.Identity()
        )
        if config.pool == "attention":
            self.attn_pool = AttentionPool(width)
        if config.output_dim is not None:
            self.proj = nn.Parameter(torch.empty(width, config.output_dim))

    def forward(self, pixels: Tensor) -> Tensor:
        """Raw embeddings float32 (B, output_dim); pooled vectors (B, width) without a projection;
        tokens (B, N, width) without pooling.

        Args:
            pixels: (B, 3, H, W) in -1..1; H and W are multiples of the patch size.
        """
        x: Tensor = self.features(pixels)
        if self.config.pool == "attention":
            x = self.attn_pool(x)  # (B, D)
        if self.config.output_dim is not None:
            x = x.float() @ self.proj.float()
        return x

    def features(
        self,
        pixels: Tensor,
        *,
        norm: bool = True,
        layer: int = -1,
        strip_class_token: bool = False,
    ) -> Tensor:
        """Tokens (B, N, width), row by row, the class token first.

        Args:
            pixels: (B, 3, H, W) in -1..1; H and W are multiples of the patch size.
            norm: apply the last LayerNorm, where the tower has one.
            layer: the block that is run last; negative counts from the end.
            strip_class_token: leave the class token out, where there is one.
        """
        config = self.config
        if not -config.depth <= layer < config.depth:
            raise ValueError(f"layer={layer}; this tower has blocks 0 to {config.depth - 1}")
        height, width = self._grid(pixels)
        weight = self.conv1.weight.flatten(1)  # (D, 3 * P * P)
        x: Tensor = F.linear(self._patches(pixels, height, width), weight)  # (B, Gh * Gw, D)
        if config.class_token:
            first = self.class_embedding.expand(x.shape[0], 1, -1)  # len(x) would fix an export's B
            x = torch.cat([first, x], dim=1)  # (B, N, D)
        x = self.ln_pre(x + self.positions(height, width))
        angles = rope_angles(
            height,
            width,
            config.width // config.num_heads,
            class_token=config.class_token,
            device=x.device,
        )
        x = self.transformer(x, turns_of(angles), num_blocks=layer % config.depth + 1)
        if norm:
            x = self.ln_post(x)
        return x[:, 1:] if strip_class_token and config.class_token else x

    def positions(self, grid_height: int, grid_width: int) -> Tensor:
        """The position table for a grid: (N, width), resampled bilinearly off the native size.

        Not antialiased, corners not aligned; the class token's row stays as it is.
        """
        side = self.config.grid_size
        if (grid_height, grid_width) == (side, side):
            return self.positional_embedding
        first = int(self.config.class_token)
        class_row, patches = self.positional_embedding[:first], self.positional_embedding[first:]
        table = patches.float().T.reshape(1, -1, side, side)  # (1, D, G, G)
        table = F.interpolate(table, (grid_height, grid_width), mode="bilinear")
        return torch.cat([class_row, table[0].flatten(1).T.to(class_row.dtype)])

    def _patches(self, pixels: Tensor, height: int, width: int) -> Tensor:
        """The pixels of each patch (B, Gh * Gw, 3 * P * P), y outer, as `conv1` has its weights.

        Patches do not overlap, so that a matrix product does what `conv1` would; GPUs have only
        slow convolutions of this kind in bfloat16.
        """
        patch = self.config.patch_size
        x = pixels.reshape(pixels.shape[0], 3, height, patch, width, patch)
        return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def _grid(self, pixels: Tensor) -> tuple[int, int]:
        patch = self.config.patch_size
        if pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape[2:]:
            raise ValueError(f"pixels of shape {tuple(pixels.shape)}; must be (B, 3, H, W)")
        height, width = pixels.shape[2:]
        if height % patch or width % patch:
            raise ValueError(
                f"pixels are {height} x {width}; both must be multiples of the patch size, {patch}"
            )
        return height // patch, width // patch


class TextTower(nn.Module):
    """Token rows -> embeddings, pooled at the end-of-text token. Holds the logit scale too."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, width))
        self.transformer = Blocks(
            [
                Block(width, config.num_heads, config.mlp_width, causal=True)
                for _ in range(config.depth)
            ]
        )
        self.ln_final = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.text_projection = nn.Parameter(torch.empty(width, config.output_dim))
        self.logit_scale = nn.Parameter(torch.empty(()))  # the logarithm of the factor

    def forward(self, tokens: Tensor) -> Tensor:
        """Raw embeddings float32 (B, output_dim).

        Columns behind the batch's longest text are not computed: attention is causal, so nothing
        changes but the time.

        Args:
            tokens: int64 (B, L), L <= context_length. Each row ends with its largest id; what
                follows does not matter.
        """
        if tokens.shape[1] > self.config.context_length:
            raise ValueError(
                f"rows of {tokens.shape[1]} tokens; at most {self.config.context_length}"
            )
        return self.encode_rows(tokens[:, : int(tokens.argmax(dim=1).max()) + 1])

    def encode_rows(self, tokens: Tensor) -> Tensor:
        """What `forward` does, for all columns: no shape in it depends on a value."""
        ends = tokens.argmax(dim=1)  # (B,), the first of the largest ids
        # The embedding table keeps the dtype of its file: a few rows are read, the rest never.
        x = self.token_embedding(tokens).to(self.positional_embedding.dtype)  # (B, L, D)
        x = x + self.positional_embedding[: tokens.shape[1]]
        x = self.transformer(x, num_blocks=self.config.depth)
        x = self.ln_final(x[torch.arange(x.shape[0], device=x.device), ends])  # (B, D)
        out: Tensor = x.float() @ self.text_projection.float()
        return out
