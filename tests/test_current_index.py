"""An index is kept up with what comes and goes, and says when it no longer fits."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from stores import add_pictures, description, flipped, remove_pictures

from perception_search import current_index, index, search
from perception_search.current_index import keep_up
from perception_search.errors import PerceptionSearchWarning, QueryError
from perception_search.scoring import Target
from perception_search.snapshot import Snapshot
from perception_search.writer import Writer, create_folder

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
from vectors import Vectors

DIM = 64
NUM_ROWS = 3000
NONE_ASKED = np.zeros((0, DIM), np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(current_index, "NEW_ROWS", 500)
    monkeypatch.setattr(search, "SCAN_IF_FEWER_ROWS", 0)
    folder = tmp_path / "c.ps"
    create_folder(folder, description(DIM))
    add(folder, Vectors(DIM).images(NUM_ROWS))
    return folder


def add(folder, rows):
    add_pictures(folder, rows, len(Snapshot.open(folder).path_records))


def kept_up(folder):
    with Writer(folder) as writer:
        return keep_up(writer, NONE_ASKED)


def chosen(folder, name, recall=0.95):
    with Writer(folder) as writer:
        return current_index.choose(writer, name, recall, NONE_ASKED)


@pytest.mark.parametrize("recipe", ["ivf-pq", "rabitq", "hnsw", "Flat"])
def test_many_new_rows_are_added_and_found(folder, recipe):
    before = chosen(folder, recipe)
    new = Vectors(DIM).images(NUM_ROWS + 600)[NUM_ROWS:]
    add(folder, new)
    assert kept_up(folder) == f"index extended: {recipe}, 3,600 rows"
    snapshot = Snapshot.open(folder)
    opened = index.open_index(folder, snapshot.rows)
    assert opened.record.num_rows == 3600
    assert opened.record.num_trained_rows == 3000
    assert opened.record.next_row_id == snapshot.manifest.next_row_id
    assert opened.record.recipe.factory == before.recipe.factory
    assert min(opened.record.recall.values()) >= 0.95
    assert len(list((folder / index.FOLDER).glob("*.faiss"))) == 1
    for number in range(0, 600, 60):
        [hit] = search.search(snapshot, Target(new[number]), k=1, index=opened)
        assert hit.path.stem == str(NUM_ROWS + number)
        assert hit.score == pytest.approx(1.0, abs=1e-3)


def test_few_new_rows_leave_the_file_as_it_is(folder):
    record = chosen(folder, "ivf-pq")
    add(folder, Vectors(DIM, seed=1).images(400))
    assert kept_up(folder) == ""
    assert index.read_record(folder) == record


def test_rows_unlike_the_others_are_warned_of_and_still_found(folder):
    before = chosen(folder, "IVF64,PQ16x4fs")
    rng = np.random.default_rng(0)
    far = rng.standard_normal((900, DIM)).astype(np.float32)
    far /= np.linalg.norm(far, axis=1, keepdims=True)
    add(folder, far)
    with pytest.warns(PerceptionSearchWarning, match=r"900 rows that came are unlike.*builds it"):
        kept_up(folder)
    after = index.read_record(folder)
    assert after.recall["new picture"] >= 0.95
    assert after.recipe.candidates > before.recipe.candidates


def test_rows_like_the_others_are_not_warned_of(folder):
    chosen(folder, "ivf-pq")
    add(folder, Vectors(DIM).images(NUM_ROWS + 900)[NUM_ROWS:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept_up(folder)


def test_another_size_is_built_anew_to_the_same_recall(folder, monkeypatch):
    chosen(folder, "ivf-pq", recall=0.9)
    add(folder, Vectors(DIM, seed=1).images(9100))
    assert kept_up(folder) == "index built anew for what there is now: ivf-pq, 12,100 rows"
    record = index.read_record(folder)
    assert record.num_trained_rows == 12_100
    assert record.wanted_recall == 0.9
    remove_pictures(folder, range(0, 6000))
    assert kept_up(folder) == ""
    remove_pictures(folder, range(6000, 6200))
    assert kept_up(folder) == "index built anew for what there is now: ivf-pq, 5,900 rows"


def test_all_rows_gone_is_no_index(folder):
    chosen(folder, "hnsw")
    remove_pictures(folder, range(NUM_ROWS))
    assert kept_up(folder) == ""
    assert index.read_record(folder) is None


def test_a_large_collection_gets_its_first_index_unless_exact_was_chosen(folder, monkeypatch):
    assert kept_up(folder) == ""
    monkeypatch.setattr("perception_search.recipe.EXACT_BELOW_ROWS", 2000)
    assert chosen(folder, "exact") is None
    assert kept_up(folder) == ""
    assert index.read_record(folder) is None
    chosen(folder, "auto")
    assert index.read_record(folder).recipe.name == "ivf-pq"
    with Writer(folder):
        index.remove(folder)
    assert kept_up(folder) == "index built: ivf-pq, 3,000 rows"


def test_what_cannot_be_trusted_is_built_anew(folder):
    record = chosen(folder, "rabitq", recall=0.8)
    path = index.path_of(folder, record)
    path.write_bytes(path.read_bytes()[:-1])
    assert kept_up(folder) == "index built anew, since it could not be trusted: rabitq, 3,000 rows"
    assert index.read_record(folder).wanted_recall == 0.8
    current = folder / index.FOLDER / index.CURRENT
    current.write_bytes(b"nonsense")
    assert kept_up(folder) == ""  # what suits 3,000 rows is no index
    assert not list((folder / index.FOLDER).iterdir())


def test_a_damaged_file_is_not_added_to(folder):
    record = chosen(folder, "hnsw")
    path = index.path_of(folder, record)
    flipped(path)
    rows = Snapshot.open(folder).rows
    with pytest.raises(QueryError, match="does not hold what was written"):
        index.extend(folder, rows, np.arange(5), next_row_id=NUM_ROWS, version=1)


def test_a_full_disk_leaves_the_old_index(folder, monkeypatch):
    record = chosen(folder, "ivf-pq")
    add(folder, Vectors(DIM, seed=1).images(600))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("perception_search.durable.pending", full)
    said = kept_up(folder)
    assert said.startswith("The index could not be kept up (No space left on device)")
    assert index.read_record(folder) == record
    assert index.open_index(folder, Snapshot.open(folder).rows) is not None


def test_a_wrong_recall_is_told_before_anything_is_built(folder):
    with pytest.raises(ValueError, match="recall=95"):
        chosen(folder, "hnsw", recall=95)
    assert index.read_record(folder) is None


def test_a_record_of_an_earlier_version_is_read(folder):
    record = chosen(folder, "hnsw")
    current = folder / index.FOLDER / index.CURRENT
    fields = json.loads(record.encode())["body"]
    del fields["num_trained_rows"], fields["wanted_recall"]
    body = json.dumps(fields, sort_keys=True).encode()
    current.write_bytes(index._sealed(body))
    assert index.read_record(folder).num_trained_rows == 0
    current.write_bytes(current.read_bytes().replace(b'"dim": 64', b'"dim": 65'))
    with pytest.raises(ValueError, match="checksum"):
        index.read_record(folder)
