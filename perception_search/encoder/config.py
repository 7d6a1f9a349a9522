"""What the released models are made of, as data; knows no tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from perception_search.errors import ModelNotFound


@dataclass(frozen=True)
class VisionConfig:
    """A vision tower (arXiv 2504.13181, table 1 and the released checkpoints).

    Attributes:
        image_size: height and width the tower was trained at, in pixels; a multiple of patch_size.
        patch_size: side of a patch, in pixels.
        width: length of a token.
        depth: number of blocks.
        num_heads: attention heads of a block; `width / num_heads` is a multiple of 4.
        mlp_width: hidden width of a block's feed-forward layer.
        output_dim: length of an embedding; None where the tower returns tokens.
        pool: `attention`, or `none` for all tokens.
        class_token: a learned token stands before the patches.
        final_norm: a LayerNorm stands behind the last block (`ln_post`).
        layer_scale: every residual branch has a learned scale.
    """

    image_size: int
    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_width: int
    output_dim: int | None
    pool: Literal["attention", "none"] = "attention"
    class_token: bool = True
    final_norm: bool = True
    layer_scale: bool = False

    @property
    def grid_size(self) -> int:
        """Patches along one side at `image_size`."""
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens of one image at `image_size`, the class token included."""
        return self.grid_size**2 + self.class_token

    @property
    def num_parameters(self) -> int:
        """Parameters of the tower."""
        width = self.width
        around = (3 * self.patch_size**2 + self.num_tokens + self.class_token + 2) * width
        pool = 12 * width**2 + 12 * width if self.pool == "attention" else 0
        return (
            around
            + self.depth * (_block_parameters(width, self.mlp_width) + 2 * width * self.layer_scale)
            + 2 * width * self.final_norm
            + pool
            + width * (self.output_dim or 0)
        )


@dataclass(frozen=True)
class TextConfig:
    """A text tower: causal, pooled at the end-of-text token.

    Attributes:
        context_length: tokens of a row, start and end included.
        width: length of a token.
        depth: number of blocks.
        num_heads: attention heads of a block.
        output_dim: length of an embedding.
        vocab_size: number of token ids.
    """

    context_length: int
    width: int
    depth: int
    num_heads: int
    output_dim: int
    vocab_size: int = 49408

    @property
    def mlp_width(self) -> int:
        """Hidden width of a block's feed-forward layer."""
        return 4 * self.width

    @property
    def num_parameters(self) -> int:
        """Parameters of the tower, the scale of the logits included."""
        rows = self.vocab_size + self.context_length + 2 + self.output_dim
        return rows * self.width + self.depth * _block_parameters(self.width, self.mlp_width) + 1


@dataclass(frozen=True)
class ModelConfig:
    """A released model: its name as released, and its two towers."""

    name: str
    vision: VisionConfig
    text: TextConfig

    @property
    def dim(self) -> int:
        """Length of an embedding, the same for pictures and texts."""
        return self.text.output_dim

    def as_dict(self) -> dict[str, str | int]:
        """What a user chooses by, ready for JSON."""
        return {
            "name": self.name,
            "image_size": self.vision.image_size,
            "dim": self.dim,
            "context_length": self.text.context_length,
            "num_vision_parameters": self.vision.num_parameters,
            "num_text_parameters": self.text.num_parameters,
        }

    def __str__(self) -> str:
        size, dim = self.vision.image_size, self.dim
        images, texts = (tower.num_parameters / 1e6 for tower in (self.vision, self.text))
        return f"{self.name}: {size} px, dim {dim}, {images:.0f} M + {texts:.0f} M parameters"


def _block_parameters(width: int, mlp_width: int) -> int:
    return 4 * width**2 + 2 * width * mlp_width + 9 * width + mlp_width


# image, patch, width, depth, heads, mlp, out; and context, width, depth, heads, out of the text
_RELEASED = (
    ModelConfig(
        "PE-Core-T16-384",
        VisionConfig(384, 16, 192, 12, 3, 768, 512),
        TextConfig(32, 512, 12, 8, 512),
    ),
    ModelConfig(
        "PE-Core-S16-384",
        VisionConfig(384, 16, 384, 12, 6, 1536, 512),
        TextConfig(32, 512, 12, 8, 512),
    ),
    ModelConfig(
        "PE-Core-B16-224",
        VisionConfig(224, 16, 768, 12, 12, 3072, 1024),
        TextConfig(32, 1024, 24, 16, 1024),
    ),
    ModelConfig(
        "PE-Core-L14-336",
        VisionConfig(336, 14, 1024, 24, 16, 4096, 1024),
        TextConfig(32, 1024, 24, 16, 1024),
    ),
    ModelConfig(
        "PE-Core-G14-448",
        VisionConfig(448, 14, 1536, 50, 16, 8960, 1280, class_token=False),
        TextConfig(72, 1280, 24, 20, 1280),
    ),
)
MODELS: Mapping[str, ModelConfig] = MappingProxyType({model.name: model for model in _RELEASED})

_OPEN_CLIP_NAMES = {
    "PE-Core-T-16-384": "PE-Core-T16-384",
    "PE-Core-S-16-384": "PE-Core-S16-384",
    "PE-Core-B-16": "PE-Core-B16-224",
    "PE-Core-L-14-336": "PE-Core-L14-336",
    "PE-Core-bigG-14-448": "PE-Core-G14-448",
}


def resolve_name(name: str) -> str:
    """The name as Meta released it, from that name, `facebook/<name>` or open_clip's name.

    Raises:
        ModelNotFound: for any other name; the message lists the known ones.
    """
    bare = name.removeprefix("facebook/")
    released = _OPEN_CLIP_NAMES.get(bare, bare)
    if released not in MODELS:
        raise ModelNotFound(f"no model {name!r}; known: {', '.join(MODELS)}, and `starter`")
    return released
