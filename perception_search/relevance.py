"""Whether a hit is an answer at all: its score beside what everyday captions get there.

A cosine alone does not say. Some rows are near to every caption, and some captions near to every
row. So two things are taken away:

- of each row its bank score b, the soft mean of its cosines with a fixed bank of captions,
  log(mean of exp(beta * cosine)) / beta, as in QB-Norm (Bogolin et al., *Cross Modal Retrieval
  with Querybank Normalisation*, CVPR 2022). beta is 2 / the deviation of those cosines.
- of each query how it usually does here: with n = cosine - b, the score is
  z = (n - mean of n) / deviation of n over the collection's rows.

What z is worth is told by the bank's own captions, each a query that nobody wrote for this
collection: the relevance of a hit is the share of them whose best row has a lower z. Who keeps hits
of a relevance of 1 - r or more lets a share r of everyday captions find something. On COCO
photographs, with the starter, about as many captions found something whose own picture had been
taken out: 3 % at r = 0.05, 23 % at 0.2.

Chosen by cross-validation over those photographs (`benchmarks/bench_relevance.py` prints all): of
raw cosines, z of cosines, QB-Norm with several betas and z of those, the last in every fold, and
this beta in most. It says whether a hit is an answer. To rank by n instead of the cosine found less
there (16.6 % of the right pictures first, not 17.3 %), so hits are ranked so on request only.

All of it is derived: rows that come are measured when it is next needed, and the file may be
deleted at any time.
"""

import contextlib
import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_search import caption_bank, durable, tables
from perception_search.assets import cache_folder
from perception_search.hits import Hits
from perception_search.snapshot import Snapshot
from perception_search.text_cache import TextCache

USUAL_RATE = 0.2
"""Of everyday captions that find something, where no other share is asked for."""
SHARPNESS = 2.0
"""beta in units of the deviation of the bank's cosines."""
SAMPLE_ROWS = 4096
"""Rows, evenly spread, over which a query's mean and deviation are taken."""
NORMALISED_DEPTH = 200
"""Hits by cosine among which the best by n are looked for; 20 for each that is wanted, if more."""
GONE_SHARE = 0.01
"""When more rows than this are gone, all is measured anew: the bank's best may be among them."""

OnProgress: TypeAlias = Callable[[str, int, int], None]

_FORMAT = "1"
_CAPTIONS_AT_ONCE = 128
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Measured:
    """What the bank's captions get in a collection.

    Attributes:
        beta: how sharp the soft mean is.
        row_id: (N,) of the rows that were measured, ascending.
        bank_score: (N,) float32, b of each.
        best: (C,) float32, the highest n that each caption of the bank reaches.
    """

    beta: float
    row_id: NDArray[np.int64]
    bank_score: NDArray[np.float32]
    best: NDArray[np.float32]


