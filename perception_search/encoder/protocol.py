"""What an encoder is to the rest of the library; knows no model and imports no torch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from perception_search.decode import FrameSpec

Pooling: TypeAlias = Literal["unit-frames", "raw-frames"]
POOLINGS: Mapping[Pooling, str] = MappingProxyType(  # as an identity says it
    {
        "unit-frames": "mean of the frames' unit embeddings",
        "raw-frames": "mean of the frames' raw embeddings",
    }
)


@dataclass(frozen=True)
class Identity:
    """What decides whether two embeddings may be compared; stored in every collection.

    Attributes:
        model: the model's name as released, `PE-Core-B16-224`, or `starter`.
        dim: length of an embedding.
        vision_sha256: SHA-256 of the vision tower's tensors (canonical key order, float32 bytes).
        text_sha256: the same of the text tower; empty where there is none.
        preprocessing: how pixels are made, one line.
        pooling: how frames become one vector, one line; of `POOLINGS`, or your own.
    """

    model: str
    dim: int
    vision_sha256: str
    text_sha256: str
    preprocessing: str
    pooling: str

    @property
    def pools_raw_frames(self) -> bool:
        """Whether a frame counts in a mean by its length, instead of once."""
        return self.pooling == POOLINGS["raw-frames"]

    def as_dict(self) -> dict[str, str | int]:
        """The fields by name, ready for JSON."""
        return asdict(self)


@runtime_checkable
class Encoder(Protocol):
    """Turns pixels and words into vectors of one space. `PerceptionEncoder` is one, yours may be.

    Embeddings of pixels are raw: their length is kept by the store as `norm`. Text embeddings
    have unit length.

    An encoder may also have `encode_stream(batches)`, which gives `encode_frames` of every batch
    in order and may work on several at once; an ingest then uses it. A batch may be empty.
    """

    @property
    def identity(self) -> Identity:
        """What the embeddings are; may read (never compute with) the weights of both towers."""
        ...

    @property
    def frame_spec(self) -> FrameSpec:
        """The pixels that `encode_frames` wants."""
        ...

    @property
    def batch_size(self) -> int:
        """How many frames `encode_frames` takes at best speed."""
        ...

    @property
    def provenance(self) -> Mapping[str, str]:
        """Device, dtype and versions: recorded beside the rows, never compared."""
        ...

    def encode_frames(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw image embeddings (N, dim) of pixels (N, 3, H, W), RGB 0..255, in order."""
        ...

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit text embeddings (N, dim), in order."""
        ...


def encode_batches(
    encoder: Encoder, batches: Iterable[NDArray[np.uint8]]
) -> Iterator[NDArray[np.float32]]:
    """Raw embeddings of every batch, in order, the fastest way the encoder has."""
    stream = getattr(encoder, "encode_stream", None)
    if stream is not None:
        embeddings: Iterator[NDArray[np.float32]] = stream(batches)
        return embeddings
    none = np.empty((0, encoder.identity.dim), np.float32)
    return (encoder.encode_frames(batch) if len(batch) else none for batch in batches)


def encode_to_average(encoder: Encoder, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embeddings (T, dim) of a file's frames (T, 3, H, W), T > 0, as their average counts them.

    Units, or raw ones where the model averages before it takes the length.
    """
    size = encoder.batch_size
    batches = (pixels[first : first + size] for first in range(0, len(pixels), size))
    embeddings = np.concatenate(list(encode_batches(encoder, batches)))
    if not encoder.identity.pools_raw_frames:
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings
