"""verify: silent when all is well, and it names what is not."""

import pytest
from fakes import ColourEncoder
from media_folder import write_pictures
from stores import make

from perception_search import Collection, PerceptionSearchWarning, index, manifest
from perception_search.errors import CollectionNotFound
from perception_search.snapshot import Snapshot
from perception_search.verify import verify


@pytest.fixture
def folder(tmp_path):
    folder = make(tmp_path / "c.ps", 20, grid=True, captions=True)
    Collection.open(folder).index("hnsw")
    return folder


def flip(path, byte=-20):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


def test_a_whole_collection_has_nothing_to_say(folder):
    assert verify(folder) == verify(folder, quick=True) == []


@pytest.mark.parametrize("table", manifest.TABLES)
def test_a_damaged_table_is_named(folder, table):
    [file] = Snapshot.open(folder).manifest.of(table)
    flip(folder / file.name)
    assert verify(folder, quick=True) == []
    [damage] = verify(folder)
    assert damage.path == folder / file.name
    (folder / file.name).write_bytes(b"short")
    assert [damage.path for damage in verify(folder, quick=True)] == [folder / file.name]
    (folder / file.name).unlink()
    assert [damage.path for damage in verify(folder, quick=True)] == [folder / file.name]


def test_a_damaged_copy_of_a_manifest_is_named_and_healed_by_the_next_writer(folder):
    version = Snapshot.open(folder).version
    flip(manifest.path_of(folder, version, "a"))
    [damage] = verify(folder, quick=True)
    assert damage.path == manifest.path_of(folder, version, "a")
    assert "healed" in damage.remedy
    flip(folder / manifest.COLLECTION_FILE)
    assert len(verify(folder, quick=True)) == 2
    Collection.open(folder).index("hnsw")
    assert verify(folder) == []


def test_a_damaged_index_is_named_and_may_be_rebuilt(folder):
    record = index.read_record(folder)
    flip(index.path_of(folder, record))
    [damage] = verify(folder)
    assert damage.path == index.path_of(folder, record)
    assert "rebuild" in damage.remedy
    flip(folder / index.FOLDER / index.CURRENT)
    assert [damage.path.name for damage in verify(folder)] == [index.CURRENT]


def test_a_damaged_index_is_done_without_and_mended_by_the_next_ingest(tmp_path):
    media = write_pictures(tmp_path / "media", 5)
    photos = Collection.create(tmp_path / "photos.ps", encoder=ColourEncoder())
    photos.ingest(media)
    record = photos.index("Flat")
    expected = [hit.row_id for hit in photos.search("red")]
    flip(index.path_of(photos.path, record))
    again = Collection.open(photos.path, encoder=ColourEncoder())
    with pytest.warns(PerceptionSearchWarning, match="searching without the index"):
        assert [hit.row_id for hit in again.search("red")] == expected
    again.ingest(media)
    assert again.verify() == []
    assert index.read_record(photos.path).recipe.name == "Flat"


def test_two_damaged_manifests_are_told_with_what_can_be_done(folder):
    version = Snapshot.open(folder).version
    for copy in manifest.COPIES:
        flip(manifest.path_of(folder, version, copy))
    problems = verify(folder)
    assert any("neither" in damage.problem for damage in problems)


def test_no_collection_is_told(tmp_path):
    with pytest.raises(CollectionNotFound):
        verify(tmp_path)
