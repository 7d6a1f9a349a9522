"""A media file becomes RGB frames, in a worker process; knows no model, no store."""

from perception_search.frames import (
    Frames,
    FrameSpec,
    MediaItem,
    Sampling,
    prepare_image,
    uniform_indices,
)

__all__ = [
    "FrameSpec",
    "Frames",
    "MediaItem",
    "Sampling",
    "prepare_image",
    "uniform_indices",
]
