"""Spans against the slow way: every stretch tried."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_search import spans
from perception_search.spans import Span, edges, lower_mean, smooth

SCORES = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40).map(np.array)


def find_spans(scores, limit):
    found = list(itertools.islice(spans.find_spans(scores), limit))
    peaks = [span.peak for span in found]
    assert peaks == sorted(peaks, reverse=True)
    return [Span(first, stop) for first, stop, _ in found]


def hills(*stretches, length=60, low=0.1, high=0.3, seed=0):
    """Scores (length,) that are high in these stretches; a little noise."""
    scores = np.full(length, low)
    for first, stop in stretches:
        scores[first:stop] = high
    return scores + np.random.default_rng(seed).normal(0, 0.005, length)


def test_smoothing_keeps_what_is_constant_and_the_ends():
    assert smooth(np.full(7, 0.3)) == pytest.approx(np.full(7, 0.3))
    assert smooth(np.array([1.0, 0, 0, 0])) == pytest.approx([2 / 3, 1 / 4, 0, 0])
    assert smooth(np.array([0.5, 0.7])) == pytest.approx([0.5, 0.7])


@settings(deadline=None)
@given(SCORES)
def test_the_first_span_has_the_largest_sum_over_its_level_and_grows(scores):
    [span] = find_spans(scores, 1)
    smoothed = smooth(scores)
    if smoothed.max() - smoothed.mean() < 1e-4:
        assert span == Span(0, len(scores))
        return
    level = (smoothed.max() + lower_mean(smoothed)) / 2
    over = smoothed - level
    best = max(
        over[first:stop].sum()
        for first in range(len(scores))
        for stop in range(first + 1, len(scores) + 1)
    )
    is_above = scores > level
    grown = [
        (first, stop)
        for first in range(span.first, span.stop)
        for stop in range(first + 1, span.stop + 1)
        if over[first:stop].sum() == pytest.approx(best, abs=1e-9)
        and is_above[span.first : first].all()
        and is_above[stop : span.stop].all()
    ]
    assert grown, "it is the best stretch, and frames above the level beside it"
    assert span.first == 0 or not is_above[span.first - 1]
    assert span.stop == len(scores) or not is_above[span.stop]


@settings(deadline=None)
@given(SCORES, st.integers(1, 10))
def test_spans_do_not_overlap_and_more_of_them_begin_with_the_same(scores, limit):
    found = find_spans(scores, limit)
    assert 1 <= len(found) <= limit
    seen = np.zeros(len(scores), int)
    for span in found:
        assert 0 <= span.first < span.stop <= len(scores)
        seen[span.first : span.stop] += 1
    assert seen.max() == 1
    assert find_spans(scores, limit + 3)[: len(found)] == found


def test_each_hill_is_a_span_the_highest_first():
    scores = hills((10, 20)) + hills((40, 45), low=0.0, high=0.3)
    first, second, *_ = find_spans(scores, 5)
    assert first == Span(40, 45)
    assert abs(second.first - 10) <= 1
    assert abs(second.stop - 20) <= 1


def test_a_short_dip_is_bridged_and_a_long_one_is_not():
    short = hills((20, 30), (31, 40))
    [bridged] = find_spans(short, 1)
    assert bridged.first <= 20
    assert bridged.stop >= 40
    long = hills((5, 10), (40, 52))
    [one] = find_spans(long, 1)
    assert one in (Span(5, 10), Span(40, 52))


def test_a_moment_that_fills_half_of_the_video_keeps_its_edges():
    assert find_spans(np.repeat([0.0, 1.0], 15), 1) == [Span(15, 30)]


def test_a_moment_may_fill_most_of_a_video_and_black_frames_do_not_count():
    scores = np.repeat([0.0, 1.0], [30, 70])
    assert find_spans(scores, 1) == [Span(30, 100)]
    scores = hills((40, 50), length=100)
    scores[:3] = -0.5
    [span] = find_spans(scores, 1)
    assert (span.first, span.stop) == (40, 50)


def test_the_slopes_of_a_span_are_no_spans():
    slope = np.concatenate([np.linspace(0, 0.4, 30), np.linspace(0.4, 0, 30)])
    assert len(find_spans(slope, 10)) == 1


def test_a_still_is_one_span():
    assert find_spans(np.full(30, 0.2), 5) == [Span(0, 30)]
    assert find_spans(np.array([0.1]), 5) == [Span(0, 1)]


def test_edges_move_to_the_cut_between_two_frames():
    times = np.arange(10.0)
    assert edges(Span(3, 6), times, 10.0) == (3.0, 6.0)
    assert edges(Span(3, 6), times, 10.0, [2.4, 5.6]) == (2.4, 5.6)
    assert edges(Span(3, 6), times, 10.0, [2.1, 2.8, 5.2, 5.9]) == (2.8, 5.2)
    assert edges(Span(3, 6), times, 10.0, [1.9, 3.2, 4.9, 6.1]) == (3.0, 6.0)
    assert edges(Span(3, 6), times, 10.0, [2.0, 3.0, 5.0, 6.0]) == (3.0, 6.0)
    assert edges(Span(0, 10), times, 9.7, [0.5]) == (0.0, 9.7)
    assert edges(Span(9, 10), times, 9.0) == (9.0, 9.0)
