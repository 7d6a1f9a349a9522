"""The bytes of a picture become one frame; runs in a decode worker, knows no file."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from perception_search.errors import MediaError
from perception_search.frames import FrameSpec, orientation_of, prepare_image, upright
from perception_search.media_facts import Facts, image_facts

# Naming the readers registers them, so that Pillow does not load its forty others.
_READERS = (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
_JPEG_MARGIN = 2
_THUMBNAIL_QUALITY = 85


@dataclass(frozen=True)
class DecodedImage:
    """A picture as the encoder wants it, uint8 (3, H, W), and what the file says of itself."""

    pixels: NDArray[np.uint8]
    width: int
    height: int
    facts: Facts


def set_up(max_pixels: int) -> None:
    """Makes Pillow refuse larger pictures wherever it looks, and use one thread."""
    Image.MAX_IMAGE_PIXELS = max_pixels
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def decode_image(data: bytes, format_name: str, spec: FrameSpec, max_pixels: int) -> DecodedImage:
    """The (first) picture in these bytes.

    Args:
        data: the whole file.
        format_name: as `media.identify` calls it; no other reader is tried.
        spec: the pixels wanted.
        max_pixels: what says it is larger is refused before it is decoded.

    Raises:
        MediaError: `too_large`, or `unsupported` where an optional reader is missing.
        Exception: whatever Pillow raises at damaged bytes.
    """
    with _opened(data, format_name, max_pixels) as image:
        width, height = image.size
        orientation = orientation_of(image) if spec.apply_exif else 1
        size = None
        if spec.fast_jpeg and not spec.border and format_name == "JPEG":
            wanted = (_JPEG_MARGIN * spec.width, _JPEG_MARGIN * spec.height)
            drafted = image.draft("", wanted[::-1] if orientation >= 5 else wanted)
            size = drafted and drafted[1][2:]
        pixels = prepare_image(image, spec, size=size)
        if format_name != "JPEG":  # these may turn themselves, or tell their EXIF, when loaded
            width, height = image.size
            orientation = orientation_of(image) if spec.apply_exif else 1
        if orientation >= 5:
            width, height = height, width
        return DecodedImage(pixels, width, height, image_facts(image))


def image_thumbnail(data: bytes, format_name: str, max_side: int, max_pixels: int) -> bytes:
    """A JPEG of the picture, upright, no side longer than `max_side`."""
    with _opened(data, format_name, max_pixels) as image:
        if format_name == "JPEG":
            image.draft("", (max_side, max_side))
        image.load()
        return jpeg_thumbnail(upright(image, orientation_of(image)), max_side)


def jpeg_thumbnail(image: Image.Image, max_side: int) -> bytes:
    """A JPEG of an upright picture, no side longer than `max_side`; transparency over white."""
    scale = min(1.0, max_side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    spec = FrameSpec(size[1], size[0], apply_exif=False)
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = prepare_image(image, spec)
    out = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(out, "JPEG", quality=_THUMBNAIL_QUALITY)
    return out.getvalue()


@contextmanager
def _opened(data: bytes, format_name: str, max_pixels: int) -> Iterator[Image.Image]:
    if format_name == "HEIF":
        _register_heif()
    try:
        with Image.open(io.BytesIO(data), formats=[format_name]) as image:
            if image.width * image.height > max_pixels:
                raise MediaError(
                    "too_large",
                    f"{image.width} x {image.height}, more than {max_pixels:,} pixels",
                )
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError("too_large", f"it holds more than {max_pixels:,} pixels") from error
    except UnidentifiedImageError as error:
        raise MediaError("unreadable", f"no picture can be read from it ({format_name})") from error


def _register_heif() -> None:
    try:
        import pillow_heif
    except Exception as error:
        raise MediaError(
            "unsupported",
            "HEIC and HEIF pictures need pillow-heif: pip install 'perception-search[heif]'",
        ) from error
    pillow_heif.options.DECODE_THREADS = 1
    pillow_heif.register_heif_opener()