class Judge:
    """Tells of hits in one version of a collection how relevant they are.

    Attributes:
        version: the collection's.
        bank: (C, dim) unit embeddings of the bank's captions.
    """

    def __init__(self, snapshot: Snapshot, measured: Measured, bank: NDArray[np.float32]) -> None:
        self.version = snapshot.version
        self.bank = bank
        self._measured = measured
        sample = _sample(snapshot)
        self._rows = snapshot.rows.embeddings(sample)
        self._row_scores = self.bank_scores(snapshot.rows.row_id[sample])
        mean, deviation = self._usual(bank)
        self._best = np.sort((measured.best - mean) / deviation)

    def bank_scores(self, row_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """The bank scores (N,) of the rows with these ids."""
        place = np.searchsorted(self._measured.row_id, row_ids)
        scores: NDArray[np.float32] = self._measured.bank_score[place]
        return scores

    def normalised(self, hits: Hits) -> NDArray[np.float32]:
        """The scores (N,) of hits less the bank scores of their rows: n."""
        scores = np.array([hit.score for hit in hits], np.float32)
        return scores - self.bank_scores(np.array([hit.row_id for hit in hits], np.int64))

    def shares(
        self, queries: NDArray[np.float32], normalised: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """The relevance (Q,) of a row for each query, or (N,) of rows for one query.

        Args:
            queries: (Q, dim) unit length.
            normalised: n of each one's row (Q,), or of the rows (N,) where there is one query.
        """
        mean, deviation = self._usual(queries)
        shares: NDArray[np.float64] = np.searchsorted(
            self._best, (normalised - mean) / deviation
        ) / len(self._best)
        return shares

    def judged(self, query: NDArray[np.float32], hits: Hits) -> Hits:
        """The hits with their relevance, in the same order.

        Args:
            query: (dim,) unit length, what was looked for.
            hits: what was found, by cosine.
        """
        if not hits:
            return hits
        shares = self.shares(query[None], self.normalised(hits))
        return Hits(
            replace(hit, relevance=share) for hit, share in zip(hits, shares.tolist(), strict=True)
        )

    def chosen(
        self, query: NDArray[np.float32], hits: Hits, k: int, rate: float, *, by_n: bool
    ) -> Hits:
        """Of hits the best `k`, less those that are not relevant.

        Args:
            query: (dim,) unit length, what was looked for.
            hits: what was found, best cosine first.
            k: how many at most.
            rate: see above; 1 leaves none out.
            by_n: rank by n, not by cosine.
        """
        if by_n:
            order = np.argsort(-self.normalised(hits), kind="stable")
            hits = Hits(hits[place] for place in order.tolist())
        judged = self.judged(query, Hits(hits[:k]))
        return Hits(hit for hit in judged if rate >= 1 or (hit.relevance or 0) >= 1 - rate)

    def _usual(
        self, queries: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and deviation (Q,) of n over the sample, of each query."""
        scores = queries @ self._rows.T - self._row_scores
        return scores.mean(axis=1), np.maximum(scores.std(axis=1), 1e-6)


def judge(
    folder: Path,
    snapshot: Snapshot,
    encode_text: Callable[[Sequence[str]], NDArray[np.float32]],
    on_progress: OnProgress | None = None,
) -> Judge | None:
    """A judge of this version; None where nothing can be found.

    Measures the rows that are new, and stores that; a folder that cannot be written, or a file
    that is damaged, costs time only.

    Args:
        folder: where it is kept, made when needed.
        snapshot: the version.
        encode_text: gives unit embeddings of texts that were not embedded before.
        on_progress: called with (captions or rows, done, in all).
    """
    if not len(snapshot.searchable):
        return None
    tower = str(snapshot.manifest.collection["identity"]["text_sha256"])
    bank = _bank(tower, snapshot.dim, encode_text, on_progress)
    said = f"{_FORMAT} {SHARPNESS:g} {tower} {caption_bank.sha256()}"
    key = hashlib.sha256(said.encode()).hexdigest()
    path = folder / f"relevance-{key[:32]}.bin"
    known = _read(path)
    measured = measure(snapshot, bank, known, on_progress)
    if known is None or not np.array_equal(known.row_id, measured.row_id):
        _write(path, measured)
    return Judge(snapshot, measured, bank)


def _bank(
    tower: str,
    dim: int,
    encode_text: Callable[[Sequence[str]], NDArray[np.float32]],
    on_progress: OnProgress | None,
) -> NDArray[np.float32]:
    """Unit embeddings (C, dim) of the bank's captions, kept for all collections of a text tower."""
    with contextlib.suppress(OSError):  # a disk that only reads: no cache
        cache_folder().mkdir(parents=True, exist_ok=True)
    cache = TextCache(cache_folder() / "caption_bank.sqlite", tower, dim)
    captions, parts = caption_bank.captions(), []
    for first in range(0, len(captions), _CAPTIONS_AT_ONCE):
        parts.append(cache.encode(captions[first : first + _CAPTIONS_AT_ONCE], encode_text))
        if on_progress is not None:
            on_progress("captions", min(first + _CAPTIONS_AT_ONCE, len(captions)), len(captions))
    return np.concatenate(parts)


def measure(
    snapshot: Snapshot,
    bank: NDArray[np.float32],
    known: Measured | None = None,
    on_progress: OnProgress | None = None,
) -> Measured:
    """Measure the rows that are not known yet.

    Args:
        snapshot: the collection's.
        bank: (C, dim) unit embeddings of the bank's captions.
        known: what was measured before.
        on_progress: called with ("rows", measured, to measure).
    """
    rows = snapshot.rows
    live = np.flatnonzero(snapshot.item_of_row >= 0)
    live_ids = rows.row_id[live]
    if known is not None:
        gone = ~np.isin(known.row_id, live_ids)
        if gone.mean() > GONE_SHARE:
            known = None
    if known is None:
        cosines = rows.embeddings(_sample(snapshot)) @ bank.T
        none = np.zeros(0, np.int64), np.zeros(0, np.float32)
        beta = SHARPNESS / max(float(cosines.std()), 1e-6)
        known = Measured(beta, *none, np.full(len(bank), -np.inf, np.float32))
    new = live[~np.isin(live_ids, known.row_id)]
    bank_score, best = np.empty(len(new), np.float32), known.best.copy()
    is_searched = np.isin(rows.scope, tables.SEARCHED)
    at_once = max(1, (1 << 24) // len(bank))
    for first in range(0, len(new), at_once):
        some = new[first : first + at_once]
        cosines = rows.embeddings(some) @ bank.T  # (rows, captions)
        scores = soft_means(cosines, known.beta)
        bank_score[first : first + len(some)] = scores
        found = (cosines - scores[:, None])[is_searched[some]]
        best = np.maximum(best, found.max(axis=0, initial=-np.inf))
        if on_progress is not None:
            on_progress("rows", first + len(some), len(new))
    row_id = np.concatenate([known.row_id, rows.row_id[new]])
    order = np.argsort(row_id)
    every = np.concatenate([known.bank_score, bank_score])
    return Measured(known.beta, row_id[order], every[order], best)


def soft_means(cosines: NDArray[np.float32], beta: float) -> NDArray[np.float32]:
    """log(mean of exp(beta * cosine)) / beta of each row (N, C)."""
    scaled = cosines * np.float32(beta)
    highest = scaled.max(axis=1, keepdims=True)
    means = np.log(np.exp(scaled - highest).mean(axis=1, keepdims=True))
    soft: NDArray[np.float32] = ((highest + means)[:, 0] / np.float32(beta)).astype(np.float32)
    return soft


def _sample(snapshot: Snapshot) -> NDArray[np.int64]:
    positions = snapshot.searchable
    return positions[:: max(1, len(positions) // SAMPLE_ROWS)]


def _read(path: Path) -> Measured | None:
    """What was stored; None where there is none, or it is damaged."""
    try:
        content = path.read_bytes()
        payload = content[_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() != content[:_DIGEST_BYTES]:
            return None
        with np.load(io.BytesIO(payload)) as arrays:
            beta = float(arrays["beta"])
            return Measured(beta, arrays["row_id"], arrays["bank_score"], arrays["best"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _write(path: Path, measured: Measured) -> None:
    """Store it; a disk that only reads, or is full, costs time only."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        beta=measured.beta,
        row_id=measured.row_id,
        bank_score=measured.bank_score,
        best=measured.best,
    )
    payload = buffer.getvalue()
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        durable.write(path, hashlib.sha256(payload).digest() + payload)
