"""Measures of quality, in plain NumPy: of windows, ranks and values; knows no collection, no file.

A window is a stretch [start, end) of one video. A function here scores one query or compares
arrays; the mean over queries is the caller's, so that queries can be resampled
(`bootstrap_interval`). Shares are fractions of 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

IOU_THRESHOLDS = tuple(number / 100 for number in range(50, 100, 5))
"""0.5, 0.55, ... 0.95: those over which QVHighlights averages its mAP."""

MAX_PREDICTIONS = 10
"""Predicted windows of a query that QVHighlights' evaluation looks at."""

DIDEMO_CHUNK_SECONDS = 5.0
"""DiDeMo's annotators chose among stretches of this length."""

DIDEMO_MOMENTS = tuple((first, last) for first in range(6) for last in range(first, 6))
"""The 21 moments of a DiDeMo video of six chunks: (first chunk, last chunk), both within."""

_DIDEMO_AGREEING = 3
_WITHIN = (0, 1)  # a moment ends after its last chunk
_DRAWS_PER_BLOCK = 1 << 22


# Windows


def temporal_iou(windows: ArrayLike, others: ArrayLike) -> NDArray[np.float64]:
    """Length of the intersection over length of the union, of every window with every other.

    0 where they share no time; so an empty window has 0 with everything, itself too.

    Args:
        windows: (N, 2) starts and ends.
        others: (M, 2) the same.

    Returns:
        (N, M) float64 in 0..1.

    Raises:
        ValueError: a shape is another, or a window ends before it starts or is not finite.
    """
    a, b = _windows(windows), _windows(others)
    shared = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0])
    shared = np.maximum(shared, 0.0)  # (N, M)
    union = (a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0])[None, :] - shared
    ious: NDArray[np.float64] = np.zeros(shared.shape)
    np.divide(shared, union, out=ious, where=shared > 0)
    return ious


def first_window_iou(predicted: ArrayLike, true: ArrayLike) -> float:
    """Temporal IoU of the first predicted window with the true one that it meets best.

    The rest of QVHighlights' R1 is a mean over queries: R1@0.5 is the share of queries where this
    is 0.5 or more, mIoU its mean. Source: Lei et al., *QVHighlights: Detecting Moments and
    Highlights in Videos via Natural Language Queries* (NeurIPS 2021), "Evaluation Metrics", and the
    evaluation released with it, which compares with the best of several true windows.

    Args:
        predicted: (P, 2) best first; only the first counts. Where there is none the answer is 0.
        true: (M, 2), M >= 1.

    Raises:
        ValueError: there is no true window, or one of them is not a window.
    """
    windows, wanted = _windows(predicted), _windows(true)
    if not len(wanted):
        raise ValueError("a query without a true window cannot be scored; leave it out")
    return float(temporal_iou(windows[:1], wanted).max(initial=0.0))


def moment_average_precision(
    predicted: ArrayLike,
    scores: ArrayLike,
    true: ArrayLike,
    *,
    thresholds: Sequence[float] = IOU_THRESHOLDS,
    max_predictions: int | None = MAX_PREDICTIONS,
) -> NDArray[np.float64]:
    """Average precision of one query's predicted windows, as detections, at each IoU threshold.

    By falling score every prediction takes the free true window that it meets best, if their IoU
    reaches the threshold, and is right; else it is wrong. Each true window is taken once. AP is
    the area under precision over recall, precision being made non-increasing from the right
    (all-point interpolation, as in the PASCAL VOC challenges since 2010 and ActivityNet's detection
    evaluation). mAP@0.5 is the mean of the first column over queries, mAP the
    mean of all columns. Source: QVHighlights, as in `first_window_iou`.

    Args:
        predicted: (P, 2), in any order.
        scores: (P,) higher is better; of equal scores the earlier is better.
        true: (M, 2), M >= 1.
        thresholds: of the IoU, each above 0.
        max_predictions: only so many of the best predictions count, as published; None for all.

    Returns:
        (len(thresholds),) float64 in 0..1.

    Raises:
        ValueError: there is no true window, or the shapes do not agree.
    """
    windows, wanted = _windows(predicted), _windows(true)
    values = np.asarray(scores, np.float64)
    if values.shape != (len(windows),):
        raise ValueError(f"{len(windows)} windows but scores of shape {values.shape}")
    if not len(wanted):
        raise ValueError("a query without a true window cannot be scored; leave it out")
    order = np.argsort(-values, kind="stable")[:max_predictions]
    ious = temporal_iou(windows[order], wanted)  # (P, M)
    right = _matched(ious, np.asarray(thresholds, np.float64))  # (P, T)
    precision = np.cumsum(right, axis=0) / np.arange(1, len(right) + 1)[:, None]
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    # recall grows by one true window where a prediction is right, and nowhere else
    area: NDArray[np.float64] = (best_from_here * right).sum(axis=0) / len(wanted)
    return area


