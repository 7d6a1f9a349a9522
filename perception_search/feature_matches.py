"""Which token of one picture is nearest to which of another; knows features, and no pictures."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Match:
    """A token of a picture and the nearest to it of another picture.

    Attributes:
        cosine: of the two tokens.
        mutual: whether the other token has none nearer either.
        token: its number, row by row from the upper left corner; a class token is not counted.
        x: of the token's centre, in pixels from the left edge of its picture.
        y: of the token's centre, in pixels from the upper edge.
        other_token: the number of the nearest one.
        other_x: of its centre, in pixels of the other picture.
        other_y: of its centre.
    """

    cosine: float
    mutual: bool
    token: int
    x: float
    y: float
    other_token: int
    other_x: float
    other_y: float


def match_tokens(
    features: NDArray[np.float32],
    other_features: NDArray[np.float32],
    size: tuple[int, int],
    other_size: tuple[int, int],
) -> list[Match]:
    """The nearest token of the other picture for each token, the highest cosine first.

    Args:
        features: the map (D, rows, columns) of a picture.
        other_features: that of the other one; its grid may be another.
        size: height and width of the picture, whatever the size it was squashed to for its map.
        other_size: height and width of the other picture.
    """
    tokens, others = _unit_tokens(features), _unit_tokens(other_features)
    nearest, cosines = _nearest(tokens, others)
    nearest_back, _ = _nearest(others, tokens)
    mutual = nearest_back[nearest] == np.arange(len(tokens))
    centres = _centres(features.shape[1:], size)
    other_centres = _centres(other_features.shape[1:], other_size)
    return [
        Match(
            cosine=float(cosines[token]),
            mutual=bool(mutual[token]),
            token=int(token),
            x=float(centres[token, 0]),
            y=float(centres[token, 1]),
            other_token=int(nearest[token]),
            other_x=float(other_centres[nearest[token], 0]),
            other_y=float(other_centres[nearest[token], 1]),
        )
        for token in np.argsort(-cosines, kind="stable")
    ]


def _unit_tokens(features: NDArray[np.float32]) -> NDArray[np.float64]:
    tokens = features.reshape(len(features), -1).T.astype(np.float64)  # (rows * columns, D)
    lengths = np.linalg.norm(tokens, axis=1, keepdims=True)
    units: NDArray[np.float64] = tokens / np.maximum(lengths, np.finfo(np.float64).tiny)
    return units


def _nearest(
    tokens: NDArray[np.float64], others: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Number and cosine of the nearest of the others to each; the first of equals."""
    nearest = np.empty(len(tokens), np.intp)
    cosines = np.empty(len(tokens))
    for start in range(0, len(tokens), _ROWS_AT_ONCE):  # all at once may not fit in memory
        rows = slice(start, start + _ROWS_AT_ONCE)
        products = tokens[rows] @ others.T
        nearest[rows] = products.argmax(axis=1)
        cosines[rows] = products.max(axis=1)
    return nearest, cosines


def _centres(grid: tuple[int, ...], size: tuple[int, int]) -> NDArray[np.float64]:
    """The centres (rows * columns, 2) of a grid's cells in a picture: x, y."""
    (rows, columns), (height, width) = grid, size
    y, x = np.mgrid[0:rows, 0:columns] + 0.5
    return np.stack([x.ravel() * width / columns, y.ravel() * height / rows], axis=1)
