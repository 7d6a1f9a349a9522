"""How well stored embeddings show what is asked for.

What is taken away is a penalty on the score: max(0, cos(minus, row) - usual) times its weight,
where `usual` is what half of the collection reaches, so that it falls only on what really shows the
unwanted thing. (Subtracting the vectors would reward everything unlike it.)
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_search.snapshot import Snapshot, check_numbers, check_unit

SAMPLE_ROWS = 4096
_FRAMES_AT_ONCE = 1024  # 4 MB in float32: stays in the processor's cache


@dataclass(frozen=True)
class Target:
    """What to look for.

    Attributes:
        embedding: (dim,) float32, unit length.
        minus: (weight, unit embedding) of what should not be shown.
        words: what is looked for in captions; empty where the query has none.
    """

    embedding: NDArray[np.float32]
    minus: Sequence[tuple[float, NDArray[np.float32]]] = ()
    words: str = ""


class Scorer:
    """Scores embeddings of one snapshot for one target."""

    def __init__(self, snapshot: Snapshot, target: Target) -> None:
        self._snapshot = snapshot
        self.embedding = target.embedding
        # (dim, 1 + number of minus): one product scores them all
        self._vectors = np.stack([target.embedding, *(v for _, v in target.minus)], axis=1)
        self._weights = np.array([weight for weight, _ in target.minus], np.float32)

    @property
    def has_penalty(self) -> bool:
        """Whether a score can be lower than the cosine."""
        return bool(len(self._weights))

    @functools.cached_property
    def _usual(self) -> NDArray[np.float32]:
        """What half of the collection reaches for each minus."""
        positions = self._snapshot.searchable
        sample = positions[:: max(1, len(positions) // SAMPLE_ROWS)]
        usual: NDArray[np.float32] = np.median(self.products(sample)[:, 1:], axis=0)
        return usual

    def combine(self, products: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores (N,) from cosines (N, 1 + minus)."""
        if not self.has_penalty:
            return products[:, 0]
        penalties = np.maximum(0, products[:, 1:] - self._usual) @ self._weights
        combined: NDArray[np.float32] = products[:, 0] - penalties
        return combined

    def products(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Cosines (N, 1 + minus) of the rows at `positions`."""
        return self._snapshot.rows.embeddings(positions) @ self._vectors

    def scores(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores (N,) of unit embeddings (N, dim)."""
        return self.combine(embeddings @ self._vectors)

    def of_frames(self, embeddings: NDArray[np.float16]) -> NDArray[np.float32]:
        """Scores (T,) of the frames of a grid.

        Raises:
            CollectionDamaged: an embedding is not of unit length: the file has changed.
        """
        vectors = np.ascontiguousarray(self._vectors.T)
        scores = np.empty(len(embeddings), np.float32)
        for first in range(0, len(embeddings), _FRAMES_AT_ONCE):
            block = embeddings[first : first + _FRAMES_AT_ONCE].astype(np.float32)
            check_unit(block)
            # not by `@`: BLAS would start threads, which for so little cost more than they bring
            products = [np.einsum("ij,j->i", block, vector) for vector in vectors]
            scores[first : first + len(block)] = self.combine(np.stack(products, axis=1))
        return scores

    def scan(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores (N,) of the rows at `positions` (ascending), reading embeddings in disk order."""
        scores = np.empty(len(positions), np.float32)
        for place, block in self._snapshot.rows.blocks():
            first, last = np.searchsorted(positions, [place.start, place.stop])
            if first == last:
                continue
            wanted = positions[first:last] - place.start
            part = block if last - first == len(block) else block[wanted]
            scores[first:last] = self.scores(part.astype(np.float32))
        check_numbers(bool(np.isfinite(scores).all()))
        return scores