def _matched(ious: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which predictions, best first, find a true window that no better one has taken.

    Args:
        ious: (P, M) of predictions with true windows.
        thresholds: (T,); each is a game of its own.

    Returns:
        (P, T) bool.
    """
    games = np.arange(len(thresholds))
    right = np.zeros((len(ious), len(thresholds)), bool)
    is_free = np.ones((len(thresholds), ious.shape[1]), bool)
    for place in np.flatnonzero((ious >= thresholds.min(initial=1.0)).any(axis=1)):
        free = np.where(is_free, ious[place], -1.0)  # (T, M)
        best = free.argmax(axis=1)
        right[place] = free[games, best] >= thresholds
        is_free[games[right[place]], best[right[place]]] = False
    return right


def _windows(values: ArrayLike) -> NDArray[np.float64]:
    windows = np.asarray(values, np.float64)
    if windows.size == 0:
        return np.empty((0, 2))
    if windows.ndim != 2 or windows.shape[1] != 2:
        raise ValueError(f"windows of shape {windows.shape}; (N, 2) starts and ends are wanted")
    if not np.isfinite(windows).all() or (windows[:, 1] < windows[:, 0]).any():
        raise ValueError("a window is not finite or ends before it starts")
    return windows


# DiDeMo


class DidemoScore(NamedTuple):
    """How one DiDeMo query went; Rank@k is the share of queries with `rank` <= k.

    Attributes:
        rank: mean rank, from 1, of the moments that the three most favourable annotators chose.
        iou: mean IoU of the first moment with the three choices that it meets best.
    """

    rank: float
    iou: float


def didemo_score(ranked: Sequence[tuple[int, int]], chosen: ArrayLike) -> DidemoScore:
    """How well a ranking of all moments agrees with the annotators who agree with it most.

    Four or more people marked a moment each. As one of four may be an outlier, the three with the
    best ranks count, and apart from them the three with the best IoU. It is their mean rank that
    must reach k, not each of theirs; so Rank@1 needs three people who chose the same. Source:
    Hendricks et al., *Localizing Moments in Video with Natural Language* (ICCV 2017), "Evaluation
    Metrics", and the evaluation released with it.

    Args:
        ranked: moments as (first chunk, last chunk), both within, best first; none twice.
        chosen: (A, 2) the annotators' moments, A >= 3.

    Raises:
        ValueError: fewer than three annotators, or one chose a moment that is not ranked.
    """
    marks = np.asarray(chosen, np.int64)
    if marks.ndim != 2 or marks.shape[1] != 2 or len(marks) < _DIDEMO_AGREEING:
        raise ValueError(f"choices of shape {marks.shape}; at least 3 annotators' are wanted")
    place = {tuple(moment): rank for rank, moment in enumerate(ranked, 1)}
    absent = [tuple(mark) for mark in marks.tolist() if tuple(mark) not in place]
    if absent:
        raise ValueError(f"the moment {absent[0]} was chosen but is not among those ranked")
    ranks = sorted(place[tuple(mark)] for mark in marks.tolist())
    ious = np.sort(temporal_iou(np.add(ranked[:1], _WITHIN), np.add(marks, _WITHIN))[0])
    return DidemoScore(
        rank=float(np.mean(ranks[:_DIDEMO_AGREEING])), iou=float(ious[-_DIDEMO_AGREEING:].mean())
    )


def didemo_ranking(predicted: ArrayLike) -> list[tuple[int, int]]:
    """All 21 DiDeMo moments, best first, from windows in seconds, best first.

    Each window in turn names the moment that it meets best; among equals the shorter, then the
    earlier. The moments left follow by their IoU with the first window, in the same way. Windows
    that meet no moment name none.

    Args:
        predicted: (P, 2) seconds.
    """
    windows = _windows(predicted)
    moments = sorted(DIDEMO_MOMENTS, key=lambda moment: (moment[1] - moment[0], moment))
    if not len(windows):
        return moments
    seconds = np.add(moments, _WITHIN) * DIDEMO_CHUNK_SECONDS
    ious = temporal_iou(windows, seconds)  # (P, 21)
    named = ious.argmax(axis=1)[ious.max(axis=1) > 0].tolist()
    rest = np.argsort(-ious[0], kind="stable").tolist()
    return [moments[number] for number in dict.fromkeys([*named, *rest])]


# Uncertainty


def bootstrap_interval(
    values: ArrayLike,
    *,
    groups: Sequence[str] | None = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean: how far chance in the choice of queries reaches.

    Queries that share a video are right and wrong together: they are drawn together, as a group,
    else the interval would be too narrow. Sources: Efron and Tibshirani, *An Introduction to the
    Bootstrap* (1993), chapter 13; Davison and Hinkley, *Bootstrap Methods and their Application*
    (1997), section 3.8, for groups.

    Args:
        values: (Q,) one value a query, Q >= 1.
        groups: (Q,) the name of each query's group; None where each is its own.
        confidence: share of resampled means within the interval.
        num_resamples: each draws as many groups as there are, with repetition.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: there are no values, as many groups as values are not named, or `confidence` is
            not between 0 and 1.
    """
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or not len(sample):
        raise ValueError(f"values of shape {sample.shape}; one a query, and at least one")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must be between 0 and 1")
    group = np.arange(len(sample))
    if groups is not None:
        group = np.unique(np.asarray(groups, object).astype(str), return_inverse=True)[1]
    if len(group) != len(sample):
        raise ValueError(f"{len(sample)} values but {len(group)} names of groups")
    sums, sizes = np.bincount(group, sample), np.bincount(group)
    random = np.random.default_rng(seed)
    block = max(1, _DRAWS_PER_BLOCK // len(sums))
    means: list[NDArray[np.float64]] = []
    for first in range(0, num_resamples, block):
        drawn = random.integers(len(sums), size=(min(block, num_resamples - first), len(sums)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)
