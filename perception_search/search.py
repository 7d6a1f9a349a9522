"""Queries over one version of a collection: filter, find rows, merge, rank; knows no encoder.

Image and segment rows are ranked together and an item's score is its best row's, so that pictures
and moments share one scale; k counts items. Moments are ranked by themselves: every span of every
video that comes near, k counts spans.
"""

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_search import tables, where
from perception_search.hits import Hit, Hits, caption_fields
from perception_search.moments import Moment, frame_scores, moments_of
from perception_search.scoring import Scorer, Target
from perception_search.snapshot import Caption, Snapshot

if TYPE_CHECKING:
    from perception_search.index import Index
    from perception_search.shortlist import Shortlister

Found: TypeAlias = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Positions of rows and their scores."""

SCAN_IF_FEWER_ROWS = 20_000

VIDEOS_PER_MOMENT = 10
MIN_VIDEOS = 100
PEAKS_PER_MOMENT = 8
MIN_PEAKS = 100


def search(
    snapshot: Snapshot,
    target: Target,
    *,
    k: int,
    index: "Index | None" = None,
    condition: str | None = None,
    min_score: float | None = None,
    whole: bool = False,
    moments: bool = False,
    exclude: str | None = None,
) -> Hits:
    """The best `k` items or moments for one target; see `search_many`."""
    [hits] = search_many(
        snapshot,
        [target],
        k=k,
        index=index,
        condition=condition,
        min_score=min_score,
        whole=whole,
        moments=moments,
        exclude=exclude,
    )
    return hits


def search_many(
    snapshot: Snapshot,
    targets: Sequence[Target],
    *,
    k: int,
    index: "Index | None" = None,
    shortlister: "Shortlister | None" = None,
    condition: str | None = None,
    min_score: float | None = None,
    whole: bool = False,
    moments: bool = False,
    exclude: str | None = None,
    scan_if_fewer: int | None = None,
) -> list[Hits]:
    """For each target the best `k` items or moments, best first; equal scores by row id.

    Args:
        snapshot: what to search.
        targets: what to look for.
        k: items wanted, at least 1; with `moments`, moments.
        index: where to look first; without one every row is scored.
        shortlister: of the snapshot's rows; scores them for all targets at once, where no index
            is used. The hits are the same without it.
        condition: a filter over the item columns, in SQL.
        min_score: leave out what scores below this.
        whole: rank videos by their whole-video row instead of their best segment.
        moments: rank the moments of videos. They are looked for in the 10 k videos (100 at least)
            whose segments score best; of those found there, the 8 k (100 at least) with the best
            frames are compared by their own scores.
        exclude: content hash of an item to leave out.
        scan_if_fewer: the index is not asked for so few rows; None for 20,000.

    Raises:
        ValueError: `k` is below 1, or both `whole` and `moments` are asked for.
        QueryError: `condition` cannot be used.
        CollectionDamaged: a stored embedding is not what was written.
    """
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    if whole and moments:
        raise ValueError("videos are ranked as wholes or by their moments, not by both")
    scopes: tuple[int, ...] = tables.SEARCHED
    if moments:
        scopes = (tables.SEGMENT,)
    elif whole:
        scopes = (tables.IMAGE, tables.VIDEO)
    wanted = max(MIN_VIDEOS, VIDEOS_PER_MOMENT * k) if moments else k
    eligible = _eligible(snapshot, condition, scopes, exclude)
    scorers = [Scorer(snapshot, target) for target in targets]
    found: Iterable[Found]
    fewest = SCAN_IF_FEWER_ROWS if scan_if_fewer is None else scan_if_fewer
    if index is not None and not whole and not index.damaged and len(eligible) > fewest:
        found = _by_index(snapshot, index, scorers, eligible, wanted)
    elif shortlister is not None:
        found = _by_shortlist(snapshot, shortlister, scorers, eligible, wanted)
    else:
        found = ((eligible, scorer.scan(eligible)) for scorer in scorers)
    many = []
    for scorer, rows in zip(scorers, found, strict=True):
        positions, scores = _best_of_items(snapshot, *rows, wanted)
        if moments:
            hits = _moments(snapshot, scorer, positions, k)
        else:
            hits = _items(snapshot, scorer, positions, scores, whole)
        many.append(Hits(hit for hit in hits if min_score is None or hit.score >= min_score))
    return many


def _eligible(
    snapshot: Snapshot, condition: str | None, scopes: Sequence[int], exclude: str | None
) -> NDArray[np.int64]:
    """Positions of the rows that may be found: of a live item, of a wanted scope, let through."""
    if condition is None and exclude is None and scopes == tables.SEARCHED:
        return snapshot.searchable
    item_of_row = snapshot.item_of_row
    eligible = (item_of_row >= 0) & np.isin(snapshot.rows.scope, scopes)
    allowed = np.ones(snapshot.live_items.num_rows, bool)
    if condition is not None:
        allowed &= where.matching(snapshot.shown_items, condition)
    if exclude is not None:
        allowed &= np.asarray(snapshot.live_items["content_hash"].to_pylist(), object) != exclude
    if condition is not None or exclude is not None:
        eligible[eligible] = allowed[item_of_row[eligible]]
    return np.flatnonzero(eligible)


def eligible_rows(snapshot: Snapshot, condition: str | None) -> NDArray[np.int64]:
    """Positions of the rows that a search with this filter ranks: pictures and segments."""
    return _eligible(snapshot, condition, tables.SEARCHED, None)


def _by_index(
    snapshot: Snapshot,
    index: "Index",
    scorers: Sequence[Scorer],
    positions: NDArray[np.int64],
    k: int,
) -> Iterator[Found]:
    """For each target candidates that hold the best k items, as far as the index sees.

    Looks deeper until there are k items that nothing further down could displace.
    """
    rows = snapshot.rows
    new, old_ids = snapshot.parted(positions, index.record.next_row_id)
    num_old = len(old_ids)
    allowed = None if num_old == index.record.num_rows else old_ids
    start = _depth(snapshot, positions, k)
    if not scorers or start >= num_old // 4:
        yield from ((positions, scorer.scan(positions)) for scorer in scorers)
        return
    embeddings = np.stack([scorer.embedding for scorer in scorers])
    together = index.search(embeddings, start, allowed)
    for scorer, ids in zip(scorers, together, strict=True):
        more = new, scorer.scan(new)
        candidates, depth = None, start
        while candidates is None and depth < num_old // 4:
            if depth > start:
                [ids] = index.search(scorer.embedding[None], depth, allowed)
            found = rows.positions(ids[ids >= 0])
            candidates = _settled(snapshot, scorer, found[found >= 0], depth, more, k)
            depth *= 4
        yield candidates or (positions, scorer.scan(positions))


def _by_shortlist(
    snapshot: Snapshot,
    shortlister: "Shortlister",
    scorers: Sequence[Scorer],
    positions: NDArray[np.int64],
    k: int,
) -> Iterator[Found]:
    """For each target candidates that hold the best k items."""
    depth = _depth(snapshot, positions, k)
    if not scorers or depth >= len(positions) // 4:
        yield from ((positions, scorer.scan(positions)) for scorer in scorers)
        return
    none = np.zeros(0, np.int64), np.zeros(0, np.float32)
    embeddings = np.stack([scorer.embedding for scorer in scorers])
    shortlists = shortlister.shortlist(embeddings, depth, positions)
    for scorer, shortlist in zip(scorers, shortlists, strict=True):
        candidates = _settled(snapshot, scorer, shortlist, depth, none, k)
        yield candidates or (positions, scorer.scan(positions))


def _depth(snapshot: Snapshot, positions: NDArray[np.int64], k: int) -> int:
    """How many rows hold the best k items, most likely: as many more as an item has rows."""
    rows_per_item = len(positions) / max(1, snapshot.live_items.num_rows)
    deepest: int = math.ceil(k * min(4.0, max(1.0, rows_per_item)))
    return deepest


def _settled(
    snapshot: Snapshot, scorer: Scorer, found: NDArray[np.int64], depth: int, more: Found, k: int
) -> Found | None:
    """The rows found and more of them, with scores; None where others could displace the best k.

    Args:
        snapshot: what is searched.
        scorer: of the target.
        found: the rows with the highest cosines, of those that could be found.
        depth: how many of them are sure to be those; the rest came along.
        more: rows that could not.
        k: items wanted.
    """
    products = scorer.products(found)
    candidates = (
        np.concatenate([found, more[0]]),
        np.concatenate([scorer.combine(products), more[1]]),
    )
    _, best_scores = _best_of_items(snapshot, *candidates, k)
    if len(best_scores) < k:
        return None
    # a penalty only lowers: what was not found scores no more than the last one's cosine
    if scorer.has_penalty and not (
        len(found) and best_scores[-1] >= np.sort(products[:, 0])[-depth:][0]
    ):
        return None
    return candidates


def _best_of_items(
    snapshot: Snapshot, positions: NDArray[np.int64], scores: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Of these rows, the best of each of the best k items: positions and scores, best first."""
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


