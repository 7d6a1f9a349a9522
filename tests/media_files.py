"""Generated pictures and videos whose right answers are known; the slow, obvious sampling."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

NUM_BITS = 12


def gradient(width, height):
    """An RGB picture with no two corners, rows or columns alike."""
    y, x = np.mgrid[0:height, 0:width]
    red = x * 255 // max(width - 1, 1)
    green = y * 255 // max(height - 1, 1)
    blue = (x + 2 * y) * 255 // max(width + 2 * height - 3, 1)
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


def encoded(image, format_name, **options):
    """The bytes of a picture file."""
    out = io.BytesIO()
    image.save(out, format_name, **options)
    return out.getvalue()


def exif(**tags):
    """An EXIF block; `gps` and `inner` are the nested directories."""
    block = Image.Exif()
    block.get_ifd(0x8769).update(tags.pop("inner", {}))
    block.get_ifd(0x8825).update(tags.pop("gps", {}))
    for name, value in tags.items():
        block[{"orientation": 0x0112, "make": 0x010F, "model": 0x0110, "date": 0x0132}[name]] = (
            value
        )
    return block


def numbered(number, size=(96, 64)):
    """A frame (H, W, 3) that shows its number as white and black columns: survives any codec."""
    width, height = size
    bits = [number >> bit & 1 for bit in range(NUM_BITS)]
    columns = np.repeat(np.array(bits, np.uint8) * 255, width // NUM_BITS)
    return np.broadcast_to(columns[None, :, None], (height, width, 3)).copy()


def number_of(pixels):
    """The number that a decoded frame (3, H, W) shows."""
    width = pixels.shape[2] // NUM_BITS
    means = [pixels[:, :, bit * width : (bit + 1) * width].mean() for bit in range(NUM_BITS)]
    return sum((mean > 127) << bit for bit, mean in enumerate(means))


def write_video(
    path,
    num_frames=50,
    rate=25,
    *,
    codec="libx264",
    container=None,
    size=(96, 64),
    ticks=None,
    first=0,
    rotation=0,
    metadata=None,
    b_frames=True,
):
    """A video of `numbered` frames.

    Args:
        path: where.
        num_frames: how many.
        rate: frames a second.
        codec: FFmpeg's name of the encoder.
        container: FFmpeg's name of the format, where the file name does not tell.
        size: (width, height).
        ticks: time of each frame in thousandths of a second, instead of `rate`.
        first: number of the first frame.
        rotation: degrees counter-clockwise that a player is to turn it.
        metadata: of the container.
        b_frames: whether frames may be stored in another order than shown.
    """
    with av.open(str(path), "w", format=container) as output:
        output.metadata.update(metadata or {})
        stream = output.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 1_000_000
        if not b_frames:
            stream.codec_context.max_b_frames = 0
        if ticks is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("this PyAV cannot write how a video is to be turned")
            stream.set_display_rotation(rotation)
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(numbered(first + index, size), format="rgb24")
            frame.pts = index if ticks is None else ticks[index]
            frame.time_base = Fraction(1, rate) if ticks is None else Fraction(1, 1000)
            for packet in stream.encode(frame):
                output.mux(packet)
        for packet in stream.encode():
            output.mux(packet)
    return Path(path)


def grid_slowly(times, end_seconds, frames_per_second):
    """Which frame is on screen at each grid point: by definition, one point at a time."""
    shown = []
    point = 0
    while point == 0 or point / frames_per_second + 1e-3 < end_seconds:
        at = point / frames_per_second
        shown.append(max(i for i, time in enumerate(times) if i == 0 or time <= at + 1e-3))
        point += 1
    return shown


def uniform_slowly(num_frames, count):
    """The evaluator's frame numbers, with fractions instead of floats."""
    if count == 1:
        return [num_frames // 2]
    return [int(Fraction(i * (num_frames - 1), count - 1)) for i in range(count)]
