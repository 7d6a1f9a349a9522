"""The vectors of the index benchmarks are the same everywhere, so that figures compare."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
from vectors import Vectors


@pytest.fixture(scope="module")
def vectors():
    drawn = Vectors(1024, seed=0)
    return drawn.images(1000), drawn.texts(100)


def test_they_are_those_that_were_drawn_before(vectors):
    images, texts = vectors
    assert (images.dtype, images.shape, texts.shape) == (np.float32, (1000, 1024), (100, 1024))
    sums = images[:, :8].sum(axis=0, dtype=np.float64)
    expected = [15.83697, -3.25085, -6.71411, -6.41091, -2.65696, -7.58523, -5.54200, -3.22512]
    np.testing.assert_allclose(sums, expected, atol=2e-4)
    assert images.sum(dtype=np.float64) == pytest.approx(817.784, abs=0.01)
    assert np.abs(images).sum(dtype=np.float64) == pytest.approx(25563.22, abs=0.05)
    assert texts.sum(dtype=np.float64) == pytest.approx(75.842, abs=0.005)
    assert np.abs(texts).sum(dtype=np.float64) == pytest.approx(2549.530, abs=0.02)


def test_texts_lie_on_the_other_side_of_a_gap(vectors):
    images, texts = vectors
    for each in vectors:
        np.testing.assert_allclose(np.linalg.norm(each, axis=1), 1, atol=1e-5)
    among = (images[:100] @ images[100:200].T).mean()
    across = (images[:100] @ texts.T).mean()
    assert among > 0.25
    assert across < 0
