"""Zero-shot measures as PE's evaluation computes them, from embeddings alone; knows no file.

Source: `apps/pe/clip_benchmark` of perception_models, which is CLIP_benchmark with re-weighted
retrieval (a dual softmax over the whole set of queries) and, since December 2025, captions that
share their pictures when they are equal. Shares are fractions of 1.

Ties are decided by position: of candidates with equal scores the earlier ranks higher.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Rule: TypeAlias = Literal["own", "shared"]
RULES: tuple[Rule, ...] = ("own", "shared")
Kind: TypeAlias = Literal["image", "video"]
KS = (1, 5, 10)

_LOGIT_SCALE = 100.0
_ROWS_TURNED = 64
_CELLS_AT_ONCE = 1 << 19  # 2 MB of scores: they stay in a processor's cache


def unit(embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows (N, dim) of unit length, float32."""
    embeddings = embeddings.astype(np.float32)
    unit_rows: NDArray[np.float32] = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return unit_rows


# Retrieval


def right_media(
    captions: Sequence[str], owner: NDArray[np.int64], rule: Rule
) -> list[NDArray[np.int64]]:
    """For each caption the positions of the media that are right for it.

    Args:
        captions: the texts.
        owner: (N,) position of each caption's own picture or video.
        rule: `own` takes a caption's own alone, as when PE's table was published; `shared` takes
            the media of all captions that read the same, as the reference does by now.

    Raises:
        ValueError: there is no such rule, or not one owner a caption.
    """
    if rule not in RULES:
        raise ValueError(f"rule {rule!r}; it must be one of {', '.join(RULES)}")
    if len(captions) != len(owner):
        raise ValueError(f"{len(captions)} captions and {len(owner)} owners; there must be as many")
    if rule == "own":
        return [np.array([one], np.int64) for one in owner.tolist()]
    media: dict[str, set[int]] = {}
    for caption, one in zip(captions, owner.tolist(), strict=True):
        media.setdefault(caption, set()).add(one)
    return [np.array(sorted(media[caption]), np.int64) for caption in captions]


def right_captions(right: Sequence[NDArray[np.int64]], num_media: int) -> list[NDArray[np.int64]]:
    """For each picture or video the positions of the captions that are right for it.

    Args:
        right: of each caption the right media.
        num_media: how many there are.
    """
    captions: list[list[int]] = [[] for _ in range(num_media)]
    for caption, media in enumerate(right):
        for one in media.tolist():
            captions[one].append(caption)
    return [np.array(some, np.int64) for some in captions]


def ranks(
    scores: NDArray[np.float32],
    *rights: Sequence[NDArray[np.int64]],
    reweight: float | None = 1.0,
) -> list[NDArray[np.int64]]:
    """For each query the rank (Q,), from 1, of the best of its right candidates.

    Re-weighted by a scale c a score s becomes c s * exp(c s) / sum of exp(c s) over all queries: a
    candidate that lies near every query is worth less to each. This needs the whole set of
    queries, so no search of one query can have it; published figures of PE do.

    Args:
        scores: (Q, C) products of queries and candidates of unit length, or means of unit frames.
        rights: by one rule or several, of each query the positions of its right candidates, one
            at least; the ranks are returned rule by rule.
        reweight: the scale, 1 in PE's evaluation; None for the products as they are.

    Raises:
        ValueError: a query has no right candidate.
    """
    if any(len(right) != len(scores) or not all(map(len, right)) for right in rights):
        raise ValueError("every query needs a right candidate; leave out those that have none")
    log_sums = None if reweight is None else _log_sums(scores, reweight)
    found = [np.zeros(len(scores), np.int64) for _ in rights]
    for place, part in _stretches(scores):
        if reweight is not None and log_sums is not None:
            scaled = part * np.float32(reweight)
            part = scaled * np.exp(scaled - log_sums)
        for number, row in enumerate(part, place.start):
            for right, rank in zip(rights, found, strict=True):
                rank[number] = _rank(row, np.sort(right[number]))
    return found


def _rank(row: NDArray[np.float32], right: NDArray[np.int64]) -> int:
    best = right[np.argmax(row[right])]
    higher = np.count_nonzero(row > row[best])
    return int(1 + higher + np.count_nonzero(row[:best] == row[best]))


def recall(found: NDArray[np.int64], k: int) -> float:
    """The share of queries with a right candidate among the first `k`."""
    return float(np.mean(found <= k))


