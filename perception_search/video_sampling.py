"""Which of a video's frames are wanted: the time grid and the whole-video protocol.

Knows times only: the frames themselves are made by a callable, for those that are wanted.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_search.frames import Frames, Sampling

EPSILON_SECONDS = 1e-3
"""A frame this much late for a grid point counts as on time: Matroska rounds to milliseconds."""

MAX_FRAMES_PER_CHUNK = 16

MAX_STILL_SECONDS = 3600.0
"""No picture of a real video stands longer."""

_MAX_TOTAL_STILL_SECONDS = 6 * 3600.0
_BACKWARD_SECONDS = 1.0


class Shown(NamedTuple):
    """One frame of a video in the order of showing.

    Attributes:
        pts_seconds: when it appears, from the first frame; never less than the frame before.
        duration_seconds: how long it stays, as far as known; matters for the last frame.
        pixels: makes uint8 (3, H, W) of it; called only if the frame is wanted.
    """

    pts_seconds: float
    duration_seconds: float
    pixels: Callable[[], NDArray[np.uint8]]


class Wanted(NamedTuple):
    """A frame that was asked for; the fields are those of one entry of `Frames`."""

    pixels: NDArray[np.uint8]
    pts_seconds: float
    on_grid: bool
    num_uniform: int


@dataclass
class Tally:
    """What was seen of a video while it went by."""

    num_frames: int = 0
    duration_seconds: float = 0.0


class Clock:
    """Timestamps of a container, made into seconds from the first frame that never run back.

    A missing timestamp is taken as the frame before plus one nominal duration. So is a jump that
    no real video makes: more than a second back, an hour of one still picture, or six hours of
    still pictures in all. Later timestamps are then counted from there: a hostile timestamp
    cannot ask for millions of grid points.
    """

    def __init__(self, frame_seconds: float, still_seconds: float = 10.0) -> None:
        """Starts at the first frame.

        Args:
            frame_seconds: the nominal duration of a frame.
            still_seconds: a longer step to the next frame counts as a still picture.
        """
        self.frame_seconds = frame_seconds
        self._longest_seconds = still_seconds
        self._zero: float | None = None  # what the container calls the time of second 0
        self._now = 0.0
        self._still_seconds = 0.0
        self._is_first = True

    def seconds(self, stamp_seconds: float | None) -> float:
        """The time of the next frame, by its container's timestamp."""
        if self._is_first:
            self._is_first = False
            self._zero = stamp_seconds
            return 0.0
        if stamp_seconds is None:
            self._now += self.frame_seconds
            return self._now
        if self._zero is None:
            self._zero = stamp_seconds - self._now - self.frame_seconds
        step = stamp_seconds - self._zero - self._now
        if step < -_BACKWARD_SECONDS or not self._may_stand_still(step):
            self._now += self.frame_seconds
            self._zero = stamp_seconds - self._now
        elif step > 0:
            self._now += step
        return self._now

    def _may_stand_still(self, seconds: float) -> bool:
        is_still = seconds > self._longest_seconds
        if is_still:
            self._still_seconds += seconds
        within = self._still_seconds <= _MAX_TOTAL_STILL_SECONDS or not is_still
        return within and seconds <= MAX_STILL_SECONDS


def sample(
    shown: Iterable[Shown | None], sampling: Sampling, uniform: Iterable[int], tally: Tally
) -> Iterator[Wanted | None]:
    """The wanted frames of one forward pass, in time order; None where None came in.

    The grid point j is the last frame with pts <= j / frames_per_second + `EPSILON_SECONDS`, for
    every j before the end of the video, and for j = 0.

    Args:
        shown: the video's frames; None is a sign of life between them.
        sampling: the time grid.
        uniform: numbers of the whole-video protocol's frames.
        tally: filled in.
    """
    num_uniform = Counter(uniform)
    next_point = 0
    last: Shown | None = None
    for frame in shown:
        if frame is None:
            yield None
            continue
        if last is not None:
            points = _points(next_point, frame.pts_seconds, sampling)
            yield from _wanted(last, points, num_uniform[tally.num_frames - 1], sampling)
            next_point = points.stop
        last = frame
        tally.num_frames += 1
    if last is None:
        return
    tally.duration_seconds = last.pts_seconds + min(last.duration_seconds, MAX_STILL_SECONDS)
    points = _points(next_point, tally.duration_seconds, sampling)
    if not points.stop and sampling.grid != "none":
        points = range(1)
    yield from _wanted(last, points, num_uniform[tally.num_frames - 1], sampling)


def _points(first: int, until_seconds: float, sampling: Sampling) -> range:
    """The grid points from `first` on that come before a moment."""
    if sampling.grid == "none":
        return range(0)
    end = first
    while end / sampling.frames_per_second + EPSILON_SECONDS < until_seconds:
        end += 1
    return range(first, end)


def _wanted(frame: Shown, points: range, num_uniform: int, sampling: Sampling) -> Iterator[Wanted]:
    if not points and not num_uniform:
        return
    pixels = frame.pixels()
    if not points:
        yield Wanted(pixels, frame.pts_seconds, False, num_uniform)
    for point in points:
        pts_seconds = point / sampling.frames_per_second
        yield Wanted(pixels, pts_seconds, True, num_uniform if point == points.start else 0)


def sample_uniform(
    shown: Iterable[Shown | None], uniform: Iterable[int]
) -> Iterator[Wanted | None]:
    """The frames with these numbers, in one forward pass; None where None came in."""
    num_uniform = Counter(uniform)
    left = sum(num_uniform.values())
    number = 0
    last: Shown | None = None
    for frame in shown:
        if frame is None:
            yield None
            continue
        last = frame
        if num_uniform[number]:
            yield Wanted(frame.pixels(), frame.pts_seconds, False, num_uniform[number])
            left -= num_uniform[number]
        number += 1
        if not left:
            return
    if last is not None:  # fewer frames than a moment ago: the last stands for the missing
        yield Wanted(last.pixels(), last.pts_seconds, False, left)


def in_chunks(wanted: Iterable[Wanted | None]) -> Iterator[Frames | None]:
    """The frames, up to `MAX_FRAMES_PER_CHUNK` at a time; None where None came in."""
    chunk: list[Wanted] = []
    for frame in wanted:
        if frame is None:
            yield None
            continue
        chunk.append(frame)
        if len(chunk) == MAX_FRAMES_PER_CHUNK:
            yield _together(chunk)
            chunk = []
    if chunk:
        yield _together(chunk)


def _together(chunk: list[Wanted]) -> Frames:
    return Frames(
        pixels=np.stack([frame.pixels for frame in chunk]),
        pts_seconds=np.array([frame.pts_seconds for frame in chunk], np.float64),
        on_grid=np.array([frame.on_grid for frame in chunk], np.bool_),
        num_uniform=np.array([frame.num_uniform for frame in chunk], np.int64),
    )
