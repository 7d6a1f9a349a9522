"""Measures against right answers worked out by hand, slow versions, and what must always hold."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_search import metrics

times = st.integers(0, 40)
window = st.tuples(times, times).map(sorted).filter(lambda pair: pair[0] < pair[1])
windows = st.lists(window, min_size=1, max_size=6)


def seconds_of(pair):
    return set(range(pair[0], pair[1]))


# Temporal IoU


def test_iou_of_windows_that_overlap_touch_enclose_and_miss():
    ours = [[0, 10], [5, 15], [0, 0]]
    theirs = [[0, 10], [10, 20], [2, 4]]
    # [5,15) meets [0,10) in 5 of 15 seconds and [10,20) in 5 of 15; [2,4) is 2 of 10 of [0,10)
    expected = [[1, 0, 0.2], [1 / 3, 1 / 3, 0], [0, 0, 0]]
    assert metrics.temporal_iou(ours, theirs) == pytest.approx(np.array(expected))


def test_iou_of_nothing_has_no_rows():
    assert metrics.temporal_iou([], [[0, 1]]).shape == (0, 1)
    assert metrics.temporal_iou([[0, 1]], np.empty((0, 2))).shape == (1, 0)


@pytest.mark.parametrize("wrong", [[[3, 2]], [[0, float("nan")]], [[0, 1, 2]], [0, 1]])
def test_what_is_no_window_is_refused(wrong):
    with pytest.raises(ValueError):
        metrics.temporal_iou(wrong, [[0, 1]])


@given(windows, windows)
def test_iou_is_that_of_the_sets_of_seconds(ours, theirs):
    found = metrics.temporal_iou(ours, theirs)
    slow = [
        [len(seconds_of(a) & seconds_of(b)) / len(seconds_of(a) | seconds_of(b)) for b in theirs]
        for a in ours
    ]
    assert found == pytest.approx(np.array(slow))


@given(windows, windows, st.integers(-5, 5), st.integers(1, 4))
def test_iou_is_symmetric_and_knows_no_zero_and_no_unit_of_time(ours, theirs, shift, scale):
    found = metrics.temporal_iou(ours, theirs)
    assert found == pytest.approx(metrics.temporal_iou(theirs, ours).T)
    moved = metrics.temporal_iou(
        np.array(ours) * scale + shift, np.array(theirs) * float(scale) + shift
    )
    assert found == pytest.approx(moved)


# The first window


def test_only_the_first_window_counts_and_the_best_true_one():
    true = [[0, 10], [20, 30]]
    assert metrics.first_window_iou([[20, 25], [0, 10]], true) == 0.5
    assert metrics.first_window_iou([[40, 50], [0, 10]], true) == 0
    assert metrics.first_window_iou([], true) == 0


def test_a_query_without_truth_cannot_be_scored():
    with pytest.raises(ValueError, match="true window"):
        metrics.first_window_iou([[0, 1]], [])
    with pytest.raises(ValueError, match="true window"):
        metrics.moment_average_precision([[0, 1]], [1], [])


# Average precision


def test_average_precision_worked_out_by_hand():
    # By score: A [0,10) right at every threshold; B [50,60) wrong; C [20,29) has IoU 0.9 with
    # [20,30): right up to 0.9, wrong at 0.95. Recall grows at ranks 1 and 3.
    #   up to 0.9: precision 1, 1/2, 2/3; interpolated at the hits 1 and 2/3: (1 + 2/3) / 2 = 5/6
    #   at 0.95:   only A: 1/2
    found = metrics.moment_average_precision(
        [[20, 29], [0, 10], [50, 60]], [0.1, 0.9, 0.5], [[0, 10], [20, 30]]
    )
    assert found == pytest.approx([5 / 6] * 9 + [1 / 2])


def test_a_true_window_is_taken_once():
    # Both windows fit the only true one: the second is wrong, and after full recall costs nothing.
    assert metrics.moment_average_precision([[0, 10], [0, 9]], [2, 1], [[0, 10]])[0] == 1
    # With the worse first it is the better one that is left over: at 0.95 it comes second: 1/2.
    found = metrics.moment_average_precision([[0, 10], [0, 9]], [1, 2], [[0, 10]])
    assert found == pytest.approx([1] * 9 + [1 / 2])


def test_a_prediction_takes_the_second_best_window_where_the_best_is_gone():
    # [0,10) and [0,9) are both true. The first prediction [0,10) takes the first; the second,
    # [0,10) again, has IoU 0.9 with what is left: right up to 0.9.
    found = metrics.moment_average_precision([[0, 10]] * 2, [2, 1], [[0, 10], [0, 9]])
    assert found == pytest.approx([1] * 9 + [1 / 2])


def test_interpolation_lifts_a_precision_to_the_best_after_it():
    # wrong, right, right: precision 0, 1/2, 2/3, the middle one is lifted to 2/3: AP 2/3
    found = metrics.moment_average_precision(
        [[80, 90], [0, 10], [20, 30]], [3, 2, 1], [[0, 10], [20, 30]], thresholds=[0.5]
    )
    assert found == pytest.approx([2 / 3])


def test_equal_scores_keep_their_order():
    right, wrong, true = [0, 10], [50, 60], [[0, 10]]
    precision = metrics.moment_average_precision
    assert precision([right, wrong], [1, 1], true, thresholds=[0.5])[0] == 1
    assert precision([wrong, right], [1, 1], true, thresholds=[0.5])[0] == 0.5


def test_an_iou_that_is_just_the_threshold_is_enough():
    assert metrics.moment_average_precision([[0, 5]], [1], [[0, 10]], thresholds=[0.5]) == [1]


def test_only_the_ten_best_predictions_count():
    wrong = [[100 + n, 101 + n] for n in range(10)]
    scores = [*range(11, 1, -1), 1]
    assert metrics.moment_average_precision([*wrong, [0, 10]], scores, [[0, 10]])[0] == 0
    every = metrics.moment_average_precision(
        [*wrong, [0, 10]], scores, [[0, 10]], max_predictions=None
    )
    assert every[0] == pytest.approx(1 / 11)


def test_no_prediction_has_precision_zero_and_scores_must_fit():
    assert metrics.moment_average_precision([], [], [[0, 1]]).tolist() == [0] * 10
    with pytest.raises(ValueError, match="scores"):
        metrics.moment_average_precision([[0, 1]], [1, 2], [[0, 1]])


def slow_average_precision(predicted, true, threshold):
    """Precision at every recall, the best of it from there on, summed recall step by step."""
    taken, right = set(), []
    for pair in predicted:
        ious = [
            (len(seconds_of(pair) & seconds_of(t)) / len(seconds_of(pair) | seconds_of(t)), -n)
            for n, t in enumerate(true)
            if n not in taken
        ]
        best = max(ious, default=(0, 0))
        right.append(best[0] >= threshold)
        if right[-1]:
            taken.add(-best[1])
    total = 0.0
    for step in range(1, len(true) + 1):
        reached = [
            sum(right[:rank]) / rank
            for rank in range(1, len(right) + 1)
            if sum(right[:rank]) >= step
        ]
        total += max(reached, default=0.0)
    return total / len(true)


@given(windows, windows)
def test_average_precision_is_that_of_the_slow_version(predicted, true):
    scores = range(len(predicted), 0, -1)
    found = metrics.moment_average_precision(predicted, scores, true)
    slow = [slow_average_precision(predicted, true, t) for t in metrics.IOU_THRESHOLDS]
    assert found == pytest.approx(slow)
    assert (np.diff(found) <= 1e-12).all(), "a higher threshold is never easier"


@given(windows)
def test_the_truth_itself_has_precision_one(true):
    found = metrics.moment_average_precision(true, np.ones(len(true)), true)
    assert found == pytest.approx(1)


# DiDeMo


def ranking(*first):
    rest = [moment for moment in metrics.DIDEMO_MOMENTS if moment not in first]
    return [*first, *rest]


def test_a_didemo_video_has_21_moments():
    pairs = list(itertools.combinations_with_replacement(range(6), 2))
    assert len(pairs) == 21
    assert sorted(metrics.DIDEMO_MOMENTS) == pairs


def test_didemo_leaves_the_outlier_out():
    # three agree on (1,1), which is first; the fourth's (5,5) is not counted
    score = metrics.didemo_score(ranking((1, 1)), [[1, 1], [5, 5], [1, 1], [1, 1]])
    assert score == (1, 1)


def test_didemo_takes_the_mean_of_the_three_best_ranks_and_ious():
    # ranks 1, 2, 4 and 9 (of (0,4), (0,5), (5,5), (3,4)): (1 + 2 + 4) / 3 = 7/3: within 5, not 1
    # IoU of (0,4) = 25 s with: itself 1; (0,5) 25/30; (5,5) 0; (3,4) 10/25: best three
    # (1 + 5/6 + 2/5) / 3
    others = [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]
    ranked = ranking((0, 4), (0, 5), others[0], (5, 5), *others[1:], (3, 4))
    score = metrics.didemo_score(ranked, [[0, 4], [0, 5], [5, 5], [3, 4]])
    assert score.rank == pytest.approx(7 / 3)
    assert score.iou == pytest.approx((1 + 5 / 6 + 2 / 5) / 3)


def test_two_of_four_annotators_are_not_enough_for_rank_one():
    score = metrics.didemo_score(ranking((0, 0), (0, 1)), [[0, 0], [0, 0], [0, 1], [3, 3]])
    assert score.rank == pytest.approx(4 / 3)  # 1, 1 and 2


def test_didemo_needs_three_annotators_and_moments_that_are_ranked():
    with pytest.raises(ValueError, match="annotators"):
        metrics.didemo_score(ranking(), [[0, 0], [0, 0]])
    with pytest.raises(ValueError, match=r"\(0, 6\)"):
        metrics.didemo_score(ranking(), [[0, 0], [0, 0], [0, 6]])


def test_windows_become_a_ranking_of_moments():
    # [5,15) is exactly (1,2). [26,29) lies in (5,5). The rest by IoU with [5,15), in fifths of ten
    # seconds: (0,2), (1,3) 10/15; then 1/2: (1,1), (2,2) with 5/10 and (0,3), (1,4) with 10/20
    ranked = metrics.didemo_ranking([[5, 15], [26, 29]])
    assert ranked[:2] == [(1, 2), (5, 5)]
    assert ranked[2:8] == [(0, 2), (1, 3), (1, 1), (2, 2), (0, 3), (1, 4)]
    assert sorted(ranked) == sorted(metrics.DIDEMO_MOMENTS)


def test_a_window_beyond_the_video_and_none_at_all_still_give_a_ranking():
    assert sorted(metrics.didemo_ranking([[90, 95]])) == sorted(metrics.DIDEMO_MOMENTS)
    assert sorted(metrics.didemo_ranking([])) == sorted(metrics.DIDEMO_MOMENTS)


@given(st.lists(st.sampled_from(metrics.DIDEMO_MOMENTS), min_size=1, max_size=8))
def test_windows_that_are_moments_are_ranked_as_they_come(moments):
    ranked = metrics.didemo_ranking([(5 * first, 5 * last + 5) for first, last in moments])
    distinct = list(dict.fromkeys(moments))
    assert ranked[: len(distinct)] == distinct
    assert sorted(ranked) == sorted(metrics.DIDEMO_MOMENTS)


# Bootstrap


def test_a_bootstrap_interval_of_equal_values_is_that_value():
    assert metrics.bootstrap_interval([0.25] * 9) == (0.25, 0.25)


def test_a_bootstrap_interval_is_about_two_standard_errors_wide():
    # 400 coin tosses: the standard error is 0.5 / 20 = 0.025, the interval 0.5 -+ 1.96 * 0.025
    low, high = metrics.bootstrap_interval([0, 1] * 200)
    assert low == pytest.approx(0.5 - 0.049, abs=0.006)
    assert high == pytest.approx(0.5 + 0.049, abs=0.006)
    assert metrics.bootstrap_interval([0, 1] * 200) == (low, high), "the same seed, the same answer"


def test_queries_that_go_together_are_drawn_together():
    # 100 groups of 4 equal values are 100 coin tosses: the standard error is 0.5 / 10 = 0.05
    values = np.repeat([0, 1] * 50, 4)
    names = [f"video {number // 4}" for number in range(400)]
    low, high = metrics.bootstrap_interval(values, groups=names)
    assert low == pytest.approx(0.5 - 0.098, abs=0.012)
    assert high == pytest.approx(0.5 + 0.098, abs=0.012)


def test_groups_of_one_are_no_groups():
    values = [0.1, 0.5, 0.7, 0.9]
    alone = metrics.bootstrap_interval(values, groups=["a", "b", "c", "d"])
    assert alone == metrics.bootstrap_interval(values)


def test_a_bootstrap_needs_values_and_a_share():
    with pytest.raises(ValueError):
        metrics.bootstrap_interval([])
    with pytest.raises(ValueError, match="2 values but 1 names"):
        metrics.bootstrap_interval([1, 2], groups=["a"])
    with pytest.raises(ValueError):
        metrics.bootstrap_interval([1], confidence=1)
