"""A picture becomes the pixels an encoder wants; knows no file, no process, no model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

_MAX_INTERMEDIATE_PIXELS = 64_000_000
_ORIENTATION_TAG = 0x0112
_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class FrameSpec:
    """The pixels an encoder wants; made by the encoder, obeyed here.

    Attributes:
        height: of a frame, in pixels.
        width: of a frame, in pixels; equal to `height` for `centre_crop`.
        resize: `squash` ignores the aspect ratio; `centre_crop` brings the short side to size
            and cuts the middle out of the long one.
        interpolation: both antialias when they make a picture smaller.
        apply_exif: turn a picture upright as its camera says. The reference does not.
        fast_jpeg: let the JPEG decoder make the picture smaller first (never below twice the
            size wanted). The reference does not.
        rgb_first: convert a picture to RGB before it is resized, as Perception LM does.
        border: pixels to cut off each side of a picture before all else; one that has no more
            than that keeps them. ObjectNet's pictures have a red frame.
    """

    height: int
    width: int
    resize: Literal["squash", "centre_crop"] = "squash"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    apply_exif: bool = True
    fast_jpeg: bool = True
    rgb_first: bool = False
    border: int = 0

    def __post_init__(self) -> None:
        if self.border < 0:
            raise ValueError(f"border={self.border}; must be >= 0")
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a frame of {self.height} x {self.width} pixels; both must be >= 1")
        if self.resize not in ("squash", "centre_crop"):
            raise ValueError(f"resize={self.resize!r}; 'squash' or 'centre_crop'")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation={self.interpolation!r}; 'bilinear' or 'bicubic'")
        if self.resize == "centre_crop" and self.height != self.width:
            raise ValueError(f"centre_crop makes squares, not {self.height} x {self.width}")


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video are taken; fixed when a collection is made.

    Two policies, side by side. `by-time` is the grid's: point j is the frame on screen j /
    frames_per_second seconds after the first. `pe-eval` is that of the rows of whole videos:
    frames evenly spread by number, as Perception Encoder's evaluation takes them; see
    `uniform_indices`.

    Attributes:
        frames_per_second: of the time grid, from which segments are made.
        num_uniform_frames: of the whole-video protocol, spread from first to last frame.
        skip_stills: a frame that hardly differs from the last embedded one takes over its
            embedding: what stands still is embedded once.
        grid: `by-time` decodes every frame. `keyframes` decodes key frames only, many times
            faster, and takes other frames: point j is the last key frame shown by then, and the
            frames of the whole video are spread over the key frames. What happens between two
            key frames, often five to ten seconds, is not seen, and cuts are not looked for. A
            video of which no key frame can be decoded is taken `by-time`. `none` is for
            benchmarks, not for collections: the frames of the whole video alone, jumping from one
            to the next.
        uniform: how the frames of the whole video are spread: as PE's evaluation does, or as
            Perception LM takes them, see `language_model_indices`.
        start_seconds: for Perception LM, of the stretch that is looked at; None from the start.
        end_seconds: of the stretch; None to the end.
    """

    frames_per_second: float = 1.0
    num_uniform_frames: int = 8
    skip_stills: bool = False
    grid: Literal["by-time", "keyframes", "none"] = "by-time"
    uniform: Literal["pe-eval", "perception-lm"] = "pe-eval"
    start_seconds: float | None = None
    end_seconds: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.frames_per_second < float("inf"):
            raise ValueError(f"frames_per_second={self.frames_per_second}; must be > 0 and finite")
        if self.num_uniform_frames < 1:
            raise ValueError(f"num_uniform_frames={self.num_uniform_frames}; must be >= 1")
        if self.grid not in ("by-time", "keyframes", "none"):
            raise ValueError(f"grid={self.grid!r}; 'by-time', 'keyframes' or 'none'")
        if self.uniform not in ("pe-eval", "perception-lm"):
            raise ValueError(f"uniform={self.uniform!r}; 'pe-eval' or 'perception-lm'")

    def numbers(self, num_frames: int, seconds_per_frame: float) -> list[int]:
        """The frames of the whole video, by number, of so many that are so far apart."""
        if self.uniform == "pe-eval":
            return uniform_indices(num_frames, self.num_uniform_frames)
        return language_model_indices(
            num_frames,
            1 / seconds_per_frame if seconds_per_frame > 0 else 1.0,
            self.num_uniform_frames,
            self.start_seconds,
            self.end_seconds,
        )


