import io
import struct
import sys
import zlib

import numpy as np
import pytest
from media_files import encoded, exif, gradient
from PIL import Image, ImageOps

from perception_search import decode_image as di
from perception_search.errors import MediaError
from perception_search.frames import FrameSpec, prepare_image
from perception_search.media import identify

MAX_PIXELS = 50_000_000
SPEC = FrameSpec(32, 32)
EXACT = FrameSpec(32, 32, fast_jpeg=False)


@pytest.fixture(autouse=True)
def _pillow_as_it_was(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", MAX_PIXELS)


def decode(data, spec=SPEC, max_pixels=MAX_PIXELS):
    kind, name = identify(data)
    assert kind == "image"
    return di.decode_image(data, name, spec, max_pixels)


def opened(data):
    return Image.open(io.BytesIO(data))


def grey16():
    y, x = np.mgrid[0:40, 0:60]
    return Image.fromarray((x * 700 + y * 500).astype(np.uint16))


RGB = gradient(60, 40)
ALPHA = RGB.copy()
ALPHA.putalpha(Image.linear_gradient("L").resize((60, 40)))
FILES = {
    "jpeg": encoded(RGB, "JPEG"),
    "jpeg, progressive": encoded(RGB, "JPEG", progressive=True),
    "jpeg, grey": encoded(RGB.convert("L"), "JPEG"),
    "jpeg, CMYK": encoded(RGB.convert("CMYK"), "JPEG"),
    "jpeg, several pictures": encoded(RGB, "MPO", save_all=True, append_images=[gradient(60, 40)]),
    "png": encoded(RGB, "PNG"),
    "png, alpha": encoded(ALPHA, "PNG"),
    "png, grey and alpha": encoded(ALPHA.convert("LA"), "PNG"),
    "png, 16 bits": encoded(grey16(), "PNG"),
    "png, one bit": encoded(RGB.convert("1"), "PNG"),
    "png, palette": encoded(RGB.convert("P"), "PNG"),
    "png, palette with a clear colour": encoded(RGB.convert("P"), "PNG", transparency=3),
    "png, palette with alphas": encoded(RGB.convert("P"), "PNG", transparency=bytes(range(256))),
    "png, animated": encoded(RGB, "PNG", save_all=True, append_images=[RGB.rotate(180)]),
    "gif": encoded(RGB, "GIF"),
    "gif, animated": encoded(RGB, "GIF", save_all=True, append_images=[RGB.rotate(180)] * 3),
    "webp": encoded(RGB, "WEBP"),
    "webp, lossless with alpha": encoded(ALPHA, "WEBP", lossless=True),
    "webp, animated": encoded(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(180)] * 3),
    "avif": encoded(RGB, "AVIF"),
    "avif, alpha": encoded(ALPHA, "AVIF"),
    "avif, animated": encoded(RGB, "AVIF", save_all=True, append_images=[RGB.rotate(180)]),
    "bmp": encoded(RGB, "BMP"),
    "tiff": encoded(RGB, "TIFF"),
    "tiff, compressed": encoded(RGB, "TIFF", compression="tiff_lzw"),
    "tiff, CMYK": encoded(RGB.convert("CMYK"), "TIFF"),
    "tiff, 16 bits": encoded(grey16(), "TIFF"),
    "tiff, floats": encoded(Image.fromarray(np.linspace(0, 1, 60 * 40, dtype=np.float32)), "TIFF"),
    "jpeg 2000": encoded(RGB, "JPEG2000"),
    "jpeg 2000, codestream": encoded(RGB, "JPEG2000", no_jp2=True),
    "ppm": encoded(RGB, "PPM"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_pixels_of_its_first_frame(name):
    image = decode(FILES[name], EXACT)
    expected = opened(FILES[name])
    assert (image.width, image.height) == expected.size
    assert image.pixels.shape == (3, 32, 32)
    assert np.array_equal(image.pixels, prepare_image(expected, EXACT))


@pytest.mark.parametrize("name", ["png, 16 bits", "tiff, 16 bits"])
def test_sixteen_bits_are_not_clipped_to_white(name):
    pixels = decode(FILES[name]).pixels
    assert pixels[0, 0, 0] < 10
    assert 60 < pixels.mean() < 150


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_turned_as_its_exif_says(format_name, orientation):
    data = encoded(gradient(64, 40), format_name, exif=exif(orientation=orientation))
    image = decode(data, EXACT)
    expected = ImageOps.exif_transpose(opened(data))
    assert (
        (image.width, image.height) == expected.size == ((64, 40) if orientation < 5 else (40, 64))
    )
    plain = FrameSpec(32, 32, apply_exif=False)
    assert np.array_equal(image.pixels, prepare_image(expected, plain))


def test_the_reference_does_not_turn():
    data = encoded(gradient(64, 40), "JPEG", exif=exif(orientation=6))
    image = decode(data, FrameSpec(32, 32, apply_exif=False, fast_jpeg=False))
    assert (image.width, image.height) == (64, 40)
    expected = opened(data).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(image.pixels, np.asarray(expected).transpose(2, 0, 1))


def decibels(one, other):
    error = ((one.astype(float) - other.astype(float)) ** 2).mean()
    return np.inf if error == 0 else 10 * np.log10(255**2 / error)


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("resize", ["squash", "centre_crop"])
def test_a_large_jpeg_is_decoded_small_and_looks_the_same(orientation, resize, monkeypatch):
    sizes = []

    def prepare(image, spec, size):
        sizes.append(image.size)
        return prepare_image(image, spec, size=size)

    y, x = np.mgrid[0:1500, 0:2000]
    waves = 127 + 60 * np.sin(x / 40) + 60 * np.cos(y / 60)
    data = encoded(
        Image.fromarray(waves.astype(np.uint8)).convert("RGB"),
        "JPEG",
        quality=90,
        exif=exif(orientation=orientation),
    )
    exact = decode(data, FrameSpec(64, 64, resize, fast_jpeg=False))
    monkeypatch.setattr(di, "prepare_image", prepare)
    fast = decode(data, FrameSpec(64, 64, resize))
    assert sizes == [(250, 188)]  # an eighth, and at least twice the size wanted
    assert (fast.width, fast.height) == (exact.width, exact.height)
    assert decibels(fast.pixels, exact.pixels) > 50


def test_a_small_jpeg_is_decoded_as_it_is():
    data = encoded(gradient(127, 120), "JPEG")
    spec = FrameSpec(64, 64)
    assert np.array_equal(decode(data, spec).pixels, prepare_image(opened(data), spec))


def test_a_header_that_asks_for_too_much_is_refused():
    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 65_000, 65_000, 8, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(MediaError, match="pixels") as error:
        decode(png)
    assert error.value.outcome == "too_large"


@pytest.mark.parametrize("name", ["jpeg", "gif", "webp", "tiff", "bmp", "avif", "jpeg 2000", "ppm"])
def test_the_pixel_limit_holds_for_every_format(name):
    decode(FILES[name], max_pixels=60 * 40)
    with pytest.raises(MediaError, match="60 x 40, more than 2,399 pixels") as error:
        decode(FILES[name], max_pixels=60 * 40 - 1)
    assert error.value.outcome == "too_large"


def test_a_frame_larger_than_its_picture_is_refused(monkeypatch):
    di.set_up(1000)  # as a worker does
    data = bytearray(encoded(gradient(60, 40).convert("P"), "GIF"))
    data[6:10] = struct.pack("<HH", 10, 10)  # the logical screen, smaller than the frame
    with pytest.raises(MediaError, match="more than") as error:
        decode(bytes(data), max_pixels=1000)
    assert error.value.outcome == "too_large"


@pytest.mark.parametrize(
    "name", ["jpeg", "jpeg, progressive", "png", "tiff, compressed", "avif", "bmp"]
)
def test_half_a_file_is_no_picture(name):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    formats = {"jpeg, progressive": "JPEG", "tiff, compressed": "TIFF"}
    options = {
        "jpeg, progressive": {"progressive": True},
        "tiff, compressed": {"compression": "tiff_lzw"},
    }
    data = encoded(noise, formats.get(name, name.upper()), **options.get(name, {}))
    decode(data)
    with pytest.raises(Exception, match=r"."):
        decode(data[: len(data) // 2])


def test_heif_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MediaError, match=r"pip install 'perception-search\[heif\]'") as error:
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    assert error.value.outcome == "unsupported"


def test_heif_is_read_with_its_package():
    heif = pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    out = io.BytesIO()
    try:
        heif.from_pillow(gradient(64, 40)).save(out, quality=90)
    except RuntimeError:
        pytest.skip("this pillow-heif cannot write")
    image = decode(out.getvalue(), EXACT)
    assert (image.width, image.height) == (64, 40)
    assert decibels(image.pixels, prepare_image(gradient(64, 40), EXACT)) > 30


@pytest.mark.parametrize("name", FILES)
def test_every_format_has_a_thumbnail(name):
    jpeg = di.image_thumbnail(FILES[name], identify(FILES[name]).name, 30, MAX_PIXELS)
    with opened(jpeg) as small:
        assert (small.format, small.mode) == ("JPEG", "RGB")
        width, height = opened(FILES[name]).size
        assert max(small.size) == min(30, max(width, height))


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_a_thumbnail_is_upright_and_keeps_its_shape(orientation):
    data = encoded(gradient(640, 400), "JPEG", exif=exif(orientation=orientation))
    with opened(di.image_thumbnail(data, "JPEG", 64, MAX_PIXELS)) as small:
        assert small.size == ((64, 40) if orientation == 1 else (40, 64))
        upright = ImageOps.exif_transpose(opened(data)).resize(small.size)
        assert decibels(np.asarray(small), np.asarray(upright)) > 28


def test_a_small_picture_is_not_made_larger():
    with opened(di.image_thumbnail(FILES["png"], "PNG", 500, MAX_PIXELS)) as small:
        assert small.size == (60, 40)


def test_what_is_transparent_is_white_in_a_thumbnail():
    clear = encoded(Image.new("RGBA", (20, 20), (0, 0, 0, 0)), "PNG")
    with opened(di.image_thumbnail(clear, "PNG", 10, MAX_PIXELS)) as small:
        assert np.asarray(small).min() > 250
