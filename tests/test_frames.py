import json
from pathlib import Path

import numpy as np
import pytest
from media_files import exif, gradient, uniform_slowly
from PIL import Image, ImageOps

from perception_search.frames import (
    FrameSpec,
    Sampling,
    orientation_of,
    prepare_image,
    uniform_indices,
)

GOLDEN = Path(__file__).parent / "encoder" / "golden" / "golden_preproc.json"
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"]


def turned(orientation, width=60, height=40):
    image = gradient(width, height)
    image.info["exif"] = exif(orientation=orientation).tobytes()
    return image


def test_uniform_indices_are_those_of_the_evaluator():
    for case, indices in json.loads(GOLDEN.read_text())["frames_eval"].items():
        num_frames, n = map(int, case.split("/"))
        assert uniform_indices(num_frames, n) == indices
    for num_frames in range(1, 200):
        for n in (1, 2, 3, 8, 16, 32):
            assert uniform_indices(num_frames, n) == uniform_slowly(num_frames, n)


@pytest.mark.parametrize(("num_frames", "n"), [(0, 8), (5, 0), (-1, 1)])
def test_there_are_no_indices_of_nothing(num_frames, n):
    with pytest.raises(ValueError, match="both must be >= 1"):
        uniform_indices(num_frames, n)


@pytest.mark.parametrize("resize", ["squash", "centre_crop"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_pillow_turns_it_and_then_resized(orientation, resize):
    image = turned(orientation)
    spec = FrameSpec(24, 24, resize)
    plain = FrameSpec(24, 24, resize, apply_exif=False)
    expected = prepare_image(ImageOps.exif_transpose(image), plain)
    assert np.array_equal(prepare_image(image, spec), expected)
    assert orientation_of(image) == orientation


def test_without_a_turn_exif_changes_nothing():
    image = gradient(60, 40)
    plain = FrameSpec(24, 24, apply_exif=False)
    assert np.array_equal(prepare_image(image, FrameSpec(24, 24)), prepare_image(image, plain))
    turned_away = prepare_image(turned(6), plain)
    assert np.array_equal(turned_away, prepare_image(image, plain))


@pytest.mark.parametrize("orientation", [0, 9, 255, 65535])
def test_an_orientation_that_is_none_is_ignored(orientation):
    assert orientation_of(turned(orientation)) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("resize", ["squash", "centre_crop"])
def test_every_mode_becomes_rgb(mode, resize):
    pixels = prepare_image(Image.new(mode, (30, 20)), FrameSpec(16, 16, resize))
    assert (pixels.shape, pixels.dtype) == ((3, 16, 16), np.uint8)
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_greys_of_many_bits_are_scaled_and_not_clipped(mode):
    y, x = np.mgrid[0:50, 0:60]
    grey = (x * 700 + y * 400).astype(np.uint16)
    images = {
        "I;16": Image.fromarray(grey),
        "I;16B": Image.frombytes("I;16B", (60, 50), grey.astype(">u2").tobytes()),
        "I": Image.fromarray(grey.astype(np.int32)),
        "F": Image.fromarray((grey / 65535).astype(np.float32)),
    }
    spec = FrameSpec(20, 20)
    eight_bits = Image.fromarray(np.rint(grey / 257).astype(np.uint8))
    expected = prepare_image(eight_bits, spec).astype(int)
    assert images[mode].mode == mode
    assert np.abs(prepare_image(images[mode], spec) - expected).max() <= 1


def test_floats_beyond_all_scales_are_stretched_and_never_raise():
    values = np.array([[-5.0, np.nan], [np.inf, 1e6]], np.float32)
    pixels = prepare_image(Image.fromarray(values), FrameSpec(2, 2))
    assert pixels.min() == 0
    assert pixels.max() == 255
    flat = prepare_image(Image.fromarray(np.full((4, 4), -3.0, np.float32)), FrameSpec(2, 2))
    assert (flat == 0).all()


def test_transparency_that_makes_no_sense_does_not_matter():
    palette = gradient(30, 20).convert("P")
    plain = prepare_image(palette, FrameSpec(16, 16))
    for transparency in (300, b"\x00" * 5, (1, 2, 3), "x"):
        palette.info["transparency"] = transparency
        assert np.array_equal(prepare_image(palette, FrameSpec(16, 16)), plain)


@pytest.mark.parametrize("size", [(1, 3_000_000), (3_000_000, 1), (2, 2_000_000)])
@pytest.mark.parametrize("resize", ["squash", "centre_crop"])
def test_a_picture_as_thin_as_a_thread_takes_little_memory(size, resize):
    pixels = prepare_image(Image.new("RGB", size, (9, 8, 7)), FrameSpec(64, 64, resize))
    assert (pixels.reshape(3, -1).T == (9, 8, 7)).all()


@pytest.mark.parametrize("size", [(500, 666), (666, 500), (60, 61), (33, 20), (448, 448)])
def test_centre_crop_scales_the_short_side_and_cuts_the_middle(size):
    image = gradient(*size)
    width, height = size
    if width <= height:
        scaled = (48, int(48 * height / width))
    else:
        scaled = (int(48 * width / height), 48)
    left, top = round((scaled[0] - 48) / 2), round((scaled[1] - 48) / 2)
    expected = image.resize(scaled, Image.Resampling.BILINEAR)
    expected = np.asarray(expected)[top : top + 48, left : left + 48].transpose(2, 0, 1)
    assert np.array_equal(prepare_image(image, FrameSpec(48, 48, "centre_crop")), expected)


def test_bicubic_is_bicubic():
    image = gradient(100, 60)
    expected = np.asarray(image.resize((20, 30), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.array_equal(
        prepare_image(image, FrameSpec(30, 20, interpolation="bicubic")), expected
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 0, "width": 4},
        {"height": 4, "width": 4, "resize": "stretch"},
        {"height": 4, "width": 4, "interpolation": "nearest"},
        {"height": 4, "width": 8, "resize": "centre_crop"},
    ],
)
def test_a_spec_that_cannot_be_obeyed_is_refused(wrong):
    with pytest.raises(ValueError, match=r"pixels|or '|squares"):
        FrameSpec(**wrong)


@pytest.mark.parametrize("wrong", [(0.0, 8), (float("nan"), 8), (float("inf"), 8), (1.0, 0)])
def test_a_sampling_that_cannot_be_done_is_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        Sampling(*wrong)


def test_a_grid_is_by_time_unless_key_frames_are_asked_for():
    assert Sampling(**{"frames_per_second": 2.0, "num_uniform_frames": 4}).grid == "by-time"
    assert Sampling(grid="keyframes").grid == "keyframes"
    with pytest.raises(ValueError, match="'by-time', 'keyframes' or 'none'"):
        Sampling(grid="often")
