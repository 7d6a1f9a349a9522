"""FeatureExtractor: what a vision tower sees, before anything is made of it for search.

All families have features; PE-Lang and PE-Spatial have nothing else. Knows no text.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perception_search.encoder.base import picture_pixels
from perception_search.encoder.config import MODELS
from perception_search.encoder.device import check_device, choose_device, choose_dtype, float_of
from perception_search.encoder.names import resolve_name
from perception_search.encoder.weights import find_weights, load_tower
from perception_search.errors import ModelNotFound
from perception_search.frames import FrameSpec

if TYPE_CHECKING:
    import torch

    from perception_search.encoder.base import Picture
    from perception_search.encoder.towers import VisionTower

_TOKENS_PER_BATCH = 4096


class FeatureExtractor:
    """The vision tower of any released model, and its features at any size and layer.

    >>> extractor = FeatureExtractor("PE-Spatial-B16-512")
    >>> extractor.encode_map(["cat.jpg"]).shape
    (1, 768, 32, 32)

    Args:
        model: a name that `PerceptionEncoder` takes, or one of PE-Lang or PE-Spatial.
        weights: as for `PerceptionEncoder`; the projection is not needed.
        device: `cpu`, `cuda`, `cuda:<n>`, `mps`, or `auto`: the first there is of cuda, mps, cpu.
        dtype: of the computation, `float32` or `bfloat16`. `auto` is bfloat16 where the device
            computes in it.

    Raises:
        ModelNotFound: for a name that is not known.
        WeightsNotFound: `weights` is given and holds none.
        ValueError: no such device or dtype.
    """

    def __init__(
        self,
        model: str,
        *,
        weights: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ) -> None:
        check_device(device, dtype)
        if dtype == "int8":
            raise ValueError("dtype='int8'; features are float32 or bfloat16")
        if model == "starter":
            raise ModelNotFound(
                "the starter model has no token features; the others have: perception-search models"
            )
        released = MODELS[resolve_name(model)]
        self.config = replace(released, vision=replace(released.vision, output_dim=None))
        self._weights = None if weights is None else find_weights(released.name, weights)
        self._device = device
        self._dtype = dtype
        self._loading = threading.Lock()
        self._tower: VisionTower | None = None

    @cached_property
    def device(self) -> "torch.device":
        """Where the tower is."""
        return choose_device(self._device)

    @cached_property
    def dtype(self) -> str:
        """What is computed in: `float32` or `bfloat16`."""
        return choose_dtype(self._dtype, self.device)

    @property
    def tower(self) -> "VisionTower":
        """The vision tower without its projection. Loaded at the first call.

        Raises:
            WeightsNotFound: the weights are nowhere.
            WeightsMismatch: the weights are not this model's.
        """
        with self._loading:
            if self._tower is None:
                path = self._weights or find_weights(self.config.name)
                self._tower = load_tower(
                    path, self.config, "vision", device=self.device, dtype=float_of(self.dtype)
                )
            return self._tower

    def encode_tokens(
        self,
        images: "Sequence[Picture]",
        *,
        size: tuple[int, int] | None = None,
        layer: int = -1,
        norm: bool = True,
        class_token: bool = True,
    ) -> NDArray[np.float32]:
        """Token features (N, T, width) of pictures; row by row, the class token first.

        After `forward_features` of the reference's `pe.py`.

        Args:
            images: pictures, paths of pictures, or uint8 arrays (H, W, 3) in RGB, of any size.
            size: height and width they are squashed to, multiples of the patch size; None for the
                size that the model was trained at.
            layer: the block that is run last; negative counts from the end.
            norm: apply the last LayerNorm, where the tower has one: PE-Core has.
            class_token: keep the class token, where there is one: all but the G models have.

        Raises:
            MediaError: a file is not a picture that can be read.
            ValueError: such a size or layer does not exist.
        """
        depth = self.config.vision.depth
        if not -depth <= layer < depth:  # told before the weights are read
            raise ValueError(
                f"layer={layer}; {self.config.name} has blocks 0 to {depth - 1}, "
                "and negative numbers count from the end"
            )
        return self._encoded(
            images,
            size,
            lambda tower, pixels: tower.features(
                pixels, norm=norm, layer=layer, strip_class_token=not class_token
            ),
        )

    def encode_map(
        self,
        images: "Sequence[Picture]",
        *,
        size: tuple[int, int] | None = None,
        layer: int = -1,
        norm: bool = False,
    ) -> NDArray[np.float32]:
        """Feature maps (N, width, H / patch, W / patch) of pictures, without the class token.

        What birder calls detection features. The arguments are those of `encode_tokens`.
        """
        tokens = self.encode_tokens(images, size=size, layer=layer, norm=norm, class_token=False)
        return map_of(tokens, self.grid(size))

    def encode_pooled(
        self, images: "Sequence[Picture]", *, size: tuple[int, int] | None = None
    ) -> NDArray[np.float32]:
        """Pooled vectors (N, width) of pictures, before the projection; PE-Core alone pools.

        What birder's model cards call the embedding; it is not in the space of the texts.

        Raises:
            ValueError: the model does not pool.
        """
        if self.config.vision.pool == "none":
            raise ValueError(
                f"{self.config.name} has no pooling; its tokens can be had: encode_tokens"
            )
        return self._encoded(images, size, lambda tower, pixels: tower(pixels))

    def grid(self, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Rows and columns of patches at a size (height, width); None for the model's own."""
        spec = self.frame_spec(size)
        patch = self.config.vision.patch_size
        return spec.height // patch, spec.width // patch

    def frame_spec(self, size: tuple[int, int] | None = None) -> FrameSpec:
        """The pixels that are encoded at a size (height, width); None for the model's own.

        An array of just these pixels is encoded as it is.

        Raises:
            ValueError: not multiples of the patch size.
        """
        vision = self.config.vision
        height, width = size or (vision.image_size, vision.image_size)
        if height < 1 or width < 1 or height % vision.patch_size or width % vision.patch_size:
            raise ValueError(
                f"size={height} x {width}; both must be multiples of the patch size of "
                f"{self.config.name}, {vision.patch_size}"
            )
        return FrameSpec(height=height, width=width, fast_jpeg=False)

    def _encoded(
        self,
        images: "Sequence[Picture]",
        size: tuple[int, int] | None,
        encode: "Callable[[VisionTower, torch.Tensor], torch.Tensor]",
    ) -> NDArray[np.float32]:
        import torch

        from perception_search.encoder.towers import to_unit_range

        if isinstance(images, str | Path):
            raise TypeError(f"images is one path, {str(images)!r}; pass a list")
        if not len(images):
            raise ValueError("no pictures; pass at least one")
        spec = self.frame_spec(size)
        rows, columns = self.grid(size)
        step = max(1, _TOKENS_PER_BATCH // (rows * columns))
        out = []
        with torch.inference_mode():
            for start in range(0, len(images), step):
                pixels = np.stack(
                    [picture_pixels(image, spec) for image in images[start : start + step]]
                )
                batch = torch.from_numpy(pixels).to(self.device)
                features = encode(self.tower, to_unit_range(batch, float_of(self.dtype)))
                out.append(features.float().cpu().numpy())
        return np.concatenate(out)


def map_of(tokens: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.float32]:
    """The maps (N, width, rows, columns) of tokens (N, T, width); a class token is left out."""
    rows, columns = grid
    patches = tokens[:, -rows * columns :]  # (N, rows * columns, D)
    return np.ascontiguousarray(patches.transpose(0, 2, 1).reshape(len(tokens), -1, rows, columns))
