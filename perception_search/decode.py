"""A media file becomes RGB frames, in a worker process; knows no model, no store."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class FrameSpec:
    """The pixels an encoder wants; made by the encoder, obeyed here."""

    height: int
    width: int
    resize: Literal["squash", "centre_crop"] = "squash"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    apply_exif: bool = True
    fast_jpeg: bool = True


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video are taken; fixed when a collection is made."""

    frames_per_second: float = 1.0
    num_uniform_frames: int = 8


@dataclass(frozen=True)
class Frames:
    """Some frames of one file, in time order. An image is T = 1.

    Attributes:
        pixels: uint8 (T, 3, H, W) RGB at the encoder's size.
        pts_seconds: float64 (T,), from the start of the video; 0 for an image.
        on_grid: bool (T,), the frame stands for one point of the time grid.
        num_uniform: int64 (T,), how many of the whole-video protocol's frames it is.
    """

    pixels: NDArray[np.uint8]
    pts_seconds: NDArray[np.float64]
    on_grid: NDArray[np.bool_]
    num_uniform: NDArray[np.int64]


@dataclass(frozen=True)
class MediaItem:
    """One decodable file: what it is and what it says of itself. Absent facts are None."""

    path: Path
    kind: Literal["image", "video"]
    content_hash: str
    size_bytes: int
    modified_ns: int
    width: int
    height: int
    duration_seconds: float | None = None
    taken_at: str | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None


