"""The weights that are verified: which files, what is in them, and what is computed with them.

Knows no check.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception_search.encoder.checkpoint import Checkpoint
from perception_search.encoder.config import ModelConfig
from perception_search.encoder.features import FeatureExtractor
from perception_search.encoder.layouts import Layout, TowerName, recognise
from perception_search.encoder.perception import PerceptionEncoder
from perception_search.errors import WeightsMismatch
from perception_search.media import display


@dataclass(frozen=True)
class Subject:
    """A model, and the file or files that should hold its weights.

    Attributes:
        model: as released.
        path: the weights.
        projection: a file that has what `path` lacks, if one was given.
        layouts: of these files, in this order.
        device: what computes.
    """

    model: ModelConfig
    path: Path
    projection: Path | None
    layouts: tuple[Layout, ...]
    device: str

    @classmethod
    def open(
        cls, model: ModelConfig, path: Path, projection: Path | None, device: str
    ) -> "Subject":
        """Reads the names of the tensors, and none of their bytes.

        Raises:
            WeightsMismatch: a file holds no weights, or weights in no known layout.
        """
        files = [each for each in (path, projection) if each is not None]
        return cls(model, path, projection, tuple(map(_layout, files)), device)

    @property
    def has_text(self) -> bool:
        """Whether there is a text tower, in the model and in a file."""
        return self.model.text is not None and any(layout.towers["text"] for layout in self.layouts)

    @property
    def has_projection(self) -> bool:
        """Whether a file holds what makes embeddings of the pooled vectors."""
        return any("proj" in layout.towers["vision"] for layout in self.layouts)

    @property
    def embeds(self) -> bool:
        """Whether pictures become embeddings; else they become features."""
        return self.model.text is not None and self.has_projection

    @property
    def config(self) -> ModelConfig:
        """The model, without the projection where no file has it."""
        if self.has_projection:
            return self.model
        return replace(self.model, vision=replace(self.model.vision, output_dim=None))

    @property
    def towers(self) -> tuple[TowerName, ...]:
        """The towers that can be read."""
        return ("vision", "text") if self.has_text else ("vision",)


class Network:
    """What a subject computes in one dtype; each tower is loaded when it is first needed."""

    def __init__(self, subject: Subject, dtype: str) -> None:
        self.subject = subject
        self.dtype = dtype

    @cached_property
    def encoder(self) -> PerceptionEncoder:
        """The model as it serves a search, where it has texts."""
        subject = self.subject
        return PerceptionEncoder(
            subject.model.name,
            weights=subject.path,
            projection=subject.projection,
            device="cpu" if self.dtype == "int8" else subject.device,
            dtype=self.dtype,
        )

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """The model as it gives features."""
        subject = self.subject
        return FeatureExtractor(
            subject.model.name, weights=subject.path, device=subject.device, dtype=self.dtype
        )

    def encode_pictures(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw embeddings (N, dim) of pixels (N, 3, H, W).

        Pooled vectors (N, width) without a projection, tokens (N, T, width) without pooling.
        """
        if self.subject.embeds:
            return self.encoder.encode_frames(pixels)
        pictures = list(pixels.transpose(0, 2, 3, 1))  # (N, H, W, 3)
        if self.subject.model.vision.pool == "none":
            return self.extractor.encode_tokens(pictures)
        return self.extractor.encode_pooled(pictures)


def _layout(path: Path) -> Layout:
    file = Checkpoint(path)
    try:
        return recognise(file.keys)
    except WeightsMismatch as error:
        raise WeightsMismatch(f"{display(path)} holds {error}") from error
