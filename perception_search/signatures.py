"""A decoded frame becomes the tiny signature that cuts are found by; runs in a decode worker.

Every frame of a video passes here, so the planes that the decoder made are looked at where they
lie, at a few thousand points. Only layouts other than planar YUV are converted, and made small.
"""

import re
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from perception_search.cuts import GREY, SIGNATURE_BYTES, SIGNATURE_SHAPE

# 4:2:0 and its like, with 8 bits or up to 16 in little-endian words; a fourth plane is alpha.
_PLANAR = re.compile(r"yuv[aj]?4\d\dp(|9le|1[0246]le)|gray(|9le|1[0246]le)")
_SMALL_FORMAT = "yuv444p"
_HEIGHT, _WIDTH = SIGNATURE_SHAPE

# PyAV 17 and later share such little work among all processors, which takes longer.
ONE_THREAD: dict[str, Any] = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
"""Arguments for PyAV's conversions."""


class Signatures:
    """Makes the signatures of one video's frames."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._format_name = ""
        self._layout: tuple[Any, ...] = ()
        self._points: list[NDArray[np.intp]] = []

    def of(self, frame: Any) -> NDArray[np.uint8]:
        """The signature of a PyAV frame, as `CutFinder.feed` takes it.

        Raises:
            Exception: what PyAV raises at layouts that it cannot convert.
        """
        name = frame.format.name
        if name != self._format_name:
            self._format_name = name
            self._is_planar = bool(_PLANAR.fullmatch(name))
            self._shift = frame.format.components[0].bits - 8 if self._is_planar else 0
        if not self._is_planar:
            frame = self._reformatter.reformat(
                frame, width=_WIDTH, height=_HEIGHT, format=_SMALL_FORMAT, **ONE_THREAD
            )
        planes = frame.planes[:3]
        word: Any = np.uint16 if self._shift else np.uint8
        layout = tuple((p.width, p.height, p.line_size // word().itemsize) for p in planes)
        if layout != self._layout:
            self._layout = layout
            self._points = [_points(*plane, part > 0) for part, plane in enumerate(layout)]
        signature = np.empty(SIGNATURE_BYTES, np.uint8)
        first = 0
        for plane, points in zip(planes, self._points, strict=True):
            values: Any = np.frombuffer(plane, word).take(points)
            signature[first : first + len(points)] = (
                values >> self._shift if self._shift else values
            )
            first += len(points)
        signature[first:] = GREY
        return signature


def _points(width: int, height: int, line_size: int, is_colour: bool) -> NDArray[np.intp]:
    """Where a signature's points lie in a plane; in a tiny one they fall together."""
    num_rows, num_columns = (_HEIGHT // 2, _WIDTH // 2) if is_colour else (_HEIGHT, _WIDTH)
    rows = (2 * np.arange(num_rows) + 1) * height // (2 * num_rows)
    columns = (2 * np.arange(num_columns) + 1) * width // (2 * num_columns)
    return (rows[:, None] * line_size + columns).ravel()
