import numpy as np
import pytest

from perception_search.shots import boundaries

DIM = 64


def film(lengths, *, motion=0.05, seed=0, dim=DIM, offset=0.0):
    """Unit embeddings (T, dim) of shots of so many frames, and their times, one a second.

    Every shot has a direction of its own, as similar to the others as `offset` makes it, around
    which its frames wander.
    """
    random = np.random.default_rng(seed)
    common = random.normal(size=dim)
    shots = [random.normal(size=dim) + offset * common for _ in lengths]
    frames = [
        shot / np.linalg.norm(shot) + motion * random.normal(size=dim) / np.sqrt(dim)
        for shot, length in zip(shots, lengths, strict=True)
        for _ in range(length)
    ]
    frames = np.array(frames, np.float32).reshape(-1, dim)
    return frames / np.linalg.norm(frames, axis=1, keepdims=True), np.arange(float(len(frames)))


def test_a_cut_between_two_shots_begins_a_shot_to_the_frame():
    embeddings, times = film([5, 6, 4])
    assert boundaries([4.52, 10.8], embeddings, times) == [0.0, 4.52, 10.8]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("motion", [0.02, 0.15])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_without_cuts_the_embeddings_tell_between_which_frames(seed, motion, offset):
    lengths = [5, 3, 8, 2, 6, 20]
    embeddings, times = film(lengths, seed=seed, motion=motion, offset=offset)
    starts = np.cumsum(lengths)[:-1]
    assert boundaries(None, embeddings, times) == [0.0, *(starts - 0.5).tolist()]


@pytest.mark.parametrize("motion", [0.0, 0.02, 0.3, 1.0])
def test_one_shot_has_no_boundary_however_lively(motion):
    embeddings, times = film([200], motion=motion)
    assert boundaries(None, embeddings, times) == [0.0]
    assert boundaries([], embeddings.astype(np.float16), times) == [0.0]


def test_a_slow_drift_is_no_boundary():
    angles = np.linspace(0, np.pi / 2, 60)
    embeddings = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert boundaries([], embeddings, np.arange(60.0)) == [0.0]


def test_a_cut_to_the_same_picture_is_dropped():
    embeddings, times = film([30])
    still = np.repeat(embeddings[:1], 30, axis=0)
    assert boundaries([10.4, 10.6], still, times) == [0.0]
    # Between other shots one that differs no more than usual is none either.
    embeddings, times = film([10, 10, 10], motion=0.2)
    calm = embeddings.copy()
    calm[5] = calm[4]
    assert boundaries([4.4, 9.5, 19.5], calm, times) == [0.0, 9.5, 19.5]


def test_a_dissolve_without_a_cut_gives_one_boundary_in_its_middle():
    embeddings, times = film([10, 10])
    mixed = (embeddings[9] + embeddings[10]) / np.linalg.norm(embeddings[9] + embeddings[10])
    with_one_between = np.insert(embeddings, 10, mixed, axis=0)
    assert boundaries([], embeddings, times) == [0.0, 9.5]
    assert boundaries([], with_one_between, np.arange(21.0)) == [0.0, 10.0]


def test_a_cut_is_not_told_twice():
    embeddings, times = film([10, 10, 10])
    assert boundaries([9.3], embeddings, times) == [0.0, 9.3, 19.5]


def test_a_shot_too_short_for_the_grid_keeps_its_cuts_if_what_follows_is_another():
    embeddings, times = film([10, 10])
    assert boundaries([9.2, 9.8], embeddings, times) == [0.0, 9.2, 9.8]


@pytest.mark.parametrize("num", [0, 1, 2, 3])
def test_the_shortest_videos_keep_their_cuts(num):
    embeddings, times = film([1] * num)
    cuts = [0.4, 1.4, 2.4][:num]
    expected = [0.0, *cuts]
    assert boundaries(cuts, embeddings, times) == expected
    assert boundaries(None, embeddings, times) == [0.0]


def test_a_cut_at_a_grid_frame_is_before_it():
    embeddings, times = film([5, 5])
    assert boundaries([5.0], embeddings, times) == [0.0, 5.0]
    assert boundaries([5.0005], embeddings, times) == [0.0, 5.0005]


def test_frames_and_times_must_agree():
    with pytest.raises(ValueError, match="one each"):
        boundaries([], np.zeros((3, 4)), np.zeros(2))
