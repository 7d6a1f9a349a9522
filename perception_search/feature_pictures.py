"""Features as pictures: colours by principal components, lines between tokens that match."""

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageDraw

from perception_search.feature_matches import Match
from perception_search.frames import FrameSpec, prepare_image

_LIGHTNESS = (20.0, 90.0)  # of 0..100: neither black nor white, which show no hue
_HUES = (-50.0, 50.0)  # of both axes: green to red, blue to yellow
_PERCENTILES = (1, 99)
_ROUNDING = 1e-6  # of the largest feature: what differs by less is the same

_SHOWN_HEIGHT, _SHOWN_WIDTH = 512, 1024
_GAP = 8
_FINER = 2  # lines are drawn at twice the size, so that they come out smooth
_GREY = (150, 150, 150)


def pca_colours(features: NDArray[np.float32]) -> NDArray[np.uint8]:
    """One colour a token: uint8 (N, rows, columns, 3), sRGB.

    After the pictures of PE-Spatial in Perception Encoder's README (`apps/pe`), which show the
    principal components of the tokens in the colour space LCh. The tokens of all pictures are
    centred and get one basis, so that a colour means the same in each. Here the first component
    is the lightness and the next two are the axes of the plane of hues: the hue is their angle,
    the chroma their length. The share of each component between its 1st and 99th percentile is
    what is shown, so that a few outliers do not grey out the rest.

    The same features always give the same colours: the basis is that of an exact eigenvalue
    decomposition, with the largest entry of each vector positive.

    Args:
        features: maps (N, D, rows, columns), D >= 3.
    """
    num_pictures, dim, rows, columns = features.shape
    tokens = features.transpose(0, 2, 3, 1).reshape(-1, dim).astype(np.float64)  # (N * R * C, D)
    rounding = _ROUNDING * np.abs(tokens).max()
    components = _principal_components(tokens)  # (N * R * C, 3)
    low, high = np.percentile(components, _PERCENTILES, axis=0)
    differs = high - low > rounding
    shares = (components - low) / np.where(differs, high - low, 1)
    shares = np.where(differs, shares.clip(0, 1), 0.5)
    least, most = np.array([_LIGHTNESS, _HUES, _HUES]).T
    colours = _srgb(least + shares * (most - least))
    return colours.reshape(num_pictures, rows, columns, 3)


def enlarged(colours: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    """One picture's colours (rows, columns, 3) at a size (height, width), blended in between."""
    height, width = size
    pixels = prepare_image(Image.fromarray(colours), FrameSpec(height, width))
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size (height, width) at which a picture is shown beside another."""
    height, width = size
    scale = min(_SHOWN_HEIGHT / height, _SHOWN_WIDTH / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures as one, on white."""
    size = left.width + _GAP + right.width, max(left.height, right.height)
    both = Image.new("RGB", size, "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + _GAP, 0))
    return both


def draw_matches(
    left: Image.Image,
    right: Image.Image,
    matches: Sequence[Match],
    size: tuple[int, int],
    other_size: tuple[int, int],
) -> Image.Image:
    """Two pictures side by side and a line for each match: in colour if mutual, else grey.

    Args:
        left: the picture that the matches are of, at the size it is to be shown.
        right: the other one.
        matches: the best first; they are drawn over the rest.
        size: height and width that the matches' pixels are of.
        other_size: the same of the other picture.
    """
    both = side_by_side(left, right)
    canvas = both.resize((both.width * _FINER, both.height * _FINER), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(canvas)
    across, down = _scale(left, size)
    other_across, other_down = _scale(right, other_size)
    other_left = (left.width + _GAP) * _FINER
    for rank, match in reversed(list(enumerate(matches))):
        colour = _colour(rank) if match.mutual else _GREY
        start = match.x * across, match.y * down
        end = other_left + match.other_x * other_across, match.other_y * other_down
        pen.line([start, end], colour, width=_FINER)
        for point in (start, end):
            pen.circle(point, 3 * _FINER, fill=colour, outline="white")
    return canvas.reduce(_FINER)


def _scale(picture: Image.Image, size: tuple[int, int]) -> tuple[float, float]:
    """Points of the canvas a pixel, across and down."""
    return picture.width * _FINER / size[1], picture.height * _FINER / size[0]


def _principal_components(tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first three (T, 3) of the tokens (T, D), which are centred in place."""
    tokens -= tokens.mean(axis=0)
    _, vectors = np.linalg.eigh(tokens.T @ tokens)  # ascending
    basis = vectors[:, :-4:-1]  # (D, 3), of the largest first
    largest = np.abs(basis).argmax(axis=0)
    basis = basis * np.sign(basis[largest, np.arange(3)])
    return np.asarray(tokens @ basis)


def _srgb(lab: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours (T, 3) in L*a*b* as sRGB; the nearest there is where a screen has no such colour."""
    steps = np.rint(lab * (2.55, 1, 1)).astype(np.int16).astype(np.uint8)  # a, b: two's complement
    picture = Image.frombytes("LAB", (len(lab), 1), steps.tobytes())
    to_srgb = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"),
        ImageCms.createProfile("sRGB"),
        "LAB",
        "RGB",
        flags=ImageCms.Flags.NOOPTIMIZE,  # which is off by up to 19 of 255
    )
    converted = ImageCms.applyTransform(picture, to_srgb)
    if converted is None:
        raise AssertionError
    colours: NDArray[np.uint8] = np.asarray(converted)[0]
    return colours


def _colour(rank: int) -> tuple[int, int, int]:
    """Hues that differ from one rank to the next, as far as there are any."""
    red, green, blue = colorsys.hsv_to_rgb(rank * 0.618 % 1, 0.9, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)
