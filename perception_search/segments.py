"""Cutting a video's time grid into segments: prefix sums over frames; knows no store, no file.

PE has no temporal model: what a stretch of video looks like is the mean of its frames' unit
embeddings (PE paper, section 3; the reference's `encode_video`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Segment:
    """A stretch [start_seconds, end_seconds) of a video.

    Attributes:
        start_seconds: first moment of it, from the start of the video.
        end_seconds: first moment after it.
        num_frames: grid frames it is the mean of.
        embedding: (dim,) float32, unit length.
        norm: length of the mean before it was made unit: 1 where all its frames look the same.
    """

    start_seconds: float
    end_seconds: float
    num_frames: int
    embedding: NDArray[np.float32]
    norm: float


def cut(
    embeddings: NDArray[np.float32],
    pts_seconds: NDArray[np.float64],
    *,
    segment_seconds: float,
    end_seconds: float,
) -> list[Segment]:
    """The segments [0, s), [s, 2s), ... that hold a frame, in order.

    Args:
        embeddings: (T, dim) unit embeddings of the grid frames.
        pts_seconds: (T,) their times, ascending.
        segment_seconds: s; the last segment ends with the video.
        end_seconds: where the video ends.

    Raises:
        ValueError: `segment_seconds` is not positive, or the shapes do not agree.
    """
    if not segment_seconds > 0:
        raise ValueError(f"segment_seconds is {segment_seconds}; it must be above 0")
    if len(embeddings) != len(pts_seconds):
        raise ValueError(f"{len(embeddings)} embeddings but {len(pts_seconds)} times")
    if not len(embeddings):
        return []
    numbers = np.floor(pts_seconds / segment_seconds + 1e-9).astype(np.int64)
    firsts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 1))
    lasts = np.append(firsts[1:], len(numbers))
    sums = np.zeros((len(embeddings) + 1, embeddings.shape[1]), np.float64)
    np.cumsum(embeddings, axis=0, out=sums[1:])  # (T + 1, dim)
    segments = []
    for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
        mean = (sums[last] - sums[first]) / (last - first)
        norm = float(np.linalg.norm(mean))
        if norm < 1e-6:  # frames that cancel have no direction to be found by
            continue
        start = float(numbers[first]) * segment_seconds
        end = min(start + segment_seconds, max(end_seconds, float(pts_seconds[last - 1])))
        embedding = (mean / norm).astype(np.float32)
        segments.append(Segment(start, end, last - first, embedding, norm))
    return segments
