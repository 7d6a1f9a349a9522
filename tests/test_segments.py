"""Segments against the slow way: for each stretch the plain mean of its frames."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import unit

from perception_search.segments import Segmentation, Window, cut, windows

TIMES = np.array([0, 1, 2, 3, 4, 9.5, 10, 11, 29, 30, 30.5])
FRAMES = np.stack([unit(n) for n in range(len(TIMES))])


@pytest.mark.parametrize("overlap", [0.0, 0.4])
@pytest.mark.parametrize("length", [1.0, 3.0, 7.5, 10.0, 1000.0])
def test_every_segment_is_the_mean_of_its_frames(length, overlap):
    segmentation = Segmentation("length", length, overlap * length)
    wanted = windows(segmentation, 31.0)
    segments = cut(FRAMES, TIMES, wanted)
    starts = {window.start_seconds for window in wanted}
    for segment in segments:
        end = min(segment.start_seconds + length, 31.0)
        from_start = TIMES - segment.start_seconds > -1e-9
        inside = from_start & (TIMES - end < -1e-9)
        mean = FRAMES[inside].mean(0)
        assert segment.num_frames == inside.sum()
        assert segment.norm == pytest.approx(np.linalg.norm(mean), abs=1e-6)
        assert segment.embedding == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)
        assert segment.start_seconds in starts
    assert [s.start_seconds for s in segments] == sorted({s.start_seconds for s in segments})
    assert segments[-1].end_seconds == 31.0
    if not overlap:
        assert sum(segment.num_frames for segment in segments) == len(TIMES)


@settings(deadline=None)
@given(st.floats(0.2, 100), st.floats(0, 0.5), st.floats(0.01, 2000))
def test_windows_cover_the_video_and_none_lies_in_another(seconds, overlap, end):
    wanted = windows(Segmentation("length", seconds, overlap * seconds), end)
    assert wanted[0].start_seconds == 0
    assert wanted[-1].end_seconds == pytest.approx(end)
    for before, after in itertools.pairwise(wanted):
        assert before.start_seconds < after.start_seconds <= before.end_seconds + 1e-9
        assert before.end_seconds < after.end_seconds + 1e-9
        assert before.end_seconds - before.start_seconds == pytest.approx(seconds)


def test_shots_are_the_stretches_between_cuts_and_long_ones_are_divided():
    shots = Segmentation("shots", 10)
    assert windows(shots, 40, [4.5, 8.0, 33.0]) == [
        Window(0, 4.5),
        Window(4.5, 8),
        Window(8, 8 + 25 / 3),
        Window(8 + 25 / 3, 8 + 50 / 3),
        Window(8 + 50 / 3, 33),
        Window(33, 40),
    ]
    assert windows(shots, 5, [0.0, 5.0, 9.0]) == [Window(0, 5)]


def test_a_shot_between_two_frames_belongs_to_the_one_before():
    wanted = windows(Segmentation("shots", 10), 3.0, [1.2, 1.6])
    [first, last] = cut(FRAMES[:3], np.array([0.0, 1.0, 2.0]), wanted)
    assert (first.start_seconds, first.end_seconds, first.num_frames) == (0, 1.6, 2)
    assert (last.start_seconds, last.end_seconds, last.num_frames) == (1.6, 3, 1)


def test_a_moment_on_the_border_belongs_to_what_begins_there():
    frames = np.stack([unit(1), unit(2)])
    first, second = cut(frames, np.array([0.0, 10.0]), windows(Segmentation(), 11))
    assert (first.num_frames, second.num_frames) == (1, 1)
    assert (second.start_seconds, second.end_seconds) == (10, 11)


def test_frames_that_cancel_make_no_segment():
    frames = np.stack([unit(1), -unit(1)])
    assert cut(frames, np.array([0.0, 1.0]), windows(Segmentation(), 2)) == []


def test_misuse_is_told():
    with pytest.raises(ValueError, match=r"must be 0\.1 at least"):
        Segmentation("length", 0)
    with pytest.raises(ValueError, match="shorter than a segment"):
        Segmentation("length", 5, 5)
    with pytest.raises(ValueError, match="'length' or 'shots'"):
        Segmentation("scenes")
    with pytest.raises(ValueError, match="shots do not overlap"):
        Segmentation("shots", 5, 1)
    with pytest.raises(ValueError, match="1 embeddings but 2 times"):
        cut(FRAMES[:1], np.array([0.0, 1.0]), windows(Segmentation(), 2))
    assert cut(np.empty((0, 4), np.float32), np.array([]), windows(Segmentation(), 0)) == []
