"""The golden cases of the reference's image transform, through the function that ingest uses."""

import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np
import PIL
import pytest
from golden import recipe
from PIL import Image

from perception_search.frames import FrameSpec, prepare_image

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden_preproc.json").read_text())
SYNTHETIC = re.compile(r"synthetic_(?P<mode>\w+)_(?P<w>\d+)x(?P<h>\d+)_to_48(?P<crop>_cc)?")
TRANSFORMS = GOLDEN["transform"]
PICTURES = [name for name in TRANSFORMS if SYNTHETIC.fullmatch(name)]
FILES = {name: case for name, case in TRANSFORMS.items() if name not in PICTURES}
FILE_CASES = [(f, c) for f, cases in FILES.items() for c in cases if isinstance(cases[c], dict)]
PILLOW = int(PIL.__version__.split(".")[0])
DIFFER_BEFORE_PILLOW_13 = {("cat.png", f"squash_{size}") for size in (336, 384, 448)}


def as_the_reference(size, crop):
    return FrameSpec(
        size, size, "centre_crop" if crop else "squash", apply_exif=False, fast_jpeg=False
    )


def check(pixels, case, *, to_the_bit=True):
    assert (list(pixels.shape), pixels.dtype) == (case["shape"], np.uint8)
    if to_the_bit:
        assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == case["sha256_u8"]
    normalised = pixels.astype(np.float64) / 127.5 - 1
    middle = pixels.shape[1] // 2
    for name, value in {
        "mean_per_channel": normalised.mean(axis=(1, 2)),
        "std_per_channel": normalised.std(axis=(1, 2), ddof=1),
        "px_0_0": normalised[:, 0, 0],
        "px_mid": normalised[:, middle, middle],
        "px_last": normalised[:, -1, -1],
    }.items():
        np.testing.assert_allclose(value, case[name], rtol=0, atol=1e-4, err_msg=name)


def test_all_golden_cases_are_recognised():
    assert PICTURES
    assert sorted(FILES) == ["cat.png", "dog.png"]
    assert len(FILE_CASES) == 10


@pytest.mark.parametrize("name", PICTURES)
def test_a_drawn_picture_becomes_the_pixels_of_the_reference(name):
    match = SYNTHETIC.fullmatch(name)
    picture = recipe.picture(match["mode"], int(match["w"]), int(match["h"]))
    pixels = prepare_image(picture, as_the_reference(48, match["crop"]))
    check(pixels, TRANSFORMS[name])


@pytest.mark.parametrize(("file", "case"), FILE_CASES)
def test_a_photograph_becomes_the_pixels_of_the_reference(file, case):
    data = os.environ.get("PERCEPTION_SEARCH_DATA")
    if not data:
        pytest.skip("set PERCEPTION_SEARCH_DATA to a folder that holds pe/cat.png and pe/dog.png")
    spec = as_the_reference(int(case.rpartition("_")[2]), case.startswith("centercrop"))
    with Image.open(Path(data, "pe", file)) as image:
        pixels = prepare_image(image, spec)
    check(
        pixels,
        FILES[file][case],
        to_the_bit=PILLOW >= 13 or (file, case) not in DIFFER_BEFORE_PILLOW_13,
    )
