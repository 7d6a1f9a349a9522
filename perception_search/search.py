"""One query over one version of a collection: filter, scan or index, merge, rank; knows no encoder.

Image and segment rows are ranked together and an item's score is its best row's, so that pictures
and moments share one scale; k counts items. What is taken away is a penalty on the score:
max(0, cos(minus, row) - usual) times its weight, where `usual` is what half of the collection
reaches, so that it falls only on what really shows the unwanted thing. (Subtracting the vectors
would reward everything unlike it.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perception_search import tables, where
from perception_search.errors import CollectionDamaged
from perception_search.hits import Hit, Hits
from perception_search.snapshot import Rows, Snapshot

if TYPE_CHECKING:
    from perception_search.index import Index

MINUS_SAMPLE_ROWS = 4096
SCAN_IF_FEWER_ROWS = 20_000


@dataclass(frozen=True)
class Target:
    """What to look for.

    Attributes:
        embedding: (dim,) float32, unit length.
        minus: (weight, unit embedding) of what should not be shown.
    """

    embedding: NDArray[np.float32]
    minus: Sequence[tuple[float, NDArray[np.float32]]] = ()


def search(
    snapshot: Snapshot,
    target: Target,
    *,
    k: int,
    index: "Index | None" = None,
    condition: str | None = None,
    min_score: float | None = None,
    whole: bool = False,
    exclude: str | None = None,
) -> Hits:
    """The best `k` items, best first; equal scores by row id.

    Args:
        snapshot: what to search.
        target: what to look for.
        k: items wanted, at least 1.
        index: where to look first; without one every row is scored.
        condition: a filter over the item columns, in SQL.
        min_score: leave out items below this.
        whole: rank videos by their whole-video row instead of their best segment.
        exclude: content hash of an item to leave out.

    Raises:
        ValueError: `k` is below 1.
        QueryError: `condition` cannot be used.
        CollectionDamaged: a stored embedding is not what was written.
    """
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    eligible = _eligible(snapshot, condition, whole, exclude)
    positions = np.flatnonzero(eligible)
    if not len(positions):
        return Hits()
    scorer = _Scorer(snapshot, target)
    many = len(positions) > SCAN_IF_FEWER_ROWS
    if index is not None and many and not whole and not index.damaged:
        found = _by_index(snapshot, index, scorer, positions, k)
    else:
        found = positions, scorer.scan(positions)
    best, scores = _best_rows(snapshot, *found, k)
    if min_score is not None:
        best, scores = best[scores >= min_score], scores[scores >= min_score]
    return _hits(snapshot, best, scores)


def _eligible(
    snapshot: Snapshot, condition: str | None, whole: bool, exclude: str | None
) -> NDArray[np.bool_]:
    """Rows (N,) that may be found: of a live item, of the wanted scope, let through."""
    rows, item_of_row = snapshot.rows, snapshot.item_of_row
    eligible = item_of_row >= 0
    eligible &= rows.scope != (tables.SEGMENT if whole else tables.VIDEO)
    allowed = np.ones(snapshot.live_items.num_rows, bool)
    if condition is not None:
        allowed &= where.matching(snapshot.shown_items, condition)
    if exclude is not None:
        allowed &= np.asarray(snapshot.live_items["content_hash"].to_pylist(), object) != exclude
    if condition is not None or exclude is not None:
        eligible[eligible] = allowed[item_of_row[eligible]]
    return eligible


class _Scorer:
    """Scores rows of one snapshot for one target."""

    def __init__(self, snapshot: Snapshot, target: Target) -> None:
        self._rows: Rows = snapshot.rows
        # (dim, 1 + number of minus): one product scores them all
        self._vectors = np.stack([target.embedding, *(v for _, v in target.minus)], axis=1)
        self._weights = np.array([weight for weight, _ in target.minus], np.float32)
        self._usual = np.zeros(len(self._weights), np.float32)
        if len(self._weights):
            searchable = np.flatnonzero(
                (snapshot.item_of_row >= 0) & (self._rows.scope != tables.VIDEO)
            )
            step = max(1, len(searchable) // MINUS_SAMPLE_ROWS)
            sample = self._rows.embeddings(searchable[::step])
            self._usual = np.median(sample @ self._vectors[:, 1:], axis=0)

    @property
    def has_penalty(self) -> bool:
        return bool(len(self._weights))

    def combine(self, products: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores (N,) from cosines (N, 1 + minus)."""
        penalties = np.maximum(0, products[:, 1:] - self._usual) @ self._weights
        combined: NDArray[np.float32] = products[:, 0] - penalties
        return combined

    def products(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Cosines (N, 1 + minus) of the rows at `positions`."""
        return self._rows.embeddings(positions) @ self._vectors

    def scan(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores (N,) of the rows at `positions` (ascending), reading embeddings in disk order."""
        scores = np.empty(len(positions), np.float32)
        for place, block in self._rows.blocks():
            first, last = np.searchsorted(positions, [place.start, place.stop])
            if first == last:
                continue
            wanted = positions[first:last] - place.start
            part = block if last - first == len(block) else block[wanted]
            embeddings = part.astype(np.float32)
            scores[first:last] = self.combine(embeddings @ self._vectors)
        if not np.isfinite(scores).all():
            raise CollectionDamaged(
                "a stored embedding is not a number, so a file has changed since it was written. "
                "`perception-search verify` names it."
            )
        return scores


def _by_index(
    snapshot: Snapshot, index: "Index", scorer: _Scorer, positions: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Positions and exact scores of candidates that hold the best k items.

    Looks deeper until there are k items that nothing further down could displace.
    """
    rows = snapshot.rows
    row_ids = rows.row_id[positions]
    new = positions[row_ids >= index.record.next_row_id]
    new_scores = scorer.scan(new)
    old_ids = row_ids[row_ids < index.record.next_row_id]
    allowed = None if len(old_ids) == index.record.num_rows else old_ids
    depth = 4 * k
    while depth < len(old_ids) // 4:
        found = rows.positions(index.search(scorer._vectors[:, 0].copy(), depth, allowed))
        found = found[found >= 0]
        products = scorer.products(found)
        scores = scorer.combine(products)
        candidates = np.concatenate([found, new]), np.concatenate([scores, new_scores])
        _, best_scores = _best_rows(snapshot, *candidates, k)
        # a penalty only lowers: what was not visited scores no more than the last one's cosine
        settled = not scorer.has_penalty or (
            len(found) > 0 and len(best_scores) == k and best_scores[-1] >= products[:, 0].min()
        )
        if len(best_scores) == k and settled:
            return candidates
        depth *= 4
    return positions, scorer.scan(positions)


def _best_rows(
    snapshot: Snapshot, positions: NDArray[np.int64], scores: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The best row of each of the best k items: positions and scores, best first."""
    if len(positions) > 64 * k:  # only rows that can matter are sorted
        best_of_item = np.full(snapshot.live_items.num_rows, -np.inf, np.float32)
        np.maximum.at(best_of_item, snapshot.item_of_row[positions], scores)
        kth = np.partition(best_of_item, max(0, len(best_of_item) - k))
        enough = scores >= kth[max(0, len(best_of_item) - k)]
        positions, scores = positions[enough], scores[enough]
    order = np.lexsort((snapshot.rows.row_id[positions], -scores))
    positions, scores = positions[order], scores[order]
    _, first = np.unique(snapshot.item_of_row[positions], return_index=True)
    first = np.sort(first)[:k]
    return positions[first], scores[first]


def _hits(snapshot: Snapshot, positions: NDArray[np.int64], scores: NDArray[np.float32]) -> Hits:
    rows = snapshot.rows
    rows.embeddings(positions)  # raises where one is not what was written
    items = snapshot.live_items.take(snapshot.item_of_row[positions]).to_pydict()
    hits = Hits()
    for place, position in enumerate(positions.tolist()):
        is_video = items["kind"][place] == "video"
        hits.append(
            Hit(
                row_id=int(rows.row_id[position]),
                path=snapshot.live_paths[items["content_hash"][place]][0],
                kind=items["kind"][place],
                score=float(scores[place]),
                start_seconds=float(rows.start_seconds[position]) if is_video else None,
                end_seconds=float(rows.end_seconds[position]) if is_video else None,
            )
        )
    return hits
