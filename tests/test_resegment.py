"""Other segments from what is stored: equal to a fresh ingest, and no media file is opened."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from fakes import ColourEncoder
from media_folder import colour, picture, write_pictures, write_video
from stops import stopping_after

from perception_search import Collection, Segmentation, manifest

OTHERS = [
    Segmentation(seconds=5, overlap_seconds=2),
    Segmentation(seconds=30),
    Segmentation("shots", 8),
]


def drift(first, last, count):
    """Frames that go from one colour to another."""
    shares = np.linspace(0, 1, count)[:, None]
    return [colour(rgb, (64, 48)) for rgb in (1 - shares) * first + shares * last]


@pytest.fixture
def media(tmp_path):
    """12 pictures; a video that drifts, and one of six shots, at 5 frames a second."""
    folder = write_pictures(tmp_path / "media", 12)
    red, green, blue = np.eye(3) * 220
    write_video(folder / "drift.mp4", drift(red, blue, 170) + drift(blue, green, 80))
    shots = [picture(seed, (64, 48)) for seed in range(6) for _ in range(10 + 9 * seed)]
    write_video(folder / "shots.mp4", shots)
    return folder


def ingested(path, media, segmentation):
    collection = Collection.create(path, encoder=ColourEncoder(), segmentation=segmentation)
    collection.ingest(media)
    return collection


def found_by(collection):
    """(content hash, scope, start, end, number of frames) to embedding and norm of every row."""
    rows = collection.snapshot.rows
    names = zip(
        rows.content_hash.to_pylist(),
        rows.scope.tolist(),
        np.nan_to_num(rows.start_seconds).tolist(),
        np.nan_to_num(rows.end_seconds).tolist(),
        rows.num_frames.tolist(),
        strict=True,
    )
    embeddings = rows.embeddings(np.arange(len(rows)))
    return dict(zip(names, zip(embeddings, rows.norm, strict=True), strict=True))


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_resegmenting_equals_a_fresh_ingest(tmp_path, media, other):
    fresh = found_by(ingested(tmp_path / "fresh.ps", media, other))
    collection = ingested(tmp_path / "again.ps", media, Segmentation())
    before = collection.snapshot
    pictures = {i for i, s in zip(before.rows.row_id, before.rows.scope, strict=True) if s == 0}
    shutil.rmtree(media)  # nothing of it can be opened
    collection.resegment(other)
    assert collection.segmentation == other
    again = found_by(collection)
    assert again.keys() == fresh.keys()
    for key, (embedding, norm) in again.items():
        assert embedding == pytest.approx(fresh[key][0], abs=1e-3)
        assert norm == pytest.approx(fresh[key][1], abs=1e-3)
    rows = collection.snapshot.rows
    assert len(set(rows.row_id.tolist())) == len(rows)
    assert pictures <= set(rows.row_id.tolist()), "what is no segment keeps its id"
    segments = rows.row_id[rows.scope == 1]
    assert segments.min() >= before.manifest.next_row_id, "ids are never given twice"
    assert collection.verify() == []


def test_shots_are_found_by_their_cuts(tmp_path, media):
    rows = ingested(tmp_path / "c.ps", media, Segmentation("shots", 30)).snapshot.rows
    starts = sorted(rows.start_seconds[rows.scope == 1].tolist())
    for cut in np.cumsum([0, 10, 19, 28, 37, 46])[1:] / 5:
        assert min(abs(start - cut) for start in starts) <= 0.2


def test_what_is_ingested_later_is_cut_in_the_same_way(tmp_path, media):
    collection = ingested(tmp_path / "c.ps", media / "0000", Segmentation())
    collection.resegment(Segmentation(seconds=5))
    collection.ingest(media)
    rows = collection.snapshot.rows
    lengths = (rows.end_seconds - rows.start_seconds)[rows.scope == 1]
    assert lengths.max() == 5
    assert (
        found_by(collection).keys()
        == found_by(ingested(tmp_path / "fresh.ps", media, Segmentation(seconds=5))).keys()
    )


def test_an_index_is_built_anew(tmp_path, media):
    collection = ingested(tmp_path / "c.ps", media, Segmentation())
    before = collection.index("hnsw")
    collection.resegment(OTHERS[0])
    info = collection.info()["index"]
    assert info["recipe"] == before.recipe.name
    assert info["rows"] > before.num_rows
    assert info["rows_since"] == 0
    assert collection.search("red", k=3)


def test_a_stop_at_any_operation_leaves_the_old_segments_or_the_new(tmp_path, media):
    collection = ingested(tmp_path / "c.ps", media, Segmentation())
    old = set(found_by(collection))
    new = set(found_by(ingested(tmp_path / "fresh.ps", media, OTHERS[0])))

    for number in range(100):
        copy = tmp_path / f"{number}.ps"
        shutil.copytree(collection.path, copy)
        with stopping_after(number) as stop:
            Collection.open(copy, encoder=ColourEncoder()).resegment(OTHERS[0])
        is_whole = not stop.stopped
        after = Collection.open(copy, encoder=ColourEncoder())
        keys = set(found_by(after))
        assert keys == new if is_whole else keys in (old, new)
        assert after.segmentation == (OTHERS[0] if keys == new else Segmentation())
        assert after.verify() == [] or not is_whole
        if is_whole:
            break
    else:
        pytest.fail("it never came to its end")
    assert number > 5


def test_a_removed_video_stays_hidden(tmp_path, media):
    collection = ingested(tmp_path / "c.ps", media, Segmentation())
    collection.remove(media / "drift.mp4")
    collection.resegment(OTHERS[0])
    names = {hit.path.name for hit in collection.search("blue", k=50)}
    assert "drift.mp4" not in names
    assert "shots.mp4" in names


def test_pictures_alone_have_nothing_to_cut(tmp_path):
    media = write_pictures(tmp_path / "media", 3)
    collection = ingested(tmp_path / "c.ps", media, Segmentation())
    version = collection.snapshot.version
    collection.resegment(OTHERS[0])
    assert collection.snapshot.version == version + 1
    assert len(collection.snapshot.rows) == 3
    assert collection.segmentation == OTHERS[0]


def test_a_collection_from_before_segments_could_change_can_be_changed(tmp_path, media):
    collection = ingested(tmp_path / "c.ps", media, Segmentation())
    state = collection.snapshot.manifest
    described = dict(state.collection["sampling"]) | {"segment_seconds": 10.0}
    old = replace(
        state,
        version=state.version + 1,
        collection=dict(state.collection) | {"sampling": described},
        segmentation={},
    )
    manifest.write(collection.path, old)
    again = Collection.open(collection.path, encoder=ColourEncoder())
    assert again.segmentation == Segmentation(seconds=10)
    assert again.sampling == collection.sampling
    again.resegment(OTHERS[0])
    assert again.segmentation == OTHERS[0]
    assert again.search("red", k=3)
