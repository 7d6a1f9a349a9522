"""A larger encoder as the judge: only the best hits are embedded by it, and their rows are kept.

The order of the hits becomes that of the larger model, at the ingest cost of the smaller one.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception_search import manifest
from perception_search.decode_single import MediaReader
from perception_search.encoder.protocol import Encoder, encode_to_average
from perception_search.errors import MediaError
from perception_search.frames import Sampling
from perception_search.hits import Hit
from perception_search.query import mix
from perception_search.reranking import file_key
from perception_search.text_cache import TextCache

NUM_FRAMES = 8


class EncoderReranker:
    """Scores hits by the cosine of another encoder; see `Reranker`.

    A picture is embedded as a whole, of a video 8 frames of the stretch that was found. Rows are
    kept in the collection's cache by the weights' hash, so that the next query computes none.

    Args:
        folder: the collection.
        encoder: the larger one.
    """

    first_weight = 0.0

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        identity = encoder.identity
        self.name = identity.model
        self._encoder = encoder
        self._reader = MediaReader()
        place = folder / manifest.CACHE / f"rerank-{identity.vision_sha256[:16]}.sqlite"
        self._rows = TextCache(place, identity.vision_sha256, identity.dim)
        self._words = TextCache(place, identity.text_sha256, identity.dim)

    def scores(self, query: str, hits: Sequence[Hit]) -> list[float | MediaError]:
        """The cosine of each hit to the query, or why its file cannot be used."""
        [asked] = self._words.encode([query], self._encoder.encode_text)
        found: list[float | MediaError] = []
        for hit in hits:
            try:
                key = file_key(hit.path, hit.start_seconds, hit.end_seconds)
                [row] = self._rows.encode([key], self._embedder(hit))
            except MediaError as error:
                found.append(error)
            else:
                found.append(float(row @ asked))
        return found

    def close(self) -> None:
        """End the process that decodes."""
        self._reader.close()

    def _embedder(self, hit: Hit) -> Callable[[Sequence[str]], NDArray[np.float32]]:
        return lambda _: self._embedded(hit)[None]

    def _embedded(self, hit: Hit) -> NDArray[np.float32]:
        """The unit embedding (dim,) of a picture, or of a stretch of a video."""
        sampling = Sampling(
            grid="none",
            num_uniform_frames=NUM_FRAMES,
            uniform="perception-lm",
            start_seconds=hit.start_seconds,
            end_seconds=hit.end_seconds,
        )
        _, frames = self._reader.decode(hit.path, self._encoder.frame_spec, sampling)
        embeddings = encode_to_average(self._encoder, frames.pixels)
        weights = frames.num_uniform.tolist()
        return mix(list(zip(map(float, weights), embeddings, strict=True)))
