"""A picture becomes the tiles, and a video the frames, that Perception LM looks at.

Source: transformers' `image_processing_perception_lm` and perception_models' `image_transform.py`
and `video_transform.py`. Every tile, frame and thumbnail is 448 x 448.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from perception_search.frames import Frames, FrameSpec, MediaItem, Sampling

SIDE = 448
MAX_TILES = 36
MAX_FRAMES = 32

Decode = Callable[[FrameSpec, Sampling], tuple[MediaItem, Frames]]
"""Reads one file at a size; `MediaReader.decode` with its path filled in."""


def grid_for(width: int, height: int, max_tiles: int = MAX_TILES) -> tuple[int, int]:
    """How many tiles across and down a picture of this size is cut into.

    Of the grids that hold it without making it smaller the one that shows its shorter side
    largest; where none does, the one whose shape comes nearest.

    Args:
        width: of the picture, in pixels.
        height: of the picture.
        max_tiles: tiles at most; 1 for the picture as a whole.
    """
    grids = [
        (across, count // across)
        for count in range(max_tiles, 0, -1)
        for across in range(1, count + 1)
        if count % across == 0
    ]
    fitting = [(w, h) for w, h in grids if w * SIDE >= width and h * SIDE >= height]
    if fitting:
        # of equals the later, which has fewer tiles: so the reference decides
        return max(reversed(fitting), key=lambda grid: _shorter_side(width, height, *grid))
    shape = width / height
    if shape >= 1:
        nearest = max(w / h for w, h in grids if w / h <= shape)
    else:
        nearest = min(w / h for w, h in grids if w / h > shape)
    return next((w, h) for w, h in grids if w / h == nearest)


def _shorter_side(width: int, height: int, across: int, down: int) -> int:
    """Pixels of the shorter side of a picture that is fitted into a grid, rounded down."""
    scale = min(across * SIDE / width, down * SIDE / height)
    return int(width * scale) if width < height else int(height * scale)


def split(pixels: NDArray[np.uint8], across: int, down: int) -> NDArray[np.uint8]:
    """(across * down, 3, 448, 448) row by row, of a picture (3, down * 448, across * 448)."""
    tiles = pixels.reshape(3, down, SIDE, across, SIDE)
    return tiles.transpose(1, 3, 0, 2, 4).reshape(-1, 3, SIDE, SIDE)


def spec_of(across: int = 1, down: int = 1) -> FrameSpec:
    """Pixels of a whole grid: stretched, bicubic, converted to RGB before they are resized."""
    return FrameSpec(
        down * SIDE,
        across * SIDE,
        interpolation="bicubic",
        fast_jpeg=False,
        rgb_first=True,
    )


def chunks_of(
    decode: Decode,
    *,
    max_tiles: int = 1,
    max_frames: int = 8,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> NDArray[np.uint8]:
    """What the model is shown of one file: (N, 3, 448, 448) uint8.

    Of a picture the whole and then its tiles; the whole alone for one tile. Of a video frames in
    order.

    Args:
        decode: reads the file.
        max_tiles: of a picture.
        max_frames: of a video.
        start_seconds: of the stretch of a video that is looked at; None from its start.
        end_seconds: of the stretch; None to its end.

    Raises:
        MediaError: the file cannot be used.
    """
    sampling = Sampling(
        grid="none",
        num_uniform_frames=max_frames,
        uniform="perception-lm",
        start_seconds=start_seconds,
        end_seconds=end_seconds,
    )
    item, frames = decode(spec_of(), sampling)
    if item.kind == "video" or max_tiles == 1:
        return np.repeat(frames.pixels, frames.num_uniform, axis=0)
    across, down = grid_for(item.width, item.height, max_tiles)
    _, whole = decode(spec_of(across, down), sampling)
    return np.concatenate([frames.pixels, split(whole.pixels[0], across, down)])
