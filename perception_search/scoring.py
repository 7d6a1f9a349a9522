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

from perception_search.half import as_float32
from perception_search.snapshot import Snapshot

SAMPLE_ROWS = 4096
_ROWS_AT_ONCE = 512  # 2 MB in float32: stays in the processor's cache


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
        self._vectors = np.stack([target.embedding, *(v for _, v in target.minus)])
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
        return cosines(self._snapshot.rows.embeddings(positions), self._vectors)

    def scores(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """Scores (N,) of unit embeddings (N, dim), which may be float16 as they are stored."""
        return self.combine(cosines(embeddings, self._vectors))

    def scan(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores (N,) of the rows at `positions` (ascending), reading embeddings in disk order."""
        parts = [self.scores(block) for _, block in self._snapshot.rows.blocks(positions)]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)


def cosines(embeddings: NDArray[np.floating], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of unit embeddings (N, dim) and unit vectors (V, dim), as (N, V).

    Those of one embedding are the same to the bit whatever others are beside it, so that a row has
    one score however it was found.
    """
    found = np.empty((len(embeddings), len(vectors)), np.float32)
    for first in range(0, len(embeddings), _ROWS_AT_ONCE):
        some = as_float32(embeddings[first : first + _ROWS_AT_ONCE])
        for number, vector in enumerate(vectors):
            # not by `@`: what BLAS gives of a row depends on the others, and it starts threads
            found[first : first + len(some), number] = np.einsum("ij,j->i", some, vector)
    return found
