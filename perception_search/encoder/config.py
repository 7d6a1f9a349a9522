"""What the released models are made of, as data; knows no tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal


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
    def preprocessing(self) -> str:
        """How a picture becomes what the tower takes, one line."""
        size = self.image_size
        return f"squash to {size}x{size}, bilinear, then RGB in -1..1"

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
    """A released model: its name as released, and its towers.

    Attributes:
        name: as released.
        vision: the vision tower.
        text: the text tower; None where the model gives features of pictures and no embeddings.
    """

    name: str
    vision: VisionConfig
    text: TextConfig | None = None

    @property
    def family(self) -> Literal["core", "lang", "spatial"]:
        """What it was trained for: search, as eyes of a language model, or where things are."""
        name = self.name.lower()
        return "lang" if "-lang-" in name else "spatial" if "-spatial-" in name else "core"

    @property
    def dim(self) -> int | None:
        """Length of an embedding, the same for pictures and texts; None without text tower."""
        return None if self.text is None else self.text.output_dim

    @property
    def hub_name(self) -> str:
        """Where Meta released it on the model hub."""
        return f"facebook/{self.name}"

    @property
    def licence(self) -> str:
        """Of the weights (SPDX)."""
        return "Apache-2.0"

    @property
    def num_parameters(self) -> int:
        """Parameters of all towers."""
        return self.vision.num_parameters + (self.text.num_parameters if self.text else 0)

    def as_dict(self) -> dict[str, str | int | None]:
        """What a user chooses by, ready for JSON; what names no tower is of the vision tower."""
        vision, text = self.vision, self.text
        return {
            "name": self.name,
            "family": self.family,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "width": vision.width,
            "depth": vision.depth,
            "num_heads": vision.num_heads,
            "mlp_width": vision.mlp_width,
            "dim": self.dim,
            "context_length": text.context_length if text else None,
            "text_width": text.width if text else None,
            "text_depth": text.depth if text else None,
            "num_vision_parameters": vision.num_parameters,
            "num_text_parameters": text.num_parameters if text else None,
            "licence": self.licence,
            "hub_name": self.hub_name,
        }


def _block_parameters(width: int, mlp_width: int) -> int:
    return 4 * width**2 + 2 * width * mlp_width + 9 * width + mlp_width


def _tokens(
    vision: VisionConfig, image_size: int, *, depth: int | None = None, layer_scale: bool = False
) -> VisionConfig:
    """The tower without what makes one vector of its tokens."""
    return replace(
        vision,
        image_size=image_size,
        depth=depth or vision.depth,
        output_dim=None,
        pool="none",
        final_norm=False,
        layer_scale=layer_scale,
    )


# image, patch, width, depth, heads, MLP, output
_T = VisionConfig(384, 16, 192, 12, 3, 768, 512)
_S = VisionConfig(384, 16, 384, 12, 6, 1536, 512)
_B = VisionConfig(224, 16, 768, 12, 12, 3072, 1024)
_L = VisionConfig(336, 14, 1024, 24, 16, 4096, 1024)
_G = VisionConfig(448, 14, 1536, 50, 16, 8960, 1280, class_token=False)
_LANG_L = _tokens(_L, 448, depth=23, layer_scale=True)
_LANG_G = _tokens(_G, 448, depth=47, layer_scale=True)

_RELEASED = (
    # context, width, depth, heads of the text tower
    ModelConfig("PE-Core-T16-384", _T, TextConfig(32, 512, 12, 8, 512)),
    ModelConfig("PE-Core-S16-384", _S, TextConfig(32, 512, 12, 8, 512)),
    ModelConfig("PE-Core-B16-224", _B, TextConfig(32, 1024, 24, 16, 1024)),
    ModelConfig("PE-Core-L14-336", _L, TextConfig(32, 1024, 24, 16, 1024)),
    ModelConfig("PE-Core-G14-448", _G, TextConfig(72, 1280, 24, 20, 1280)),
    ModelConfig("PE-Lang-L14-448", _LANG_L),
    ModelConfig("PE-Lang-L14-448-Tiling", _LANG_L),
    ModelConfig("PE-Lang-G14-448", _LANG_G),
    ModelConfig("PE-Lang-G14-448-Tiling", _LANG_G),
    ModelConfig("PE-Spatial-T16-512", _tokens(_T, 512)),
    ModelConfig("PE-Spatial-S16-512", _tokens(_S, 512)),
    ModelConfig("PE-Spatial-B16-512", _tokens(_B, 512)),
    ModelConfig("PE-Spatial-L14-448", _tokens(_L, 448)),
    ModelConfig("PE-Spatial-G14-448", _tokens(_G, 448, layer_scale=True)),
)
MODELS: Mapping[str, ModelConfig] = MappingProxyType({model.name: model for model in _RELEASED})
