import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_files import encoded, exif, gradient
from PIL import Image

from perception_search.media_facts import Facts, container_facts, image_facts

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow, at damaged EXIF

DEGREES = (48.0, 51.0, 29.6)


def facts_of(**tags):
    data = encoded(gradient(8, 8), "JPEG", exif=exif(**tags))
    with Image.open(io.BytesIO(data)) as image:
        return image_facts(image)


def test_a_photograph_says_when_where_and_with_what_it_was_taken():
    facts = facts_of(
        make="Canon",
        model="Canon EOS 5D",
        date="2020:01:01 00:00:00",
        inner={0x9003: "2019:07:14 18:30:05", 0x9011: "+02:00"},
        gps={1: "N", 2: DEGREES, 3: "W", 4: (2.0, 17.0, 40.2)},
    )
    assert facts.taken_at == "2019-07-14T18:30:05+02:00"
    assert facts.camera == "Canon EOS 5D"
    assert facts.latitude == pytest.approx(48.858222, abs=1e-5)
    assert facts.longitude == pytest.approx(-2.294500, abs=1e-5)


def test_the_time_of_the_file_stands_in_for_that_of_the_picture():
    assert facts_of(date="2020:02:03 04:05:06").taken_at == "2020-02-03T04:05:06"
    both = facts_of(date="2020:02:03 04:05:06", inner={0x9003: "0000:00:00 00:00:00"})
    assert both.taken_at == "2020-02-03T04:05:06"


@pytest.mark.parametrize("date", ["0000:00:00 00:00:00", "2020:13:40 99:99:99", "", "yesterday"])
def test_a_time_that_is_none_is_left_out(date):
    assert facts_of(date=date).taken_at is None


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("NIKON", "D750", "NIKON D750"),
        ("Apple", "", "Apple"),
        ("", "iPhone 12", "iPhone 12"),
        ("SONY\0\0junk", "\x1b[31mA7", "SONY [31mA7"),
        ("", "", None),
    ],
)
def test_a_camera_is_its_maker_and_model(make, model, camera):
    assert facts_of(make=make, model=model).camera == camera


@pytest.mark.parametrize(
    "gps",
    [
        {},
        {1: "N", 2: DEGREES},
        {1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)},
        {1: "N", 2: (95.0, 0.0, 0.0), 3: "E", 4: (1.0, 0.0, 0.0)},
    ],
)
def test_a_place_that_is_none_is_left_out(gps):
    facts = facts_of(make="x", gps=gps)
    assert (facts.latitude, facts.longitude) == (None, None)


def test_a_picture_without_exif_says_nothing():
    assert facts_of() == Facts()
    assert image_facts(gradient(4, 4)) == Facts()


@given(st.binary(max_size=200))
def test_no_exif_block_costs_a_picture(block):
    with Image.open(io.BytesIO(encoded(gradient(8, 8), "PNG", exif=b"Exif\0\0" + block))) as image:
        image.load()
        image_facts(image)


@given(st.binary(min_size=1, max_size=4), st.integers(0, 255))
def test_no_damaged_exif_block_costs_a_picture(change, at):
    block = exif(
        make="m", date="2020:02:03 04:05:06", inner={0x9003: "2019:07:14 18:30:05"}, gps={1: "N"}
    ).tobytes()
    at %= len(block)
    block = block[:at] + change + block[at + len(change) :]
    with Image.open(io.BytesIO(encoded(gradient(8, 8), "JPEG", exif=block))) as image:
        image_facts(image)


def test_a_video_says_the_same_in_the_words_of_its_maker():
    apple = {
        "creation_time": "2022-05-01T10:00:00.000000Z",
        "com.apple.quicktime.creationdate": "2022-05-01T12:00:00+0200",
        "com.apple.quicktime.make": "Apple",
        "com.apple.quicktime.model": "iPhone 12",
        "com.apple.quicktime.location.ISO6709": "+48.8582+002.2945+035.000/",
    }
    assert container_facts(apple) == Facts(
        "2022-05-01T12:00:00+02:00", "Apple iPhone 12", 48.8582, 2.2945
    )
    android = {"creation_time": "2022-05-01T10:00:00.000000Z", "location": "-33.8568+151.2153/"}
    assert container_facts(android) == Facts("2022-05-01T10:00:00+00:00", None, -33.8568, 151.2153)


@pytest.mark.parametrize("time", ["1904-01-01T00:00:00.000000Z", "1970-01-01T00:00:00Z", "x", ""])
def test_a_clock_that_was_never_set_tells_no_time(time):
    assert container_facts({"creation_time": time}) == Facts()


@given(st.dictionaries(st.sampled_from(["creation_time", "location", "make", "model"]), st.text()))
def test_any_metadata_can_be_read(metadata):
    container_facts(metadata)
