"""Search parameters by measurement: the cheapest with which an index finds what an exact search
finds, for queries like pictures and for queries like texts, which are harder. Knows no encoder.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perception_search.encoder.base import unit
from perception_search.index import Index
from perception_search.recipe import Recipe
from perception_search.rows import Rows

K = 10
"""Recall is measured of so many best rows."""
NUM_QUERIES = 200
_NUM_TIMED = 40
_CANDIDATES = (1, 2, 4, 7, 10, 15, 20, 30, 40, 60, 80)
_STEPS = {
    "nprobe": (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024),
    "efSearch": (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024),
}
_GAP, _CONTENT, _OTHER = 0.75, 0.45, 0.45


@dataclass(frozen=True)
class Tuned:
    """What was chosen, and what it finds.

    Attributes:
        recipe: with the chosen search parameters and candidates.
        recall: by kind of query, the share of the ten best rows that are found.
        milliseconds: of one query, scoring included.
        is_reached: whether both kinds reach the recall that was asked for.
    """

    recipe: Recipe
    recall: Mapping[str, float]
    milliseconds: float
    is_reached: bool


@dataclass(frozen=True)
class Queries:
    """Queries of one kind, and the ids of the rows that are best for each.

    Attributes:
        embeddings: (Q, dim), unit.
        best: (Q, K) row ids.
        own: (Q,) the id of the row that a query is itself, which does not count; -1 for none.
    """

    embeddings: NDArray[np.float32]
    best: NDArray[np.int64]
    own: NDArray[np.int64]


def sample_queries(
    rows: Rows, positions: NDArray[np.int64], asked: NDArray[np.float32]
) -> dict[str, Queries]:
    """Queries like pictures: some of the rows; queries like texts: the ones that were asked, or,
    where they are few, vectors made of rows across such a gap as lies between pictures and texts.

    Args:
        rows: of the collection.
        positions: those that are in the index, ascending; more than K.
        asked: (N, dim) unit embeddings of texts.
    """
    pictures = queries_by_picture(rows, positions, positions)
    texts = asked[:NUM_QUERIES]
    if len(texts) < NUM_QUERIES:
        texts = _like_texts(pictures.embeddings)
    none = np.full(len(texts), -1, np.int64)
    return {"picture": pictures, "text": _with_best(rows, positions, texts, none)}


def recall_of(index: Index, queries: Queries, how: Recipe) -> float:
    """The share of the best rows that is among the candidates."""
    return float((_ranks(index, queries, how) < K * how.candidates).mean())


def queries_by_picture(
    rows: Rows, positions: NDArray[np.int64], like: NDArray[np.int64]
) -> Queries:
    """Some of the rows at `like` as queries, each of which is not to find itself.

    Args:
        rows: of the collection.
        positions: the rows that are looked among, ascending; more than K.
        like: those that queries are taken from.
    """
    chosen = np.random.default_rng(0).choice(like, min(NUM_QUERIES, len(like)), replace=False)
    return _with_best(rows, positions, rows.embeddings(chosen), rows.row_id[chosen])


def tune(index: Index, rows: Rows, queries: Mapping[str, Queries], recall: float) -> Tuned:
    """The cheapest way of searching that reaches `recall` for all kinds of queries.

    Where none does, the one that comes nearest.

    Args:
        index: opened.
        rows: of the collection.
        queries: by kind.
        recall: the share of the ten best rows that should be found, above 0, at most 1.
    """
    recipe = index.record.recipe
    per_row = _seconds_per_row(rows, queries)
    found: list[tuple[bool, float, Recipe, dict[str, float]]] = []
    for search in _searches(recipe):
        widest = replace(recipe, search=search, candidates=_CANDIDATES[-1])
        ranks = {kind: _ranks(index, each, widest) for kind, each in queries.items()}
        for candidates in _CANDIDATES:
            reached = {kind: float((each < K * candidates).mean()) for kind, each in ranks.items()}
            if min(reached.values()) >= recall or candidates == _CANDIDATES[-1]:
                break
        how = replace(recipe, search=search, candidates=candidates)
        seconds = _seconds(index, queries, how) + K * candidates * per_row
        is_reached = min(reached.values()) >= recall
        if is_reached and any(before[0] and before[1] < seconds for before in found):
            break  # looking further only costs more
        found.append((is_reached, seconds, how, reached))
    best = min(found, key=lambda one: (not one[0], one[1] if one[0] else -min(one[3].values())))
    return Tuned(best[2], best[3], 1000 * best[1], best[0])


def _searches(recipe: Recipe) -> Sequence[Mapping[str, int]]:
    """The ways to search, from the quickest to the most thorough."""
    for name, steps in _STEPS.items():
        if name in recipe.search:
            return [{**recipe.search, name: step} for step in steps]
    return [recipe.search]


def _ranks(index: Index, queries: Queries, how: Recipe) -> NDArray[np.float64]:
    """Where each of the best rows stands among the candidates (Q, K); inf where it does not."""
    found = index.search(queries.embeddings, K, how=how)
    ranks = np.full(queries.best.shape, np.inf)
    for number, (ids, best, own) in enumerate(zip(found, queries.best, queries.own, strict=True)):
        places = {row_id: place for place, row_id in enumerate(ids[ids != own].tolist())}
        ranks[number] = [places.get(row_id, np.inf) for row_id in best.tolist()]
    return ranks


def _with_best(
    rows: Rows,
    positions: NDArray[np.int64],
    embeddings: NDArray[np.float32],
    own: NDArray[np.int64],
) -> Queries:
    import torch

    from perception_search.shortlist import Shortlister

    shortlister = Shortlister(rows.blocks, rows.dim, torch.device("cpu"))
    best = []
    shortlists = shortlister.shortlist(embeddings, K + 1, positions)
    for query, mine, shortlist in zip(embeddings, own.tolist(), shortlists, strict=True):
        scores = rows.embeddings(shortlist) @ query
        ids = rows.row_id[shortlist[np.argsort(-scores, kind="stable")]]
        best.append(ids[ids != mine][:K])
    return Queries(embeddings, np.stack(best), own)


def _like_texts(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit vectors (N, dim) that lie to rows as captions do in models of pictures and texts."""
    rng = np.random.default_rng(0)
    content = unit(pictures - pictures.mean(axis=0))
    other = unit(rng.standard_normal(pictures.shape, np.float32))
    gap = unit(rng.standard_normal((1, pictures.shape[1]), np.float32))
    return unit(_GAP * gap + _CONTENT * content + _OTHER * other)


def _seconds(index: Index, queries: Mapping[str, Queries], how: Recipe) -> float:
    """Of one query alone, the median over some of all kinds."""
    times = []
    for each in queries.values():
        for query in each.embeddings[:_NUM_TIMED]:
            start = time.perf_counter()
            index.search(query[None], K, how=how)
            times.append(time.perf_counter() - start)
    return float(np.median(times))


def _seconds_per_row(rows: Rows, queries: Mapping[str, Queries]) -> float:
    """Of scoring one candidate by its stored embedding."""
    times = []
    for each in queries.values():
        for query, ids in zip(each.embeddings[:_NUM_TIMED], each.best, strict=False):
            start = time.perf_counter()
            rows.embeddings(rows.positions(ids)) @ query
            times.append((time.perf_counter() - start) / len(ids))
    return float(np.median(times))
