"""Items by their captions: by words, by the captions' embeddings, and fused with vectors.

Rankings are fused by reciprocal rank (Cormack, Clarke and Büttcher, *Reciprocal Rank Fusion
outperforms Condorcet and individual Rank Learning Methods*, SIGIR 2009): an item gets 1 / (60 + its
rank) of each ranking that holds it. The score of a hit is that sum divided by the largest there can
be, so that 1 is first in both. A ranking is looked at down to ten times as many items as are
wanted, and 100 at least.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from perception_search import where
from perception_search.caption_words import CaptionWords
from perception_search.errors import PerceptionSearchWarning, QueryError
from perception_search.hits import Hit, Hits, caption_fields
from perception_search.media import display
from perception_search.scoring import Target
from perception_search.snapshot import Caption, Snapshot

By: TypeAlias = Literal["vectors", "words", "captions", "hybrid"]
Embed: TypeAlias = Callable[[Sequence[str]], NDArray[np.float32]]


RRF_K = 60
RANKED_PER_HIT = 10
MIN_RANKED = 100

_MANY = 1000
_TEXTS_AT_ONCE = 256


class CaptionSearcher:
    """Searches the captions of versions of one collection; what they need is kept in between.

    Args:
        embed: texts to unit embeddings (N, dim); what was embedded before costs nothing. None
            where captions are searched by their words alone.
    """

    def __init__(self, embed: Embed | None) -> None:
        self._embed = embed
        self._files: list[str] | None = None
        self._words: CaptionWords | None = None
        self._embeddings: NDArray[np.float32] | None = None

    def search(
        self,
        snapshot: Snapshot,
        targets: Sequence[Target],
        by: By,
        by_vectors: Callable[..., list[Hits]],
        *,
        k: int,
        condition: str | None = None,
        min_score: float | None = None,
        moments: bool = False,
        relevant: float | None = None,
        normalised: bool = False,
        **how: Any,
    ) -> list[Hits]:
        """For each target the best `k` items, best first.

        Args:
            snapshot: what to search.
            targets: what to look for; each must have words.
            by: `words`, `captions` or `hybrid`.
            by_vectors: `search.search_many`, where rankings are fused.
            k: items wanted, at least 1.
            condition: a filter over the item columns, in SQL.
            min_score: leave out what scores below this.
            moments: not possible here.
            relevant: neither.
            normalised: neither.
            how: what else `by_vectors` takes.

        Raises:
            ValueError: `by` is none of these, or `k` is below 1.
            QueryError: there are no captions, a target has no words, or moments are asked for.
        """
        if by not in get_args(By):
            raise ValueError(f"by is {by!r}; it must be one of {', '.join(get_args(By))}")
        if k < 1:
            raise ValueError(f"k is {k}; it must be at least 1")
        if moments:
            raise QueryError(
                "captions find items, not moments of videos: leave out either the captions "
                "(by, --hybrid) or the moments."
            )
        if relevant is not None or normalised:
            raise QueryError(
                "how relevant a hit is, is told of vectors alone: leave out either the captions "
                "(by, --hybrid) or --relevant, --false-alarms and --normalised."
            )
        if not all(target.words.strip() for target in targets):
            raise QueryError("captions are searched by words; give words too, not pictures alone.")
        if not snapshot.manifest.of("captions"):
            folder = display(snapshot.folder)
            raise QueryError(
                f"{folder} holds no captions. Take in your own with: perception-search caption "
                f"{folder} --from-csv captions.csv"
            )
        self._prepare(snapshot, by)
        depth = max(MIN_RANKED, RANKED_PER_HIT * k) if by == "hybrid" else k
        allowed = None if condition is None else where.matching(snapshot.shown_items, condition)
        scores = [self._scores(target, by) for target in targets]
        floor = -np.inf if by == "captions" else 0.0
        many = [_best_items(snapshot, some, floor, allowed, depth) for some in scores]
        if by == "hybrid":
            pictures = by_vectors(snapshot, targets, k=depth, condition=condition, **how)
            many = [_fused(*both, k) for both in zip(pictures, many, strict=True)]
        return [
            Hits(hit for hit in hits if min_score is None or hit.score >= min_score)
            for hits in many
        ]

    def _prepare(self, snapshot: Snapshot, by: By) -> None:
        """Have what these captions are searched with: opened, or made for another version."""
        files = [file.sha256 for file in snapshot.manifest.of("captions")]
        if files != self._files:
            self._files, self._words, self._embeddings = files, None, None
        if by == "captions":
            if self._embeddings is None:
                texts = snapshot.captions["text"].to_pylist()
                self._embeddings = self._embedded(texts)
        elif self._words is None:
            self._words = CaptionWords(snapshot)

    def _scores(self, target: Target, by: By) -> NDArray[np.float32]:
        if by == "captions":
            assert self._embeddings is not None
            return self._embeddings @ target.embedding
        assert self._words is not None
        return self._words.scores(target.words)

    def _embedded(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self._embed is None:
            raise ValueError("captions were to be searched by their words alone")
        if len(texts) > _MANY:
            warnings.warn(
                f"{len(texts)} captions are embedded where that has not been done before; "
                f"it can be stopped, and goes on where it was.",
                PerceptionSearchWarning,
                stacklevel=6,
            )
        firsts = range(0, len(texts), _TEXTS_AT_ONCE)
        return np.concatenate([self._embed(texts[at : at + _TEXTS_AT_ONCE]) for at in firsts])


def _best_items(
    snapshot: Snapshot,
    scores: NDArray[np.float32],
    floor: float,
    allowed: NDArray[np.bool_] | None,
    k: int,
) -> Hits:
    """The best `k` items whose best caption scores above `floor`; of equals the first stored.

    Args:
        snapshot: the version.
        scores: of every caption.
        floor: what does not count.
        allowed: which live items may be found; None for all.
        k: items wanted.
    """
    item_of_caption = snapshot.item_of_caption
    may_be_found = (item_of_caption >= 0) & (scores > floor)
    if allowed is not None:
        may_be_found[may_be_found] = allowed[item_of_caption[may_be_found]]
    places = np.flatnonzero(may_be_found)
    places = places[np.lexsort((places, -scores[places]))]
    _, first = np.unique(item_of_caption[places], return_index=True)
    best = places[np.sort(first)[:k]]
    return Hits(_hits(snapshot, best, scores[best].tolist()))


def _hits(snapshot: Snapshot, places: NDArray[np.int64], scores: Sequence[float]) -> Iterable[Hit]:
    """A hit a caption, in order: a video's with the caption's times, or else those of all of it."""
    names = ["content_hash", "duration_seconds", "kind"]
    items = snapshot.item_of_caption[places]
    found = snapshot.live_items.select(names).take(items).to_pylist()
    paths = snapshot.first_paths(items)
    row_ids = _first_rows(snapshot, items)
    captions = snapshot.captions.select(Caption._fields).take(places).to_pylist()
    for score, item, path, row_id, fields in zip(
        scores, found, paths, row_ids, captions, strict=True
    ):
        caption = Caption(**fields)
        shown = caption_fields([caption])
        if item["kind"] == "image":
            yield Hit(row_id, path, item["kind"], score, **shown)
            continue
        start = caption.start_seconds or 0.0
        end = caption.end_seconds or item["duration_seconds"] or start
        yield Hit(row_id, path, item["kind"], score, start, end, (start + end) / 2, **shown)


def _first_rows(snapshot: Snapshot, items: NDArray[np.int64]) -> list[int]:
    """The id of the first row that a search ranks of each of these items."""
    owners = snapshot.item_of_row[snapshot.searchable]
    mine = np.flatnonzero(np.isin(owners, items))
    positions = snapshot.searchable[mine]
    first: dict[int, int] = {}
    for owner, row_id in zip(
        owners[mine].tolist(), snapshot.rows.row_id[positions].tolist(), strict=True
    ):
        first.setdefault(owner, row_id)
    return [first[item] for item in items.tolist()]


def _fused(vectors: Hits, words: Hits, k: int) -> Hits:
    """The best `k` items of two rankings, by reciprocal rank; of equals the better by vectors.

    A hit has the times that vectors found, where they found it, and the caption that words found.
    """
    vector_ranks: dict[Path, int] = {hit.path: rank for rank, hit in enumerate(vectors, 1)}
    word_ranks: dict[Path, int] = {hit.path: rank for rank, hit in enumerate(words, 1)}
    by_words = {hit.path: hit for hit in words}
    fused = []
    for hit in [*vectors, *(hit for hit in words if hit.path not in vector_ranks)]:
        ranks = vector_ranks.get(hit.path), word_ranks.get(hit.path)
        total = sum(1 / (RRF_K + rank) for rank in ranks if rank is not None)
        named = by_words.get(hit.path, hit)
        fused.append(
            replace(
                hit,
                score=total * (RRF_K + 1) / len(ranks),
                caption=named.caption,
                caption_model=named.caption_model,
                caption_licence=named.caption_licence,
                vector_rank=ranks[0],
                word_rank=ranks[1],
            )
        )
    fused.sort(key=lambda hit: -hit.score)  # stable: those by vectors stand first
    return Hits(fused[:k])
