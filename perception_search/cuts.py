"""Where a film cuts from one shot to the next, from one tiny signature a frame, in one pass.

The method. Two pictures are as far apart as the brightness and colours of their 9 x 16 blocks and
their histograms are. At a cut every picture of the half second before is far from every picture
after it, and those on one side are near each other: the *least* distance across is compared with
the *greatest* distance on either side. So nothing that goes on for more than a moment makes cuts:

- a pan, a shake, a fade or a busy picture moves as much on either side as across;
- after a flash the picture before it comes back: some picture across is near;
- a cut with a few mixed frames in it, as a change of frame rate makes them, is found by leaving
  up to `_MAX_BETWEEN` frames out of both sides. It is one cut; so are two that near.

A slow dissolve makes no cut. Memory does not grow with the film. Knows no decoder and no file.
"""

import numpy as np
from numpy.typing import NDArray

SIGNATURE_SHAPE = (18, 32)
"""Rows and columns of the brightness part of a signature; a colour part has half of each."""

SIGNATURE_BYTES = 18 * 32 + 2 * 9 * 16

GREY = 128
"""A colour difference of no colour."""

MAX_CUTS = 20_000
"""No film has more; what comes after is left out."""

_SIDE = 5  # frames on either side that are compared
_MIN_SIDE = 3  # at the ends of a film: less could be a flash
_MAX_BETWEEN = 3  # mixed frames
_REACH = _SIDE + _MAX_BETWEEN
_AWAY = _MAX_BETWEEN + 1
_BATCH = 64

_BLOCK_WEIGHT = 0.6  # of a mean difference in levels of 255
_COLOUR_WEIGHT = 2.0  # colours span less than brightness does
_HISTOGRAM_WEIGHT = 10.0  # of a share of the picture, for each of three histograms
_LEAST_MOTION = 4.0  # as much moves in any film, or might by compression
_LEAST_DISTANCE = 8.0
_RATIOS = (1.2, 1.7, 2.1, 2.5)  # by frames left out: a quick motion, too, is over in a few
# What the greatest step must be of the motion: the way across is as many steps as frames left out
# and one more.
_STEP_SHARE = min(ratio / (left_out + 1) for left_out, ratio in enumerate(_RATIOS))

_ROWS, _COLUMNS = 9, 16
_NUM_BLOCKS = _ROWS * _COLUMNS
_NUM_LUMA = 18 * 32
_NUM_COLOUR = 9 * 16
_NUM_BINS = 32


class CutFinder:
    """Finds the cuts of one film; fed frame by frame."""

    def __init__(self) -> None:
        self._batch = np.zeros((_BATCH, SIGNATURE_BYTES), np.uint8)
        self._num_waiting = 0
        self._features = np.zeros((0, 3 * (_NUM_BLOCKS + _NUM_BINS)), np.float32)
        self._pts_seconds: list[float] = []  # of what has features, then of what waits
        self._next = 0  # the first of the frames with features that was not judged
        self._times: list[float] = []

    def feed(self, signature: NDArray[np.uint8], pts_seconds: float) -> None:
        """Takes the next frame in the order of showing.

        Args:
            signature: uint8 (SIGNATURE_BYTES,), points of the picture on even grids, row by row:
                brightness, `SIGNATURE_SHAPE`; then each of two colour differences, half as high
                and wide (`GREY` throughout where there is no colour).
            pts_seconds: when it appears.
        """
        if len(self._times) >= MAX_CUTS:
            return
        self._batch[self._num_waiting] = signature
        self._pts_seconds.append(pts_seconds)
        self._num_waiting += 1
        if self._num_waiting == _BATCH:
            self._judge(is_over=False)

    def times(self) -> tuple[float, ...]:
        """The times of the first frames of new shots, ascending; once all frames are fed."""
        self._judge(is_over=True)
        return tuple(self._times)

    def _judge(self, *, is_over: bool) -> None:
        if self._num_waiting:
            new = _features(self._batch[: self._num_waiting])
            self._features = np.concatenate([self._features, new])
            self._num_waiting = 0
        steps = np.zeros(len(self._features))  # change to the frame before
        steps[1:] = np.abs(np.diff(self._features, axis=0)).sum(1)
        end = len(steps) if is_over else len(steps) - _REACH
        # Only where the change is the greatest far and wide, and can be enough, is there a look at
        # more distances. Steps four frames away lie on one of the two sides in any case.
        away = np.zeros(len(steps) + 2 * _AWAY)
        away[_AWAY:-_AWAY] = steps
        motion = np.maximum(away[: -2 * _AWAY], away[2 * _AWAY :]) + _LEAST_MOTION
        is_enough = steps > _STEP_SHARE * motion
        for place in self._next + np.flatnonzero(is_enough[self._next : end]):
            if (
                steps[place] == steps[max(0, place - _SIDE) : place + _SIDE].max()
                and len(self._times) < MAX_CUTS
                and self._pts_seconds[place] not in self._times[-1:]
                and _cuts(self._features, int(place))
            ):
                self._times.append(self._pts_seconds[place])
        self._next = max(end, 0)
        gone = max(0, self._next - _REACH)
        self._features = self._features[gone:].copy()
        self._pts_seconds = self._pts_seconds[gone:]
        self._next -= gone


