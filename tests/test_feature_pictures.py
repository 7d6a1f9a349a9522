"""Colours of features against principal components made otherwise; lines where they belong."""

import itertools

import numpy as np
import pytest
from PIL import Image

from perception_search import feature_pictures
from perception_search.feature_matches import Match
from perception_search.feature_pictures import (
    draw_matches,
    enlarged,
    pca_colours,
    shown_size,
    side_by_side,
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def components_slowly(tokens, num=3, steps=2000):
    """Principal components (T, num) by power iteration, a vector at a time."""
    centred = tokens.astype(float) - [
        sum(column) / len(tokens) for column in tokens.T.astype(float)
    ]
    rest, out = centred.copy(), []
    for _ in range(num):
        vector = np.ones(tokens.shape[1])
        for _ in range(steps):
            vector = rest.T @ (rest @ vector)
            vector /= np.sqrt((vector**2).sum())
        largest = max(range(len(vector)), key=lambda entry: abs(vector[entry]))
        vector *= 1 if vector[largest] > 0 else -1
        out.append(centred @ vector)
        rest -= np.outer(rest @ vector, vector)
    return np.stack(out, axis=1)


def srgb_slowly(lightness, a, b):
    """One colour of L*a*b* under D50 as sRGB in 0..255, by the formulas of the CIE and the IEC."""
    fy = (lightness + 16) / 116
    xyz = []
    for white, f in zip((0.9642, 1, 0.8249), (fy + a / 500, fy, fy - b / 200), strict=True):
        xyz.append(white * (f**3 if f > 6 / 29 else 3 * (6 / 29) ** 2 * (f - 4 / 29)))
    to_linear = np.array([
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ])  # fmt: skip
    linear = np.clip(to_linear @ xyz, 0, 1)
    return [255 * (12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055) for v in linear]


def colours_slowly(features):
    """`pca_colours`, a token and a component at a time."""
    num, _, rows, columns = features.shape
    tokens = np.array([
        features[n, :, r, c] for n in range(num) for r in range(rows) for c in range(columns)
    ])  # fmt: skip
    components = components_slowly(tokens)
    shares = np.empty_like(components)
    for number in range(3):
        column = components[:, number]
        low, high = np.quantile(column, 0.01), np.quantile(column, 0.99)
        shares[:, number] = [min(max((value - low) / (high - low), 0), 1) for value in column]
    lab = [
        (20 + 70 * first, 100 * second - 50, 100 * third - 50) for first, second, third in shares
    ]
    return np.array([srgb_slowly(*colour) for colour in lab]).reshape(num, rows, columns, 3)


def stretched(*shape, seed=0):
    """Features whose components differ in size, so that there is one answer."""
    features = noise(*shape, seed=seed)
    return features * np.linspace(1, 5, shape[1], dtype=np.float32)[:, None, None]


@pytest.mark.parametrize("num", [1, 2])
def test_colours_are_those_of_the_definition(num):
    features = stretched(num, 7, 8, 9)
    colours = pca_colours(features)
    assert colours.shape == (num, 8, 9, 3)
    assert colours.dtype == np.uint8
    off = np.abs(colours - colours_slowly(features))
    assert off.mean() < 1
    assert off.max() < 8  # L*, a* and b* are whole numbers on the way, and the gamma is steep


def test_colours_of_the_colour_space_are_converted_by_its_formulas():
    lab = np.array(
        list(itertools.product(range(20, 91, 10), range(-50, 51, 25), range(-50, 51, 25)))
    )
    expected = [srgb_slowly(*colour) for colour in np.rint(lab * (2.55, 1, 1)) / (2.55, 1, 1)]
    np.testing.assert_allclose(
        feature_pictures._srgb(lab.astype(float)), expected, rtol=0, atol=1.5
    )


def test_the_first_component_is_the_lightness():
    features = 0.1 * noise(1, 8, 6, 10)
    features[:, 3, :, 5:] += 10  # the largest entry of the first component, and so positive
    grey = pca_colours(features)[0].mean(axis=2)
    assert grey[:, 5:].min() > grey[:, :5].max() + 50


def test_colours_do_not_depend_on_scale_offset_or_the_run():
    features = stretched(1, 7, 8, 9)
    colours = pca_colours(features)
    np.testing.assert_array_equal(pca_colours(features), colours)
    moved = 3 * features + noise(7, 1, 1, seed=5)
    assert np.abs(pca_colours(moved).astype(int) - colours).max() <= 3


def test_a_colour_means_the_same_in_both_pictures():
    features = stretched(1, 7, 8, 9)
    swapped = np.concatenate([features, features[:, :, ::-1]])
    first, second = pca_colours(swapped)
    np.testing.assert_array_equal(first, second[::-1])
    other = 3 + stretched(1, 7, 8, 9, seed=2)
    alone, together = pca_colours(features)[0], pca_colours(np.concatenate([features, other]))[0]
    assert np.abs(alone.astype(int) - together).max() > 50


def test_an_outlier_does_not_grey_out_the_rest():
    features = stretched(1, 7, 20, 20)
    colours = pca_colours(features)[0]
    features[0, 6, 0, 0] = 100
    after = pca_colours(features)[0]
    assert after[1:].std(axis=(0, 1)).min() > 0.7 * colours[1:].std(axis=(0, 1)).min()


@pytest.mark.parametrize("shape", [(1, 5, 1, 1), (1, 5, 4, 4), (2, 5, 1, 2)])
def test_tokens_that_are_all_the_same_are_grey(shape):
    same = np.broadcast_to(noise(1, shape[1], 1, 1), shape)
    rounding = 1 + 1e-7 * noise(*shape, seed=1)
    colours = pca_colours((same * rounding).astype(np.float32))
    assert np.ptp(colours) <= 1
    assert 100 < colours.mean() < 160


def test_rows_stay_rows_when_colours_are_enlarged():
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[0, 2] = (200, 100, 50)
    picture = enlarged(colours, (40, 60))
    assert picture.size == (60, 40)
    assert picture.getpixel((55, 5)) == (200, 100, 50)
    assert picture.getpixel((5, 5)) == picture.getpixel((55, 35)) == (0, 0, 0)
    blended = [picture.getpixel((x, 5))[0] for x in range(28, 52)]
    assert blended == sorted(blended)
    assert len(set(blended)) > 10


@pytest.mark.parametrize(("size", "shown"), [
    ((512, 1024), (512, 1024)),
    ((2000, 1000), (512, 256)),
    ((10, 10), (512, 512)),
    ((100, 400), (256, 1024)),
    ((1, 100_000), (1, 1024)),
    ((100_000, 1), (512, 1)),
])  # fmt: skip
def test_pictures_are_shown_at_one_height_unless_they_are_too_wide(size, shown):
    assert shown_size(size) == shown


def test_pictures_stand_side_by_side_on_white():
    both = side_by_side(Image.new("RGB", (30, 20), "red"), Image.new("RGB", (10, 40), "blue"))
    assert both.size == (30 + 8 + 10, 40)
    assert both.getpixel((29, 19)) == (255, 0, 0)
    assert both.getpixel((38, 39)) == (0, 0, 255)
    assert both.getpixel((34, 10)) == both.getpixel((10, 30)) == (255, 255, 255)


def match(x, y, other_x, other_y, *, mutual=True):
    return Match(0.5, mutual, 0, x, y, 0, other_x, other_y)


def test_a_line_joins_the_two_points_where_they_are_shown():
    left, right = Image.new("RGB", (100, 50)), Image.new("RGB", (60, 40))
    # the files are larger: a pixel there is half a pixel, and a third, as shown
    picture = draw_matches(left, right, [match(40, 60, 90, 60)], (100, 200), (120, 180))
    assert picture.size == (168, 50)
    drawn = np.asarray(picture).max(axis=2) > 100
    white = np.zeros_like(drawn)
    white[:, 100:108] = True  # the gap
    white[40:, 108:] = True  # below the lower picture
    ys, xs = np.nonzero(drawn & ~white)
    assert (xs.min(), xs.max()) == pytest.approx((20, 108 + 30), abs=4)
    assert (ys.min(), ys.max()) == pytest.approx((20, 30), abs=4)
    middle = ys[xs == 60]
    assert len(middle) <= 3
    assert middle.mean() == pytest.approx(30 - 10 * (60 - 20) / (138 - 20), abs=1.5)


def test_only_mutual_matches_have_colour():
    left = right = Image.new("RGB", (100, 50))

    def colourfulness(**how):
        drawn = draw_matches(left, right, [match(50, 25, 50, 25, **how)], (50, 100), (50, 100))
        return int(np.ptp(np.asarray(drawn).astype(int), axis=2).max())

    assert colourfulness(mutual=True) > 150
    assert colourfulness(mutual=False) == 0


def test_the_best_match_is_drawn_over_the_others():
    left = right = Image.new("RGB", (100, 50))
    lines = [match(10, 25, 90, 25), match(10, 25, 90, 25, mutual=False)]
    drawn = np.asarray(draw_matches(left, right, lines, (50, 100), (50, 100)))
    assert np.ptp(drawn[25, 50].astype(int)) > 50