@dataclass(frozen=True)
class Frames:
    """Some frames of one file, in time order. An image is T = 1.

    Attributes:
        pixels: uint8 (T, 3, H, W) RGB at the encoder's size.
        pts_seconds: float64 (T,), from the start of the video; 0 for an image. Where on_grid: the
            point of the time grid, at which the frame is on screen; else when it appears.
        on_grid: bool (T,), the frame stands for one point of the time grid. The j-th such frame
            of a file is the point j / frames_per_second; a frame that is on screen at several
            points comes once for each.
        num_uniform: int64 (T,), how many of the whole-video protocol's frames it is.
    """

    pixels: NDArray[np.uint8]
    pts_seconds: NDArray[np.float64]
    on_grid: NDArray[np.bool_]
    num_uniform: NDArray[np.int64]


@dataclass(frozen=True)
class MediaItem:
    """One decodable file: what it is and what it says of itself. Absent facts are None.

    Attributes:
        cuts: of a video, when its picture changes at once: pts_seconds of the first frames of
            new shots, ascending; None where that is not known.
    """

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
    cuts: tuple[float, ...] | None = None


def uniform_indices(num_frames: int, n: int) -> list[int]:
    """The n frame numbers of `pe-eval`, the whole-video protocol, ascending.

    They repeat when n > num_frames.

    The formula is the evaluator's: int(i * (num_frames - 1) / (n - 1)), and the middle frame for
    n = 1. Integers throughout, so that no frame is lost to rounding.

    Args:
        num_frames: frames in the video, >= 1.
        n: frames wanted, >= 1.
    """
    if num_frames < 1 or n < 1:
        raise ValueError(f"{n} of {num_frames} frames; both must be >= 1")
    if n == 1:
        return [num_frames // 2]
    return [i * (num_frames - 1) // (n - 1) for i in range(n)]


def language_model_indices(
    num_frames: int,
    frames_per_second: float,
    most: int,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> list[int]:
    """The frame numbers that Perception LM looks at, ascending: one a second, at most `most`.

    Where a second each is more than that, they are spread evenly over those; where it is fewer,
    over all frames. After perception_models' `video_transform.py`, Python's rounding included.

    Args:
        num_frames: frames in the video, >= 1.
        frames_per_second: of the video.
        most: frames wanted, >= 1.
        start_seconds: of the stretch that is looked at; None from the start.
        end_seconds: of the stretch, its frame included; None to the end.
    """
    if num_frames < 1 or most < 1:
        raise ValueError(f"{most} of {num_frames} frames; both must be >= 1")
    last = num_frames - 1
    first = min(last, int((start_seconds or 0) * frames_per_second))
    if end_seconds is not None:
        last = max(first, min(last, int(end_seconds * frames_per_second)))
    every = list(range(first, last + 1))
    each_second = every[:: max(1, round(frames_per_second))]
    if len(each_second) == most:
        return each_second
    some = each_second if len(each_second) > most else every
    count = min(most, len(some))
    if count == 1:
        return some[:1]
    return [some[round(i * (len(some) - 1) / (count - 1))] for i in range(count)]


def orientation_of(image: "Image.Image") -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it cannot be read."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # EXIF is written by anyone; it never costs a picture
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def upright(image: "Image.Image", orientation: int) -> "Image.Image":
    """The picture turned as an EXIF orientation (1 to 8) asks."""
    from PIL import Image

    turns = Image.Transpose
    turn = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_270,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_90,
    }.get(orientation)
    return image if turn is None else image.transpose(turn)


def prepare_image(
    image: "Image.Image", spec: FrameSpec, *, size: tuple[float, float] | None = None
) -> NDArray[np.uint8]:
    """The picture as uint8 (3, H, W) RGB in 0..255.

    It is resized first and converted to RGB after, as Perception Encoder's reference transform
    does: palettes are resized without mixing colours, transparent pictures with their alpha.
    Greys of more than 8 bits are scaled to 8 (Pillow's conversion would clip them).

    Args:
        image: as it was opened; its EXIF is read here.
        spec: the pixels wanted.
        size: width and height of the picture inside `image` where a JPEG was decoded small: its
            last column and row are then only partly picture.
    """
    image.load()  # some formats turn themselves, or give their EXIF, only here
    orientation = orientation_of(image) if spec.apply_exif else 1
    if spec.border and min(image.size) > 2 * spec.border:
        inner = (spec.border, spec.border, image.width - spec.border, image.height - spec.border)
        image, size = image.crop(inner), None
    box = _upright_box(image.size, size, orientation)
    image = upright(image, orientation)
    if image.mode in _NOT_RESIZABLE:
        image = image.convert(_NOT_RESIZABLE[image.mode])
    if spec.rgb_first and not (image.mode.startswith("I") or image.mode == "F"):
        image = image.convert("RGB")
    prepare = _squashed if spec.resize == "squash" else _centre_cropped
    image = prepare(image, spec, box)
    if image.mode.startswith("I") or image.mode == "F":
        image = _with_8_bits(image)
    image.info.pop("transparency", None)  # of no use to RGB, and converting it may raise
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))  # (H, W, 3) -> (3, H, W)


