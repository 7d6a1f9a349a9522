"""Where the shots of a video begin, from its cuts and from what an encoder sees of it.

The method. How much two frames of the grid differ is one minus the cosine of their embeddings.
What is usual is the video's own median between neighbours with no cut between them, so nothing
here depends on the encoder.

- A cut is a boundary, but where the frames on its two sides differ no more than usual: a flash of
  some frames, a title over the picture, a glance away that is over before the next grid frame.
- A boundary that no cut tells of, a dissolve or a fade, is where both frames before differ from
  both frames after several times as much as either pair does within itself, and as usual. It lies
  in the middle between them; one frame may be between, which shows a mixture. Where the cuts are
  known it must be clear, since most changes without a cut are motion. Where they are not, less will
  do: then this finds the cuts too, if the shots have two grid frames at least.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perception_search.video_sampling import EPSILON_SECONDS

_RATIO = 2.0
_CLEAR_RATIO = 4.0
_LEAST_DIFFERENCE = 2e-3  # of float16 embeddings; less is no other picture to any encoder
_MIN_FRAMES = 4


def boundaries(
    cuts: Sequence[float] | None,
    embeddings: NDArray[np.floating],
    pts_seconds: NDArray[np.float64],
) -> list[float]:
    """The seconds at which the shots of a video begin, ascending; the first is 0.

    Args:
        cuts: when the picture changes at once, ascending, as `MediaItem.cuts`; None where that
            is not known.
        embeddings: (T, dim) unit embeddings of the grid frames, float16 or wider.
        pts_seconds: (T,) the times of the grid frames, ascending.

    Raises:
        ValueError: the shapes do not agree.
    """
    if embeddings.ndim != 2 or embeddings.shape[:1] != pts_seconds.shape:
        raise ValueError(
            f"embeddings {embeddings.shape} of frames at {pts_seconds.shape} times; one each"
        )
    frames = embeddings.astype(np.float32)
    ratio = _RATIO if cuts is None else _CLEAR_RATIO
    times = np.array(cuts if cuts is not None else (), np.float64)
    # The first grid frame that shows what comes after each cut.
    after = np.searchsorted(pts_seconds, times - EPSILON_SECONDS)
    steps = _differences(frames, 1)  # entry t: from frame t to the next
    has_cut = np.isin(np.arange(1, len(frames)), after)
    usual = float(np.median(steps[~has_cut])) if (~has_cut).any() else 0.0
    least = max(usual, _LEAST_DIFFERENCE)
    is_between = (after > 0) & (after < len(frames))
    differs = np.ones(len(times), np.bool_)  # before the first or past the last frame: who knows
    differs[is_between] = steps[after[is_between] - 1] > least
    return sorted(
        {
            0.0,
            *times[differs & (times > 0)].tolist(),
            *_gradual(frames, pts_seconds, has_cut, usual, ratio),
        }
    )


def _gradual(
    frames: NDArray[np.float32],
    pts_seconds: NDArray[np.float64],
    has_cut: NDArray[np.bool_],
    usual: float,
    ratio: float,
) -> list[float]:
    """The boundaries that no cut tells of.

    Args:
        frames: (T, dim) unit embeddings.
        pts_seconds: (T,) their times.
        has_cut: (T - 1,) whether a cut lies between a frame and the next.
        usual: difference between neighbours.
        ratio: of the difference across a place to that on either side, and to the usual one.
    """
    if len(frames) < _MIN_FRAMES:
        return []
    d1, d2, d3, d4 = (_differences(frames, lag) for lag in (1, 2, 3, 4))
    least = max(ratio * usual, _LEAST_DIFFERENCE)
    # Entry t: frames t, t + 1 against t + 2, t + 3; then against t + 3, t + 4.
    at_once = _excess([d1[1:-1], d2[:-1], d2[1:], d3], [d1[:-2], d1[2:]], least, ratio)
    with_mixture = _excess([d2[1:-1], d3[:-1], d3[1:], d4], [d1[:-3], d1[3:]], least, ratio)
    at_once[has_cut[1:-1]] = 0
    with_mixture[has_cut[1:-2] | has_cut[2:-1]] = 0
    with_mixture[(at_once[:-1] > 0) | (at_once[1:] > 0)] = 0  # its mixture is of the pure frames
    middles = (pts_seconds[1:-2] + pts_seconds[2:-1]) / 2
    return [
        *middles[_summits(at_once)].tolist(),
        *pts_seconds[2:-2][_summits(with_mixture)].tolist(),
    ]


def _excess(
    across: list[NDArray[np.float32]],
    within: list[NDArray[np.float32]],
    least: float,
    ratio: float,
) -> NDArray[np.float32]:
    """By how much the least difference across a place is more than it must be; 0 where it is not.

    Args:
        across: the differences of each frame before to each after.
        within: the difference of both before, and of both after.
        least: that must be across.
        ratio: of what is across to what is within.
    """
    smallest = np.minimum.reduce(across)
    excess = smallest - ratio * np.maximum.reduce(within)
    return np.where(smallest > least, np.maximum(excess, 0), 0).astype(np.float32)


def _summits(excess: NDArray[np.float32]) -> NDArray[np.intp]:
    """Where it is greater than 0 and than at both neighbours (of two that are equal: the first)."""
    padded = np.concatenate([[0], excess, [0]])
    return np.flatnonzero((excess > padded[:-2]) & (excess >= padded[2:]))


def _differences(frames: NDArray[np.float32], lag: int) -> NDArray[np.float32]:
    """(T - lag,) one minus the cosine of each frame and the one `lag` later."""
    cosines: NDArray[np.float32] = np.einsum("td,td->t", frames[:-lag], frames[lag:])
    return 1 - cosines
