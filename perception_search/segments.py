"""Cutting a video's time grid into segments: means over frames; knows no store, no file.

PE has no temporal model: what a stretch of video looks like is the mean of its frames' unit
embeddings (PE paper, section 3; the reference's `encode_video`). So segments can be cut anew, of
any length, from the stored grid, without opening the video.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_SECONDS = 0.1
"""Nothing that is looked at once a second is found better by shorter stretches."""

_TINY_SECONDS = 1e-9
_MIN_NORM = 1e-6


@dataclass(frozen=True)
class Segmentation:
    """Which stretches videos are found by; a collection's can be changed by `resegment`.

    Attributes:
        by: `length` for stretches of equal length; `shots` for those between two cuts.
        seconds: length of a stretch; a longer shot is divided evenly into parts of at most this.
        overlap_seconds: how much of a stretch of equal length belongs to the next one too.
    """

    by: Literal["length", "shots"] = "length"
    seconds: float = 10.0
    overlap_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.by not in ("length", "shots"):
            raise ValueError(f"segments by {self.by!r}; 'length' or 'shots'")
        if not MIN_SECONDS <= self.seconds < float("inf"):
            raise ValueError(
                f"segments of {self.seconds:g} seconds; they must be {MIN_SECONDS:g} at least"
            )
        if not 0 <= self.overlap_seconds <= self.seconds - MIN_SECONDS:
            raise ValueError(
                f"segments of {self.seconds:g} s that overlap by {self.overlap_seconds:g} s; the "
                f"overlap must be at least 0, and {MIN_SECONDS:g} s shorter than a segment"
            )
        if self.by == "shots" and self.overlap_seconds:
            raise ValueError("shots do not overlap; give an overlap for segments of equal length")

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if self.by == "shots":
            return f"shots, of {self.seconds:g} s at most"
        overlap = f", overlapping by {self.overlap_seconds:g} s" if self.overlap_seconds else ""
        return f"segments of {self.seconds:g} s{overlap}"

    @staticmethod
    def of(described: Mapping[str, Any]) -> "Segmentation":
        """What `as_dict` gave."""
        return Segmentation(**described)


class Window(NamedTuple):
    """A stretch [start_seconds, end_seconds) of a video that is to be a segment."""

    start_seconds: float
    end_seconds: float


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


def windows(
    segmentation: Segmentation, end_seconds: float, shots: Sequence[float] = ()
) -> list[Window]:
    """The stretches of a video, in order of their start; together they cover it.

    Args:
        segmentation: which stretches.
        end_seconds: where the video ends; the last stretch does too.
        shots: where its shots begin, ascending; needed for `shots` alone.
    """
    if segmentation.by == "shots":
        return _by_shots(segmentation.seconds, end_seconds, shots)
    step = segmentation.seconds - segmentation.overlap_seconds
    # the last one is the first that reaches the end: those after it would lie within it
    beyond = end_seconds - segmentation.seconds
    count = 1 + max(0, int(np.ceil(beyond / step - _TINY_SECONDS)))
    return [
        Window(n * step, min(n * step + segmentation.seconds, max(end_seconds, _TINY_SECONDS)))
        for n in range(count)
    ]


def _by_shots(most_seconds: float, end_seconds: float, shots: Sequence[float]) -> list[Window]:
    borders = [0.0, *(start for start in shots if 0 < start < end_seconds), end_seconds]
    found = []
    for start, end in itertools.pairwise(borders):
        count = max(1, int(np.ceil((end - start) / most_seconds - _TINY_SECONDS)))
        edges = np.linspace(start, end, count + 1).tolist()
        found += [Window(*pair) for pair in itertools.pairwise(edges)]
    return found


def cut(
    embeddings: NDArray[np.floating],
    pts_seconds: NDArray[np.float64],
    wanted: Sequence[Window],
    *,
    lengths: NDArray[np.float32] | None = None,
) -> list[Segment]:
    """The segments at these windows, in order; a window that holds no frame belongs to the
    segment that ends where it begins.

    Args:
        embeddings: (T, dim) unit embeddings of the grid frames.
        pts_seconds: (T,) their times, ascending.
        wanted: from `windows`.
        lengths: (T,) what the embeddings are multiplied by before their mean is taken; None for 1.

    Raises:
        ValueError: the shapes do not agree.
    """
    if len(embeddings) != len(pts_seconds):
        raise ValueError(f"{len(embeddings)} embeddings but {len(pts_seconds)} times")
    if lengths is not None:
        embeddings = embeddings * lengths[:, None]  # float32, from float16
    starts = np.array([window.start_seconds for window in wanted])
    ends = np.array([window.end_seconds for window in wanted])
    firsts = np.searchsorted(pts_seconds, starts - _TINY_SECONDS)
    lasts = np.searchsorted(pts_seconds, ends - _TINY_SECONDS)
    if len(wanted):
        lasts[-1] = len(pts_seconds)  # a frame that is late for the end is there all the same
    found: list[Segment] = []
    for (start, end), first, last in zip(wanted, firsts.tolist(), lasts.tolist(), strict=True):
        if first == last:
            if found and found[-1].end_seconds == start:
                found[-1] = replace(found[-1], end_seconds=end)
            continue
        mean = embeddings[first:last].mean(axis=0, dtype=np.float64)
        norm = float(np.linalg.norm(mean))
        if norm < _MIN_NORM:  # frames that cancel have no direction to be found by
            continue
        embedding = (mean / norm).astype(np.float32)
        found.append(Segment(start, end, last - first, embedding, norm))
    return found
