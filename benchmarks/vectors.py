"""Unit vectors that lie as embeddings of pictures and of texts do, for the benchmarks of indexes.

A common offset, a spectrum that falls by a power law along axes turned at random, and clusters
within clusters, of which few are large. Texts lie on the other side of a gap. The same seed gives
the same vectors on every machine, up to rounding.
"""

import numpy as np

AT_ONCE = 50_000
NUM_CLUSTERS, NUM_WITHIN = 2000, 20
OFFSET, CLUSTER, WITHIN, NOISE = 0.55, 0.55, 0.35, 0.55  # shares of a picture
GAP, CONTENT, OTHER = 0.75, 0.45, 0.45  # shares of a text


class Vectors:
    """Draws vectors one after the other; what was asked before decides what comes next."""

    def __init__(self, dim: int = 1024, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        decay = np.arange(1, dim + 1) ** -0.55
        self._spectrum = (decay / np.linalg.norm(decay)).astype(np.float32)
        self._turn, _ = np.linalg.qr(self._normal(dim))
        self._offset, self._gap = (unit(self._coloured(1))[0] for _ in range(2))
        self._clusters = unit(self._coloured(NUM_CLUSTERS))
        self._within = unit(self._coloured(NUM_CLUSTERS * NUM_WITHIN))
        sizes = np.arange(1, NUM_CLUSTERS + 1) ** -0.8
        self._shares = sizes / sizes.sum()

    def images(self, count: int) -> np.ndarray:
        """(count, dim) float32: rows of a collection, or queries by picture."""
        return (self._pictures(count) @ self._turn).astype(np.float32)

    def texts(self, count: int) -> np.ndarray:
        """(count, dim) float32: queries in words."""
        content = unit(self._pictures(count) - OFFSET * self._offset)
        other = unit(self._normal(count))  # in no direction more than in another
        mixed = unit(GAP * self._gap + CONTENT * content + OTHER * other)
        return (mixed @ self._turn).astype(np.float32)

    def rows(self, count: int) -> np.ndarray:
        """(count, dim) float16: the rows of a collection, as they are stored."""
        sizes = [min(AT_ONCE, count - first) for first in range(0, count, AT_ONCE)]
        return np.concatenate([self.images(size).astype(np.float16) for size in sizes])

    def _pictures(self, count: int) -> np.ndarray:
        cluster = self._rng.choice(NUM_CLUSTERS, count, p=self._shares)
        within = cluster * NUM_WITHIN + self._rng.integers(0, NUM_WITHIN, count)
        return unit(
            OFFSET * self._offset
            + CLUSTER * self._clusters[cluster]
            + WITHIN * self._within[within]
            + NOISE * self._coloured(count)
        )

    def _coloured(self, count: int) -> np.ndarray:
        return self._normal(count) * self._spectrum

    def _normal(self, count: int) -> np.ndarray:
        return self._rng.standard_normal((count, len(self._spectrum)), dtype=np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
