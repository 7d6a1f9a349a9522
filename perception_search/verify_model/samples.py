"""What is encoded: some pictures and twenty texts; knows no model and no check."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception_search.decode import FrameSpec, MediaReader
from perception_search.errors import MediaError
from perception_search.media import HEAD_BYTES, display, find, sniff

MAX_PICTURES = 8
_NUM_MADE = 4
_JPEG_QUALITY = 90

TEXTS = (
    "a dog",
    "a cat asleep on a red sofa",
    "two children build a sandcastle by the sea",
    "a bowl of ripe oranges",
    "snow on a mountain under a clear sky",
    "an old man plays the violin in the street",
    "a diagram of a steam engine",
    "a blue bicycle leans against a brick wall",
    "the skyline of a city at night",
    "a plate of spaghetti with tomato sauce",
    "a close-up of a bee on a yellow flower",
    "a crowd cheers at a football match",
    "an empty classroom",
    "a handwritten letter on a wooden desk, beside a cup of coffee",
    "a train crosses a bridge over a river",
    "someone opens an umbrella in the rain",
    "a satellite picture of a coast",
    "a wedding cake with three tiers and white roses, cut by the bride and the groom",
    "three sheep",
    "a black and white photograph of a harbour with fishing boats, taken long ago",
)


@dataclass(frozen=True)
class Pictures:
    """Pictures as an encoder wants them.

    Attributes:
        exact: uint8 (N, 3, H, W), N >= 1.
        fast: the same pictures with what is faster for large JPEGs.
        origin: where they come from, for people.
    """

    exact: NDArray[np.uint8]
    fast: NDArray[np.uint8]
    origin: str


def read_pictures(folder: Path | None, spec: FrameSpec) -> Pictures:
    """The first pictures of a folder, by name; without a folder, made-up JPEGs.

    Args:
        folder: what cannot be read in it is passed over.
        spec: the pixels wanted, `fast_jpeg` off.

    Raises:
        MediaError: the folder holds no picture that can be read.
    """
    if folder is not None:
        return _decoded(_pictures_in(folder), spec, f"of {display(folder)}")
    with tempfile.TemporaryDirectory() as made:
        return _decoded(_made(Path(made), spec), spec, "made-up pictures")


def _pictures_in(folder: Path) -> Iterator[Path]:
    found = 0
    for file in sorted(find([folder]), key=lambda each: each.path):
        if file.outcome is None and _is_picture(file.path):
            found += 1
            yield file.path
    if not found:
        raise MediaError("skipped", f"{display(folder)} holds no pictures; name a folder of some")


def _is_picture(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return sniff(file.read(HEAD_BYTES)) == "image"
    return False


def _made(folder: Path, spec: FrameSpec) -> Iterator[Path]:
    """JPEGs of soft shapes and fine grain, five and four times as large as the frame."""
    from PIL import Image

    width, height = 5 * spec.width, 4 * spec.height
    for seed in range(_NUM_MADE):
        rng = np.random.default_rng(seed)
        picture = np.zeros((height, width, 3), np.float32)
        for cells, share in ((3, 0.5), (12, 0.25), (48, 0.15), (192, 0.1)):
            coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
            picture += share * np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        path = folder / f"{seed}.jpg"
        Image.fromarray(picture.astype(np.uint8)).save(path, quality=_JPEG_QUALITY)
        yield path


def _decoded(paths: Iterator[Path], spec: FrameSpec, origin: str) -> Pictures:
    exact, fast = [], []
    reason = ""
    with MediaReader() as reader:
        for path in paths:
            try:
                pixels = [
                    reader.decode(path, each)[1].pixels
                    for each in (spec, replace(spec, fast_jpeg=True))
                ]
            except MediaError as error:
                reason = f"{display(path)}: {error}"
                continue
            exact.append(pixels[0])
            fast.append(pixels[1])
            if len(exact) == MAX_PICTURES:
                break
    if not exact:
        raise MediaError("unreadable", f"none of the pictures can be read; the last, {reason}")
    return Pictures(np.concatenate(exact), np.concatenate(fast), origin)
