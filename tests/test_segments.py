"""Segments against the slow way: for each stretch the plain mean of its frames."""

import numpy as np
import pytest
from stores import unit

from perception_search.segments import cut


@pytest.mark.parametrize("length", [1.0, 3.0, 7.5, 10.0, 1000.0])
def test_every_segment_is_the_mean_of_its_frames(length):
    times = np.array([0, 1, 2, 3, 4, 9.5, 10, 11, 29, 30, 30.5])
    frames = np.stack([unit(n) for n in range(len(times))])
    segments = cut(frames, times, segment_seconds=length, end_seconds=31.0)
    seen = 0
    for segment in segments:
        inside = (times >= segment.start_seconds) & (times < segment.start_seconds + length)
        mean = frames[inside].mean(0)
        assert segment.num_frames == inside.sum()
        assert segment.norm == pytest.approx(np.linalg.norm(mean), abs=1e-6)
        assert segment.embedding == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)
        assert segment.start_seconds % length == pytest.approx(0)
        assert segment.end_seconds == min(segment.start_seconds + length, 31.0)
        seen += segment.num_frames
    assert seen == len(times)
    starts = [segment.start_seconds for segment in segments]
    assert starts == sorted(set(starts))


def test_a_moment_on_the_border_belongs_to_what_begins_there():
    frames = np.stack([unit(1), unit(2)])
    first, second = cut(frames, np.array([0.0, 10.0]), segment_seconds=10, end_seconds=11)
    assert (first.num_frames, second.num_frames) == (1, 1)
    assert (second.start_seconds, second.end_seconds) == (10, 11)


def test_frames_that_cancel_make_no_segment():
    frames = np.stack([unit(1), -unit(1)])
    assert cut(frames, np.array([0.0, 1.0]), segment_seconds=10, end_seconds=2) == []


def test_misuse_is_told():
    frames = np.stack([unit(1)])
    with pytest.raises(ValueError, match="must be above 0"):
        cut(frames, np.array([0.0]), segment_seconds=0, end_seconds=1)
    with pytest.raises(ValueError, match="1 embeddings but 2 times"):
        cut(frames, np.array([0.0, 1.0]), segment_seconds=1, end_seconds=2)
    assert cut(np.empty((0, 4), np.float32), np.array([]), segment_seconds=1, end_seconds=0) == []
