"""Indexes: recipes, building, and a damaged file that is never believed."""

import numpy as np
import pytest
from stores import make

from perception_search import index
from perception_search.errors import QueryError
from perception_search.recipe import recipes
from perception_search.snapshot import Snapshot


def build(folder, recipe):
    snapshot = Snapshot.open(folder)
    return index.build(
        folder,
        snapshot.rows,
        np.arange(len(snapshot.rows)),
        recipe,
        next_row_id=snapshot.manifest.next_row_id,
        version=snapshot.version,
    ).record


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path / "c.ps", 500)


def test_every_recipe_says_when_to_choose_it():
    assert "hnsw" in recipes()
    for recipe in recipes().values():
        assert recipe.when
        assert recipe.metric == "inner_product"


def test_a_factory_string_is_a_recipe_too(folder):
    assert build(folder, index.recipe("Flat")).recipe.factory == "Flat"
    assert index.recipe("IVF8,Flat").search == {"nprobe": 16}  # so that it can be tuned
    assert index.recipe("HNSW8").search == {"efSearch": 64}
    with pytest.raises(ValueError, match="neither a recipe"):
        index.recipe("nonsense")


def test_only_allowed_ids_are_found(folder):
    build(folder, index.recipe("hnsw"))
    rows = Snapshot.open(folder).rows
    opened = index.open_index(folder, rows)
    allowed = np.array([3, 77, 400], np.int64)
    query = rows.embeddings(np.array([5]))[0]
    found = opened.search(query[None], 10, allowed)[0]
    assert set(found[found >= 0].tolist()) == set(allowed.tolist())


def test_no_index_is_none_and_a_new_one_replaces_the_old(folder):
    rows = Snapshot.open(folder).rows
    assert index.open_index(folder, rows) is None
    build(folder, index.recipe("hnsw"))
    build(folder, index.recipe("Flat"))
    assert len(list((folder / index.FOLDER).glob("*.faiss"))) == 1
    assert index.open_index(folder, rows).record.recipe.name == "Flat"


def test_a_flipped_bit_is_found_when_opened(folder):
    record = build(folder, index.recipe("hnsw"))
    rows = Snapshot.open(folder).rows
    path = index.path_of(folder, record)
    whole = path.read_bytes()
    for position in np.random.default_rng(0).integers(0, len(whole), 40).tolist():
        content = bytearray(whole)
        content[position] ^= 64
        path.write_bytes(content)
        with pytest.raises(QueryError, match=r"\.faiss"):
            index.open_index(folder, rows)
    path.write_bytes(whole)
    assert not index.open_index(folder, rows).damaged


def test_a_large_index_is_compared_with_its_hash_meanwhile(folder, monkeypatch):
    monkeypatch.setattr(index, "HASH_LIMIT_BYTES", 0)
    record = build(folder, index.recipe("hnsw"))
    rows = Snapshot.open(folder).rows
    path = index.path_of(folder, record)
    opened = index.open_index(folder, rows)
    opened.check_in_background().join(10)
    assert not opened.damaged
    content = bytearray(path.read_bytes())
    content[-100] ^= 64
    path.write_bytes(content)
    opened.check_in_background().join(10)
    assert opened.damaged


def test_a_damaged_record_or_a_short_file_is_refused(folder):
    record = build(folder, index.recipe("hnsw"))
    rows = Snapshot.open(folder).rows
    path = index.path_of(folder, record)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(QueryError, match="not as long as it was written"):
        index.open_index(folder, rows)
    current = folder / index.FOLDER / index.CURRENT
    current.write_bytes(current.read_bytes().replace(b'"dim": 16', b'"dim": 17'))
    with pytest.raises(QueryError, match="is damaged"):
        index.open_index(folder, rows)


def test_nothing_to_index_is_told(tmp_path):
    folder = make(tmp_path / "c.ps", 0)
    with pytest.raises(ValueError, match="no row to index yet"):
        build(folder, index.recipe("hnsw"))
