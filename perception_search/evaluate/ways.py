"""The ways in which a collection answers queries, each asked the same; judges no answer."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_search.collection import Collection
from perception_search.errors import QueryError
from perception_search.hits import Hits
from perception_search.reranking import Reranked, Reranker, rerank
from perception_search.scoring import Target
from perception_search.searcher import Searcher


@dataclass(frozen=True)
class Answered:
    """What one way gave.

    Attributes:
        hits: of each query.
        milliseconds: that a query took on average, words not encoded anew.
    """

    hits: list[Hits]
    milliseconds: float


def ask_in_every_way(
    collection: Collection,
    queries: Sequence[str],
    *,
    k: int,
    whole: bool = False,
    reranker: Reranker | None = None,
    depth: int = 50,
) -> dict[str, Answered]:
    """The answers by way: `exact`, `indexed` where there is an index, `normalised`, and `reranked`
    where there is a judge.

    The first two rank by raw cosine, the last by what of it everyday captions do not get, see
    `relevance`. The index is asked however few rows there are.

    Args:
        collection: asked.
        queries: words.
        k: hits wanted of each.
        whole: rank videos as wholes, which no index holds.
        reranker: judges the best of the exact answers.
        depth: how many of them.
    """
    targets = [Target(embedding) for _, embedding in collection.query_encoder().texts(queries)]
    ways: dict[str, Mapping[str, Any]] = {"exact": {"use_index": False}}
    if collection.info()["index"] and not whole:
        ways["indexed"] = {"use_index": True}
    ways["normalised"] = {"use_index": False, "normalised": True}
    searcher = Searcher(
        collection.path, "auto", lambda new: collection.encoder_for("text").encode_text(new)
    )
    snapshot = collection.snapshot
    answered = {}
    for way, how in ways.items():
        searcher.search(snapshot, targets[:1], k=k, whole=whole, **how)  # opens what is opened once
        start = time.perf_counter()
        hits = searcher.search(snapshot, targets, k=k, whole=whole, **how)
        milliseconds = 1000 * (time.perf_counter() - start) / max(1, len(targets))
        answered[way] = Answered(hits, milliseconds)
    if reranker is not None:
        start = time.perf_counter()
        exact = answered["exact"].hits
        judged = [
            _last(rerank(hits, query, reranker, depth=depth))
            for query, hits in zip(queries, exact, strict=True)
        ]
        milliseconds = 1000 * (time.perf_counter() - start) / max(1, len(targets))
        answered["reranked"] = Answered(judged, milliseconds)
    return answered


def _last(states: Iterator[Reranked]) -> Hits:
    """The hits after all were judged.

    Raises:
        QueryError: the judge failed, so that there is no figure.
    """
    *_, last = states
    if last.problem is not None:
        raise QueryError(last.problem)
    return last.hits


def items_of(collection: Collection, hits: Hits) -> NDArray[np.int64]:
    """The items (N,) that hits are of, as positions in the snapshot's `live_items`."""
    snapshot = collection.snapshot
    row_ids = np.array([hit.row_id for hit in hits], np.int64)
    items: NDArray[np.int64] = snapshot.item_of_row[snapshot.rows.positions(row_ids)]
    return items
