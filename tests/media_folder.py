"""Folders of small generated pictures and videos, each with content of its own."""

import numpy as np
from PIL import Image


def picture(seed, size=(48, 32)):
    """A picture (H, W, 3) uint8 of two colours and some noise, which `seed` alone decides."""
    rng = np.random.default_rng(seed)
    left, right = rng.integers(0, 256, (2, 3))
    across = np.linspace(0, 1, size[0])[None, :, None]
    smooth = left * (1 - across) + right * across + np.zeros((size[1], 1, 1))
    noisy = smooth + rng.normal(0, 3, (size[1], size[0], 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def colour(rgb, size=(48, 32)):
    """A picture (H, W, 3) uint8 of one colour."""
    return np.broadcast_to(np.array(rgb, np.uint8), (size[1], size[0], 3)).copy()


def write_pictures(folder, count, first=0, size=(48, 32)):
    """`count` JPEGs `000000.jpg`, ... in `folder`, a hundred a subfolder."""
    for number in range(first, first + count):
        path = folder / f"{number // 100:04d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number, size)).save(path, quality=90)
    return folder


def write_video(path, frames, fps=5, codec="mpeg4"):
    """A video of `frames` (each (H, W, 3) uint8)."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_videos(folder, count, first=0, seconds=3, fps=2, size=(48, 32)):
    """`count` short videos `000000.mp4`, ... in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        still = picture(10_000_000 + number, size)
        write_video(folder / f"{number:06d}.mp4", [still] * (seconds * fps), fps)
    return folder
