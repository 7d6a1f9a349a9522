"""Nearest tokens, against loops over all pairs, and on pictures of which the answer is known."""

import numpy as np
import pytest

from perception_search import feature_matches
from perception_search.feature_matches import match_tokens

SIZE, OTHER_SIZE = (60, 100), (90, 40)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def patches_of(picture, patch):
    """A map whose features are the pixels of the patches themselves."""
    height, width = picture.shape
    cells = picture.reshape(height // patch, patch, width // patch, patch)
    return np.ascontiguousarray(
        cells.transpose(1, 3, 0, 2).reshape(patch * patch, *cells.shape[::2])
    )


def match_slowly(features, other_features):
    """(token, nearest, cosine, mutual) by definition, a pair at a time."""

    def tokens_of(features):
        _, rows, columns = features.shape
        return [features[:, r, c].astype(float) for r in range(rows) for c in range(columns)]

    def cosine(a, b):
        return sum(a * b) / (sum(a * a) ** 0.5 * sum(b * b) ** 0.5)

    def nearest_to(token, others):
        return max(range(len(others)), key=lambda other: cosine(token, others[other]))

    ours, theirs = tokens_of(features), tokens_of(other_features)
    for number, token in enumerate(ours):
        nearest = nearest_to(token, theirs)
        mutual = nearest_to(theirs[nearest], ours) == number
        yield number, nearest, cosine(token, theirs[nearest]), mutual


@pytest.mark.parametrize("rows_at_once", [1, 5, 1024])
def test_each_token_has_the_nearest_of_all_the_best_first(monkeypatch, rows_at_once):
    monkeypatch.setattr(feature_matches, "_ROWS_AT_ONCE", rows_at_once)
    features, other_features = noise(6, 4, 5), noise(6, 3, 7, seed=1)
    matches = match_tokens(features, other_features, SIZE, OTHER_SIZE)
    expected = sorted(match_slowly(features, other_features), key=lambda row: -row[2])
    assert [(m.token, m.other_token, m.mutual) for m in matches] == [
        (token, nearest, mutual) for token, nearest, _, mutual in expected
    ]
    np.testing.assert_allclose([m.cosine for m in matches], [row[2] for row in expected])
    assert {m.mutual for m in matches} == {True, False}


def test_points_are_the_centres_of_the_tokens_in_the_pictures_themselves():
    matches = match_tokens(noise(6, 3, 5), noise(6, 9, 2, seed=1), (60, 100), (90, 40))
    for m in matches:
        assert (m.x, m.y) == (20 * (m.token % 5) + 10, 20 * (m.token // 5) + 10)
        assert (m.other_x, m.other_y) == (
            20 * (m.other_token % 2) + 10,
            10 * (m.other_token // 2) + 5,
        )


def test_a_picture_matches_itself_everywhere():
    features = noise(16, 8, 9)
    matches = match_tokens(features, features, SIZE, SIZE)
    assert [m.token for m in sorted(matches, key=lambda m: m.token)] == list(range(72))
    for m in matches:
        assert m.cosine == pytest.approx(1, abs=1e-12)
        assert (m.token, m.x, m.y) == (m.other_token, m.other_x, m.other_y)
        assert m.mutual


def test_a_shifted_copy_matches_at_the_shift():
    picture = noise(80, 120)
    left = patches_of(picture[:64, :96], 8)
    right = patches_of(picture[16:, 24:], 8)  # what is at x, y there is at x + 24, y + 16 here
    matches = match_tokens(left, right, (64, 96), (64, 96))
    exact = [m for m in matches if m.cosine > 0.999]
    assert len(exact) == 6 * 9  # all that both show
    assert all((m.x - m.other_x, m.y - m.other_y) == (24, 16) for m in exact)
    assert all(m.mutual for m in exact)
    assert matches[: len(exact)] == exact


def test_the_length_of_a_token_does_not_matter_and_none_at_all_is_no_error():
    features = noise(6, 2, 2)
    scaled = features * np.array([[1, 1000], [0.001, 7]], np.float32)
    assert all(m.token == m.other_token for m in match_tokens(scaled, features, SIZE, SIZE))
    features[:, 0, 0] = 0
    by_token = {m.token: m for m in match_tokens(features, features, SIZE, SIZE)}
    assert by_token[0].cosine == 0
    assert by_token[3].cosine == pytest.approx(1)