def _items(
    snapshot: Snapshot,
    scorer: Scorer,
    positions: NDArray[np.int64],
    scores: NDArray[np.float32],
    whole: bool,
) -> Iterator[Hit]:
    """A hit a row, in order; a video's with the times of its best moment, or of all of it."""
    snapshot.rows.embeddings(positions)  # raises where one is not what was written
    items = _items_at(snapshot, positions)
    videos = [] if whole else [item for item in items if item.kind == "video"]
    best = dict(zip(videos, map(next, _moments_of(snapshot, scorer, videos)), strict=True))
    for position, score, item in zip(positions.tolist(), scores.tolist(), items, strict=True):
        if item.kind == "image":
            row_id = int(snapshot.rows.row_id[position])
            yield Hit(row_id, item.path, item.kind, score, **caption_fields(item.captions))
        elif whole:
            end = float(snapshot.rows.end_seconds[position])
            yield _hit(snapshot, position, item, Moment(score, 0.0, end, end / 2, score))
        else:
            yield _hit(snapshot, position, item, best[item]._replace(score=score))


def _moments(
    snapshot: Snapshot, scorer: Scorer, positions: NDArray[np.int64], k: int
) -> Iterator[Hit]:
    """The best k moments of the videos that these segment rows are of, best first."""
    items = _items_at(snapshot, positions)
    moments = _moments_of(snapshot, scorer, items)
    videos = [
        zip(some, itertools.repeat(position), itertools.repeat(item))
        for some, position, item in zip(moments, positions.tolist(), items, strict=True)
    ]
    by_peak = heapq.merge(*videos, key=lambda one: -one[0].peak)
    found = list(itertools.islice(by_peak, max(MIN_PEAKS, PEAKS_PER_MOMENT * k)))
    found.sort(key=lambda one: (-one[0].score, one[2].path, one[0].start_seconds))
    for moment, position, item in found[:k]:
        yield _hit(snapshot, _segment_at(snapshot, position, moment), item, moment)


