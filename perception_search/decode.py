"""A media file becomes RGB frames, in worker processes; knows no model and no store.

A worker costs one file when it crashes, hangs or runs out of memory: the file is tried once more
in a fresh one and then given up. This is the way in; the parts are

    frames            the types; a picture becomes the pixels an encoder wants
    decode_pool       many files, many workers                      -> events
    decode_single     one file at a time: queries, thumbnails
    decode_events     the talk with a worker about one file
    decode_process    a worker, as its parent sees it
    decode_worker     what runs in the worker: decode_image, decode_video or decode_torchcodec
"""

import contextlib
from functools import cache
from importlib import metadata

from perception_search.decode_events import (
    Decoded,
    Event,
    Failed,
    ForgetUniform,
    Known,
    Restarted,
)
from perception_search.decode_pool import DecodePool
from perception_search.decode_single import MediaReader, decode_file, thumbnail
from perception_search.frames import (
    Frames,
    FrameSpec,
    MediaItem,
    Sampling,
    prepare_image,
    uniform_indices,
)

__all__ = [
    "DecodePool",
    "Decoded",
    "Event",
    "Failed",
    "ForgetUniform",
    "FrameSpec",
    "Frames",
    "Known",
    "MediaItem",
    "MediaReader",
    "Restarted",
    "Sampling",
    "decode_file",
    "decoder_version",
    "prepare_image",
    "thumbnail",
    "uniform_indices",
]

_RULES = 1  # raised when the same bytes may now have another outcome or other pixels


@cache
def decoder_version() -> str:
    """What decodes: a file that failed may be tried again under another one."""
    packages = [f"{name}-{metadata.version(name)}" for name in ("pillow", "av")]
    with contextlib.suppress(metadata.PackageNotFoundError):
        packages.append(f"pillow-heif-{metadata.version('pillow-heif')}")
    return " ".join([f"rules-{_RULES}", *packages])