def _features(signatures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 (T, D) of signatures (T, SIGNATURE_BYTES); distances are sums of differences."""
    num = len(signatures)
    luma = signatures[:, :_NUM_LUMA]
    colours = signatures[:, _NUM_LUMA:]
    scale = _BLOCK_WEIGHT / (3 * _NUM_BLOCKS)
    luma_blocks = _sums(luma.reshape(num, _ROWS, 2, _COLUMNS, 2)) * np.float32(scale / 4)
    colour_blocks = colours.reshape(num, -1) * np.float32(scale * _COLOUR_WEIGHT)
    # One point of brightness in four is enough for a histogram, and as many as of each colour.
    points = np.empty((num, 3, _NUM_COLOUR), np.intp)
    points[:, 0] = luma.reshape(num, *SIGNATURE_SHAPE)[:, ::2, ::2].reshape(num, -1) >> 4
    points[:, 1:] = colours.reshape(num, 2, -1) >> 3
    points += np.arange(3 * num).reshape(num, 3, 1) * _NUM_BINS
    counts = np.bincount(points.ravel(), minlength=3 * num * _NUM_BINS)
    histograms = counts * np.float32(_HISTOGRAM_WEIGHT / _NUM_COLOUR)
    parts = [part.reshape(num, -1) for part in (luma_blocks, colour_blocks, histograms)]
    return np.concatenate(parts, 1, dtype=np.float32)


def _sums(points: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Sums over axes 2 and 4 of (T, R, r, C, c): whole rows first, for speed."""
    rows = points.sum(2, dtype=np.uint16)  # (T, R, C, c)
    total: NDArray[np.uint16] = rows[..., 0].copy()
    for column in range(1, rows.shape[-1]):
        total += rows[..., column]
    return total


def _cuts(features: NDArray[np.float32], place: int) -> bool:
    """Whether there is a cut at, or within a few mixed frames of, the frame `place`."""
    first = max(0, place - _REACH)
    near = features[first : place + _REACH]
    place -= first
    distances = np.abs(near[:, None] - near[None]).sum(-1)  # (T, T)
    for num_between in range(_MAX_BETWEEN + 1):
        for begin in range(place - num_between, place + 1):
            before = slice(max(0, begin - _SIDE), max(0, begin))
            after = slice(begin + num_between, begin + num_between + _SIDE)
            moved_before, moved_after = distances[before, before], distances[after, after]
            if min(len(moved_before), len(moved_after)) < _MIN_SIDE:
                continue
            motion = max(moved_before.max(), moved_after.max()) + _LEAST_MOTION
            across = distances[before, after].min()
            if across > max(_LEAST_DISTANCE, _RATIOS[num_between] * motion):
                return True
    return False