class _Item(NamedTuple):
    """What a hit needs to know of an item."""

    content_hash: str
    duration_seconds: float | None
    kind: str
    path: Path
    captions: tuple[Caption, ...]


def _items_at(snapshot: Snapshot, positions: NDArray[np.int64]) -> list[_Item]:
    """The items that the rows at `positions` are of."""
    names = ["content_hash", "duration_seconds", "kind"]
    places = snapshot.item_of_row[positions]
    items = snapshot.live_items.select(names).take(places).to_pylist()
    paths = snapshot.first_paths(places)
    captions = snapshot.captions_of([item["content_hash"] for item in items])
    return [
        _Item(**item, path=path, captions=tuple(captions.get(item["content_hash"], ())))
        for item, path in zip(items, paths, strict=True)
    ]


def _moments_of(
    snapshot: Snapshot, scorer: Scorer, videos: Sequence[_Item]
) -> list[Iterator[Moment]]:
    """The moments of each of these videos, by falling peak."""
    scores = frame_scores(snapshot, scorer, [video.content_hash for video in videos])
    return [
        moments_of(snapshot, scorer, video.content_hash, some, video.duration_seconds)
        for video, some in zip(videos, scores, strict=True)
    ]


def _segment_at(snapshot: Snapshot, position: int, moment: Moment) -> int:
    """The segment row that holds a moment's best frame, of the video that `position` is of."""
    rows = snapshot.rows
    mine = snapshot.item_of_row == snapshot.item_of_row[position]
    segments = np.flatnonzero(mine & (rows.scope == tables.SEGMENT))
    away = np.maximum(
        rows.start_seconds[segments] - moment.best_seconds,
        moment.best_seconds - rows.end_seconds[segments] + 1e-9,  # an end is not inside
    )
    return int(segments[np.argmin(away)])


def _hit(snapshot: Snapshot, position: int, item: _Item, moment: Moment) -> Hit:
    return Hit(
        row_id=int(snapshot.rows.row_id[position]),
        path=item.path,
        kind=item.kind,
        score=moment.score,
        start_seconds=moment.start_seconds,
        end_seconds=moment.end_seconds,
        best_seconds=moment.best_seconds,
        **caption_fields(item.captions, moment.start_seconds, moment.end_seconds),
    )
