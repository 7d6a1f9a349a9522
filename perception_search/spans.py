"""From the scores of a video's frames to its spans: the stretches that show what is asked for.

The method, on the frame scores of the time grid:

1. Scores are smoothed over neighbouring frames with the weights 1, 2, 1.
2. A span's level is half-way between the highest smoothed score and the mean of the lower half of
   the video's: its full width at half maximum, as one measures a peak. The mean of all would be
   too high where a moment fills much of its video, the lowest score too low after a black frame.
3. The span is the stretch with the largest sum of (score - level), found exactly by prefix sums
   in one pass (Bentley's maximum subarray): neighbours above the level join, and a dip between
   two peaks is bridged where what follows makes up for it. Smoothing wears its edges down: it
   grows by the frames beside it whose own scores are above the level.
4. The slopes on both sides of it, down to the next valley, belong to no other span. In what is
   left, the next span is looked for in the same way, until nothing rises above the mean.

So spans of a video never overlap. An edge moves to a cut of the picture where there is one between
the last frame outside the span and the first inside.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_KERNEL = np.array([1.0, 2.0, 1.0])
_TINY = 1e-4  # float16 embeddings of one still scatter by less


class Span(NamedTuple):
    """Frames `first` up to, not including, `stop` of a video's time grid, and their best score."""

    first: int
    stop: int
    peak: float = 0.0


def smooth(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scores (T,) averaged with their neighbours, 1 : 2 : 1; at the ends with what is there."""
    if len(scores) < 3:
        return scores.astype(np.float64)
    weights = np.convolve(np.ones(len(scores)), _KERNEL, "same")
    return np.convolve(scores.astype(np.float64), _KERNEL, "same") / weights


def lower_mean(scores: NDArray[np.float64]) -> float:
    """The mean of the lower half of scores (T,), the middle one included."""
    return float(np.sort(scores)[: (len(scores) + 1) // 2].mean())


def find_spans(scores: NDArray[np.floating]) -> Iterator[Span]:
    """The spans of a video, each looked for when it is asked for; they do not overlap.

    That of the highest peak comes first, and so on; `peak` is of the smoothed scores. There is
    always one; in a video that looks the same throughout it is all of it.

    Args:
        scores: (T,) of the frames of its time grid, in order; T >= 1.
    """
    smoothed = smooth(scores)
    mean, background = float(smoothed.mean()), lower_mean(smoothed)
    if smoothed.max() - mean < _TINY:
        yield Span(0, len(smoothed), float(smoothed.max()))
        return
    free = [Span(0, len(smoothed))]
    while free:
        peaks = [smoothed[part.first : part.stop].max() for part in free]
        best = int(np.argmax(peaks))
        if peaks[best] - mean < _TINY:
            break
        part = free.pop(best)
        level = (peaks[best] + background) / 2
        span = _grown(_largest_sum(smoothed, part, level), scores > level, part)
        yield span._replace(peak=float(peaks[best]))
        left = part.first, span.first - _slope(smoothed[part.first : span.first][::-1])
        right = span.stop + _slope(smoothed[span.stop : part.stop]), part.stop
        free += [Span(*side) for side in (left, right) if side[0] < side[1]]


def _largest_sum(smoothed: NDArray[np.float64], part: Span, level: float) -> Span:
    """The stretch of `part` with the largest sum over `level`; among equals the shortest."""
    sums = np.concatenate([[0.0], np.cumsum(smoothed[part.first : part.stop] - level)])
    lowest = np.minimum.accumulate(sums[:-1])
    stop = int(np.argmax(sums[1:] - lowest)) + 1
    first = int(np.flatnonzero(sums[:stop] == lowest[stop - 1])[-1])
    return Span(part.first + first, part.first + stop)


def _grown(span: Span, is_above: NDArray[np.bool_], part: Span) -> Span:
    """The span with the frames of `part` on both sides that are above the level, up to the first
    that is not.
    """
    first, stop, _ = span
    while first > part.first and is_above[first - 1]:
        first -= 1
    while stop < part.stop and is_above[stop]:
        stop += 1
    return Span(first, stop)


def _slope(away: NDArray[np.float64]) -> int:
    """How many frames, going away from a span, belong to its slope: up to the first that rises."""
    rises = np.flatnonzero(np.diff(away) > 0)
    return int(rises[0]) + 1 if len(rises) else len(away)


def edges(
    span: Span,
    pts_seconds: NDArray[np.float64],
    end_seconds: float,
    cuts: Sequence[float] = (),
) -> tuple[float, float]:
    """The times [start, end) of a span.

    Args:
        span: its frames.
        pts_seconds: (T,) times of the grid frames.
        end_seconds: where the video ends.
        cuts: when its picture changes at once, ascending.
    """
    inside = float(pts_seconds[span.first])
    start = inside
    if span.first > 0:
        before = int(np.searchsorted(cuts, inside, side="right")) - 1
        if before >= 0 and cuts[before] > pts_seconds[span.first - 1]:
            start = float(cuts[before])
    if span.stop == len(pts_seconds):
        return start, max(end_seconds, inside)
    after = int(np.searchsorted(cuts, pts_seconds[span.stop - 1], side="right"))
    outside = float(pts_seconds[span.stop])
    is_cut = after < len(cuts) and cuts[after] <= outside
    return start, float(cuts[after]) if is_cut else outside
