"""An encoder that sees other pixels: cropped instead of squashed, or without a border."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perception_search.encoder.protocol import Encoder, Identity, encode_batches
from perception_search.frames import FrameSpec


class Reframed:
    """Another encoder with its networks as they are, and pictures made ready otherwise.

    Its identity says so: what it embeds is never taken for the other's.

    Args:
        encoder: the other.
        resize: as in `FrameSpec`; None for the encoder's own.
        border: pixels to cut off each side first.
    """

    def __init__(
        self,
        encoder: Encoder,
        resize: Literal["squash", "centre_crop"] | None = None,
        border: int = 0,
    ) -> None:
        self._encoder = encoder
        self._spec = replace(
            encoder.frame_spec, resize=resize or encoder.frame_spec.resize, border=border
        )

    @property
    def identity(self) -> Identity:
        """The encoder's, with what is done otherwise."""
        own = self._encoder.identity
        changes = []
        if self._spec.resize != self._encoder.frame_spec.resize:
            changes.append(f"by {self._spec.resize.replace('_', ' ')}")
        if self._spec.border:
            changes.append(f"without {self._spec.border} pixels of border")
        return replace(own, preprocessing=", ".join([own.preprocessing, *changes]))

    @property
    def frame_spec(self) -> FrameSpec:
        """The pixels that `encode_frames` wants."""
        return self._spec

    @property
    def batch_size(self) -> int:
        """The encoder's."""
        return self._encoder.batch_size

    @property
    def provenance(self) -> Mapping[str, str]:
        """The encoder's."""
        return self._encoder.provenance

    def encode_frames(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw image embeddings (N, dim) of pixels (N, 3, H, W)."""
        return self._encoder.encode_frames(pixels)

    def encode_stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        """`encode_frames` of every batch, in order, the fastest way the encoder has."""
        return encode_batches(self._encoder, batches)

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit text embeddings (N, dim)."""
        return self._encoder.encode_text(texts)
