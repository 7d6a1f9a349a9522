"""The parts of a query: their weights, and the one vector they make."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fakes import ColourEncoder
from media_folder import colour, write_video
from PIL import Image
from stores import unit

from perception_search import Collection, index, own_encoder, search
from perception_search.errors import MediaError, QueryError
from perception_search.query import mix, weigh


def test_a_mix_is_the_unit_vector_of_the_weighted_sum():
    mixed = mix([(2.0, unit(1)), (0.5, unit(2))])
    expected = 2 * unit(1) + 0.5 * unit(2)
    assert mixed == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)
    with pytest.raises(QueryError, match="cancel"):
        mix([(1.0, unit(1)), (1.0, -unit(1))])
    with pytest.raises(QueryError, match="nothing to look for"):
        mix([])


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_must_be_above_nothing(weight):
    assert weigh("red") == (1.0, "red")
    assert weigh((2, "red")) == (2.0, "red")
    with pytest.raises(QueryError, match="must be above 0"):
        weigh((weight, "red"))


@pytest.fixture
def photos(tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    for name, rgb in {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}.items():
        Image.fromarray(colour(rgb)).save(media / f"{name}.png")
    photos = Collection.create(tmp_path / "photos.ps", encoder=ColourEncoder())
    photos.ingest(media)
    return photos


def first(hits):
    return hits[0].path.stem


def test_words_pictures_and_videos_find_the_same(photos, tmp_path):
    picture = Image.fromarray(colour((250, 0, 0)))
    picture.save(tmp_path / "other.png")
    video = write_video(tmp_path / "other.mp4", [colour((250, 0, 0), (64, 64))] * 10)
    assert first(photos.search("red")) == "red"
    assert first(photos.search(images=[tmp_path / "other.png"])) == "red"
    assert first(photos.search(images=[picture])) == "red"
    assert first(photos.search(videos=[video])) == "red"
    assert photos.search(images=[picture])[0].score == pytest.approx(1, abs=1e-3)


def test_weights_decide_between_parts(photos):
    assert first(photos.search(texts=[(5.0, "red"), (1.0, "blue")])) == "red"
    assert first(photos.search(texts=[(1.0, "red"), (5.0, "blue")])) == "blue"


def test_what_is_taken_away_falls_back(photos):
    assert first(photos.search(texts=["red", (0.9, "blue")])) == "red"
    assert first(photos.search(texts=["red", (0.9, "blue")], minus=["red"])) == "blue"


def test_threads_that_ask_at_once_load_one_encoder(tmp_path, monkeypatch):
    loaded = []

    def load(*_args, **_how):
        time.sleep(0.05)
        loaded.append(ColourEncoder())
        return loaded[-1]

    path = tmp_path / "photos.ps"
    Collection.create(path, encoder=ColourEncoder())
    monkeypatch.setattr(own_encoder, "load_encoder", load)
    photos = Collection.open(path)
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: photos.encoder_for("text"), range(8)))
    assert found == set(loaded)
    assert len(loaded) == 1


def test_exactly_means_without_the_index(photos, monkeypatch):
    found = photos.search("red"), photos.similar(photos.search("red")[0].path)
    photos.index("hnsw")
    monkeypatch.setattr(search, "SCAN_IF_FEWER_ROWS", 0)

    def asked(*_args, **_how):
        raise AssertionError("the index was asked")

    monkeypatch.setattr(index.Index, "search", asked)
    with pytest.raises(AssertionError, match="was asked"):
        photos.search("red")
    path = found[0][0].path
    assert (photos.search("red", exact=True), photos.similar(path, exact=True)) == found
    assert photos.search_many(["red"], exact=True) == [found[0]]


def test_hits_become_a_table(photos):
    frame = photos.search("red", k=2).to_pandas()
    assert list(frame.columns[:4]) == ["row_id", "path", "kind", "score"]
    assert len(frame) == 2
    assert list(photos.search("red", where="false").to_pandas().columns) == list(frame.columns)


def test_a_query_file_that_cannot_be_read_is_named(photos, tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    with pytest.raises(MediaError, match=r"notes\.jpg"):
        photos.search(images=[tmp_path / "notes.jpg"])
    with pytest.raises((MediaError, FileNotFoundError), match=r"gone\.jpg"):
        photos.search(images=[tmp_path / "gone.jpg"])


def test_a_reader_finds_what_another_process_has_added(photos, tmp_path):
    reader = Collection.open(photos.path, encoder=ColourEncoder())
    assert len(reader.search("red")) == 3
    Image.fromarray(colour((250, 250, 0))).save(tmp_path / "media" / "yellow.png")
    photos.ingest(tmp_path / "media")
    assert len(reader.search("red")) == 4