_NOT_RESIZABLE = {"PA": "RGBA", "La": "LA", "RGBa": "RGBA", "I;16B": "I", "I;16L": "I"}


def _with_8_bits(image: "Image.Image") -> "Image.Image":
    """Grey of 16 or 32 bits, or floats, as 8 bits.

    Integers count as 16 bits, floats up to 1 as shares of white; what fits neither, nor
    0 to 255, is stretched from its darkest to its lightest.
    """
    from PIL import Image

    values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    is_float = image.mode == "F"
    for white in (1.0, 255.0) if is_float else (65535.0,):
        if low >= 0 and high <= white:
            low, high = 0.0, white
            break
    scaled = (values - low) * (255.0 / (high - low or 1.0))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _resample(spec: FrameSpec) -> "Image.Resampling":
    from PIL import Image

    bilinear = spec.interpolation == "bilinear"
    return Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC


def _upright_box(
    whole: tuple[int, int], size: tuple[float, float] | None, orientation: int
) -> _Box | None:
    """Where a picture of `size` in the upper left corner is after `upright`; None for all of it."""
    if size is None or size == whole:
        return None
    right, bottom = whole[0] - size[0], whole[1] - size[1]  # what is no picture
    left = top = 0.0
    if orientation in (2, 3, 7, 8):
        left, right = right, left
    if orientation in (3, 4, 6, 7):
        top, bottom = bottom, top
    if orientation >= 5:
        left, top, right, bottom = top, left, bottom, right
        whole = whole[::-1]
    return left, top, whole[0] - right, whole[1] - bottom


def _squashed(image: "Image.Image", spec: FrameSpec, box: _Box | None) -> "Image.Image":
    if spec.width * image.height > _MAX_INTERMEDIATE_PIXELS:
        # Pillow resizes across before down: a picture of 1 x 50 million pixels would need 45 GB.
        image = image.resize((image.width, spec.height), _resample(spec))
    return image.resize((spec.width, spec.height), _resample(spec), box)


def _centre_cropped(image: "Image.Image", spec: FrameSpec, box: _Box | None) -> "Image.Image":
    size = spec.width
    width, height = image.size if box is None else (box[2] - box[0], box[3] - box[1])
    short, long = sorted((width, height))
    if size * size * long > _MAX_INTERMEDIATE_PIXELS * short:  # only its middle is wanted
        image = _middle(
            image, min(round(short) * 8, image.width), min(round(short) * 8, image.height)
        )
        box = None
        width, height = image.size
        short, long = sorted((width, height))
    scaled = int(size * long / short)
    across = width <= height
    image = image.resize((size, scaled) if across else (scaled, size), _resample(spec), box)
    return _middle(image, size, size)


def _middle(image: "Image.Image", width: int, height: int) -> "Image.Image":
    left = round((image.width - width) / 2)
    top = round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
