import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_files import grid_slowly, uniform_slowly

from perception_search.frames import Sampling, uniform_indices
from perception_search.video_sampling import (
    MAX_FRAMES_PER_CHUNK,
    Clock,
    Shown,
    Tally,
    in_chunks,
    sample,
    sample_uniform,
)


def pixels(number):
    return np.full((3, 1, 1), number % 256, np.uint8)


def shown(times, duration=0.04):
    """Frames that count how often their pixels are made."""
    made = []

    def make(number):
        made.append(number)
        return pixels(number)

    frames = [Shown(time, duration, functools.partial(make, i)) for i, time in enumerate(times)]
    return frames, made


def sampled(times, frames_per_second=1.0, uniform=(), duration=0.04):
    tally = Tally()
    frames, made = shown(times, duration)
    sampling = Sampling(frames_per_second)
    return list(sample(frames, sampling, uniform, tally)), tally, made


def numbers(wanted):
    return [int(frame.pixels[0, 0, 0]) for frame in wanted]


@given(
    st.lists(st.floats(0, 3), min_size=1, max_size=60),
    st.sampled_from([0.3, 1.0, 2.0, 7.5]),
    st.floats(0, 5),
)
def test_the_grid_is_the_frame_on_screen_at_every_point(steps, frames_per_second, duration):
    times = np.cumsum([0.0, *steps[1:]]).tolist()
    wanted, tally, made = sampled(times, frames_per_second, duration=duration)
    expected = grid_slowly(times, times[-1] + duration, frames_per_second)
    assert numbers(wanted) == expected
    assert [w.pts_seconds for w in wanted] == [j / frames_per_second for j in range(len(expected))]
    assert all(w.on_grid for w in wanted)
    assert made == sorted(set(expected))  # each frame that is wanted is made once, no other is
    assert tally == Tally(len(times), times[-1] + duration)


@given(st.integers(1, 60), st.integers(1, 12), st.sampled_from([0.5, 1.0, 25.0]))
def test_whole_video_frames_are_counted_beside_the_grid(num_frames, count, frames_per_second):
    times = [i / 10 for i in range(num_frames)]
    uniform = uniform_indices(num_frames, count)
    wanted, _, _ = sampled(times, frames_per_second, uniform)
    of_video = [
        n for n, w in zip(numbers(wanted), wanted, strict=True) for _ in range(w.num_uniform)
    ]
    assert of_video == uniform_slowly(num_frames, count)
    on_grid = [n for n, w in zip(numbers(wanted), wanted, strict=True) if w.on_grid]
    assert on_grid == grid_slowly(times, times[-1] + 0.04, frames_per_second)
    assert [w.pts_seconds for w in wanted] == sorted(w.pts_seconds for w in wanted)


def test_a_frame_that_is_a_millisecond_late_is_on_time():
    times = [0.0, 0.5, 1.0009, 1.5]
    assert numbers(sampled(times)[0]) == [0, 2]
    assert numbers(sampled([0.0, 0.5, 1.0011, 1.5])[0]) == [0, 1]


def test_any_video_with_a_frame_has_a_grid_point():
    wanted, tally, _ = sampled([0.0], duration=0.0)
    assert [(w.pts_seconds, w.on_grid) for w in wanted] == [(0.0, True)]
    assert tally == Tally(1, 0.0)


def test_a_video_without_frames_yields_none():
    assert sampled([])[0] == []


def test_signs_of_life_pass_through():
    frames, _ = shown([0.0, 1.0])
    stream = [None, frames[0], None, frames[1]]
    tally = Tally()
    assert [f is None for f in sample(stream, Sampling(), [], tally)] == [True, True, False, False]
    chunks = list(in_chunks(iter([None, *sample(frames, Sampling(), [], Tally()), None])))
    assert [c is None for c in chunks] == [True, True, False]


def test_a_second_pass_fetches_the_frames_by_number():
    frames, made = shown([i / 10 for i in range(10)])
    wanted = list(sample_uniform(frames, [0, 4, 4, 9]))
    assert [(int(w.pixels[0, 0, 0]), w.num_uniform, w.on_grid) for w in wanted] == [
        (0, 1, False),
        (4, 2, False),
        (9, 1, False),
    ]
    assert made == [0, 4, 9]


def test_a_second_pass_that_finds_fewer_frames_still_gives_all():
    frames, _ = shown([0.0, 0.1])
    wanted = list(sample_uniform(frames, [0, 2, 5, 7]))
    assert [(int(w.pixels[0, 0, 0]), w.num_uniform) for w in wanted] == [(0, 1), (1, 3)]


def test_chunks_are_small_and_lose_nothing():
    wanted, _, _ = sampled([float(i) for i in range(40)], uniform=[0, 39])
    chunks = list(in_chunks(wanted))
    assert [len(c.pixels) for c in chunks] == [MAX_FRAMES_PER_CHUNK, MAX_FRAMES_PER_CHUNK, 8]
    assert np.concatenate([c.pixels for c in chunks])[:, 0, 0, 0].tolist() == list(range(40))
    assert np.concatenate([c.num_uniform for c in chunks]).sum() == 2
    assert chunks[0].pts_seconds.dtype == np.float64
    assert chunks[0].on_grid.dtype == np.bool_


def times_of(stamps, frame_seconds=0.04):
    clock = Clock(frame_seconds)
    return [clock.seconds(stamp) for stamp in stamps]


def test_time_counts_from_the_first_frame():
    assert times_of([90.0, 90.04, 90.08]) == pytest.approx([0, 0.04, 0.08])
    assert times_of([-3.0, -2.5]) == pytest.approx([0, 0.5])


def test_a_missing_time_is_one_frame_later():
    assert times_of([None, None, None]) == pytest.approx([0, 0.04, 0.08])
    assert times_of([5.0, None, 5.08]) == pytest.approx([0, 0.04, 0.08])
    assert times_of([None, 5.0, 5.04]) == pytest.approx([0, 0.04, 0.08])


def test_time_never_runs_back():
    assert times_of([0.0, 0.08, 0.04, 0.12]) == pytest.approx([0, 0.08, 0.08, 0.12])
    # a recording whose clock was set again: it goes on from there
    assert times_of([100.0, 100.04, 0.0, 0.04]) == pytest.approx([0, 0.04, 0.08, 0.12])


def test_a_long_still_picture_is_believed_and_a_jump_of_years_is_not():
    assert times_of([0.0, 1800.0, 1800.04]) == pytest.approx([0, 1800, 1800.04])
    assert times_of([0.0, 1e9, 1e9 + 0.04]) == pytest.approx([0, 0.04, 0.08])


@given(st.lists(st.one_of(st.none(), st.floats(-1e12, 1e12)), max_size=300))
def test_no_timestamps_ask_for_millions_of_points(stamps):
    times = times_of(stamps)
    assert times == sorted(times)
    if times:
        assert times[-1] <= 6 * 3600 + 10 * len(times)


def test_many_jumps_are_not_better_than_one():
    times = times_of([3000.0 * i for i in range(1000)])
    assert times[-1] <= 6 * 3600 + 0.04 * 1000


def test_what_counts_as_a_still_picture_can_be_longer():
    stamps = [40.0 * i for i in range(1000)]  # eleven hours, of key frames
    clock = Clock(0.04, still_seconds=60.0)
    assert [clock.seconds(stamp) for stamp in stamps] == pytest.approx(stamps)
    assert times_of(stamps)[-1] < 7 * 3600