def recalls(
    of_texts: NDArray[np.int64],
    of_media: NDArray[np.int64],
    *,
    kind: Kind = "image",
    ks: Sequence[int] = KS,
) -> dict[str, float]:
    """Recall both ways, by CLIP_benchmark's names.

    `image_retrieval_recall@k` (or `video_...`) is of texts that look for pictures,
    `text_retrieval_recall@k` of pictures that look for texts.

    Args:
        of_texts: the ranks of texts that look for media.
        of_media: the ranks of media that look for texts.
        kind: what the media are.
        ks: how far to look.
    """
    ways = {f"{kind}_retrieval_recall": of_texts, "text_retrieval_recall": of_media}
    return {f"{way}@{k}": recall(found, k) for k in ks for way, found in ways.items()}


def _stretches(scores: NDArray[np.float32]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """A stretch of rows after the other, each in one piece of memory."""
    at_once = max(1, _CELLS_AT_ONCE // max(1, scores.shape[1]))
    for first in range(0, len(scores), at_once):
        part = np.ascontiguousarray(scores[first : first + at_once])
        yield slice(first, first + len(part)), part


def transposed(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scores the other way round, (C, Q), in one piece of memory as `ranks` is fast with."""
    turned = np.empty(scores.shape[::-1], scores.dtype)
    for first in range(0, len(scores), _ROWS_TURNED):  # all at once misses the cache
        turned[:, first : first + _ROWS_TURNED] = scores[first : first + _ROWS_TURNED].T
    return turned


def _log_sums(scores: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """For each candidate the logarithm of the sum of exp(scale * score) over all queries."""
    highest = np.full(scores.shape[1], -np.inf)
    sums = np.zeros(scores.shape[1])
    for _, part in _stretches(scores):
        scaled = part * np.float32(scale)
        top = np.maximum(highest, scaled.max(axis=0))
        sums = sums * np.exp(highest - top)
        sums += np.exp(scaled - top.astype(np.float32)).sum(axis=0, dtype=np.float64)
        highest = top
    log_sums: NDArray[np.float32] = (highest + np.log(sums)).astype(np.float32)
    return log_sums


# Classification


def classifier(texts: NDArray[np.floating]) -> NDArray[np.float32]:
    """(classes, dim), of unit length: the mean over templates of unit embeddings.

    Args:
        texts: (classes, templates, dim), of any length.
    """
    return unit(unit(texts).mean(axis=1))


def class_ranks(
    media: NDArray[np.floating], classes: NDArray[np.float32], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The rank (N,), from 1, of each one's right class by the products of unit vectors.

    Args:
        media: (N, dim), of any length.
        classes: (classes, dim), from `classifier`.
        labels: (N,) the right class of each.

    Raises:
        ValueError: a label is no class, or there is nothing to classify.
    """
    if not len(labels) or labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(f"labels must be 0 to {len(classes) - 1}, one for each of the media")
    found = np.zeros(len(labels), np.int64)
    for place, some in _stretches(unit(media)):
        own = labels[place]
        logits = _LOGIT_SCALE * (some @ classes.T)
        mine = logits[np.arange(len(own)), own][:, None]
        earlier = np.arange(len(classes)) < own[:, None]
        found[place] = 1 + ((logits > mine) | ((logits == mine) & earlier)).sum(axis=1)
    return found


def accuracies(
    found: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int
) -> dict[str, float]:
    """`acc1`, `acc5` (nan below five classes) and `mean_per_class_recall`, as CLIP_benchmark.

    The last is the mean, over the classes that occur, of the share of their media given to them.

    Args:
        found: (N,) from `class_ranks`.
        labels: (N,) the right class of each.
        num_classes: how many there are.
    """
    right = found == 1
    per_class = _means_by(right, labels)
    return {
        "acc1": float(right.mean()),
        "acc5": float((found <= 5).mean()) if num_classes >= 5 else float("nan"),
        "mean_per_class_recall": float(np.mean(list(per_class.values()))),
    }


def classification(
    media: NDArray[np.floating], classes: NDArray[np.float32], labels: NDArray[np.int64]
) -> dict[str, float]:
    """`accuracies` of media (N, dim) by `class_ranks`."""
    return accuracies(class_ranks(media, classes, labels), labels, len(classes))


def _means_by(values: NDArray[np.bool_], groups: NDArray[np.int64]) -> Mapping[int, float]:
    return {group: float(values[groups == group].mean()) for group in np.unique(groups).tolist()}
