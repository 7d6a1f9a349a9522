"""H.264 videos of synthetic moving things, as a usual encoder makes them."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

FRAMES_PER_SECOND = 30
KEY_FRAME_INTERVAL = 250

_SCENE_SECONDS = (2, 14)
_MARGIN = 480
_NOISE_LEVELS = 5


def write_video(
    path: Path, seconds: int, size: tuple[int, int], *, loop_seconds: int = 60, seed: int = 0
) -> None:
    """`seconds` of moving things, H.264 with key frames at cuts and every 250 frames.

    What is longer than `loop_seconds` repeats its packets: the same work for a decoder, and made
    in a moment. (Points spread over such a video do not fall on the same frames.)
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "23", "g": str(KEY_FRAME_INTERVAL)}
        stream.thread_type = "AUTO"
        num_frames = min(seconds, loop_seconds) * FRAMES_PER_SECOND
        packets = []
        for picture in moving_things(num_frames, size, seed):
            packets += stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        packets += stream.encode()
        times = [(packet.pts, packet.dts, packet.time_base) for packet in packets]
        ticks_per_frame = round(1 / (FRAMES_PER_SECOND * packets[0].time_base))
        for first in range(0, seconds * FRAMES_PER_SECOND, num_frames):
            for packet, (pts, dts, time_base) in zip(packets, times, strict=True):
                copy = av.Packet(bytes(packet))
                copy.stream = stream
                copy.time_base = time_base
                copy.pts, copy.dts = pts + first * ticks_per_frame, dts + first * ticks_per_frame
                copy.is_keyframe = packet.is_keyframe
                copy.duration = ticks_per_frame
                container.mux(copy)


def moving_things(num_frames: int, size: tuple[int, int], seed: int) -> Iterator[NDArray[np.uint8]]:
    """Pictures (H, W, 3): a camera over a textured ground, things before it, noise, cuts."""
    rng = np.random.default_rng(seed)
    width, height = size
    noise = rng.normal(0, _NOISE_LEVELS, (height + 64, width + 64, 1)).astype(np.int16)
    step = scene_frames = 0
    for _ in range(num_frames):
        if step == scene_frames:
            step, scene_frames = 0, FRAMES_PER_SECOND * rng.integers(*_SCENE_SECONDS)
            ground = _ground(rng, height + _MARGIN, width + _MARGIN)
            pan = rng.integers(-_MARGIN // 2, _MARGIN // 2, 2) / scene_frames
            corners = rng.integers(0, (height, width), (6, 2))
            sizes = rng.integers((height // 12, width // 20), (height // 3, width // 5), (6, 2))
            speeds = rng.integers(-8, 9, (6, 2))
            colours = rng.integers(0, 256, (6, 3))
        top, left = np.rint(_MARGIN / 2 + pan * step).astype(int)
        picture = ground[top : top + height, left : left + width].astype(np.int16)
        for corner, extent, speed, colour in zip(corners, sizes, speeds, colours, strict=True):
            y, x = (corner + speed * step) % (height, width)
            part = picture[y : y + extent[0], x : x + extent[1]]
            part[:] = (part + 3 * colour) // 4
        dy, dx = rng.integers(0, 64, 2)
        picture += noise[dy : dy + height, dx : dx + width]
        yield picture.clip(0, 255).astype(np.uint8)
        step += 1


def _ground(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """A texture with detail at all scales, the coarse stronger than the fine."""
    total = np.zeros((height, width, 3), np.float32)
    weights = 0.0
    for cell, weight in ((128, 1.0), (32, 0.5), (8, 0.25), (2, 0.12)):
        cells = rng.integers(0, 256, (height // cell + 2, width // cell + 2, 3), np.uint8)
        resized = Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)
        total += weight * np.asarray(resized, np.float32)
        weights += weight
    return (total / weights).astype(np.uint8)
