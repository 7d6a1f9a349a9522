"""Salvage: of a damaged file nothing is read that was not written."""

import os
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stores import DIM, make

from perception_search import tables
from perception_search.salvage import NOTHING, salvage
from perception_search.snapshot import Snapshot

SEED = int(os.environ.get("PERCEPTION_SEARCH_SEED", random.randrange(1 << 32)))
NUM_FLIPS = 5000 if os.environ.get("PERCEPTION_SEARCH_FAULTS") == "long" else 50


@pytest.mark.parametrize("table", ["rows", "grid", "items", "paths"])
def test_what_is_read_of_a_damaged_file_is_what_was_written(tmp_path, table):
    folder = make(tmp_path / "c.ps", 30, grid=True)
    [file] = Snapshot.open(folder).manifest.of(table)
    path = folder / file.name
    whole, written = path.read_bytes(), tables.read(path)
    rng = random.Random(SEED)
    num_read = 0
    hashes = written["content_hash"].to_pylist() if table in ("rows", "grid") else []
    for _ in range(NUM_FLIPS):
        content = bytearray(whole)
        if rng.random() < 0.2:
            content = content[: rng.randrange(len(content))]
        else:
            bit = rng.randrange(8 * len(content))
            content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        parts, lost, _ = salvage(folder, file, DIM)
        for part in parts:
            num_read += 1
            if table in ("rows", "grid"):
                place = [hashes.index(value) for value in part["content_hash"].to_pylist()]
                assert part.equals(written.take(place)), f"seed {SEED}"
                continue
            for name in set(written.column_names) - lost:
                assert part[name].to_pylist() == written[name].to_pylist(), f"seed {SEED}: {name}"
            assert all(part[name].null_count == part.num_rows for name in lost)
    print(f"PERCEPTION_SEARCH_SEED={SEED}: {num_read} of {NUM_FLIPS} could be read")
    assert num_read > 0
    path.write_bytes(whole)
    assert [part.num_rows for part in salvage(folder, file, DIM).parts] == [30]
    path.unlink()
    assert salvage(folder, file, DIM) == NOTHING


def changed_at(path, position, content):
    whole = bytearray(path.read_bytes())
    whole[position : position + len(content)] = content
    path.write_bytes(whole)


@pytest.mark.parametrize("table", ["rows", "grid"])
def test_of_a_damaged_page_of_embeddings_the_other_rows_are_kept(tmp_path, table):
    folder = make(tmp_path / "c.ps", 50, grid=True)
    [file] = Snapshot.open(folder).manifest.of(table)
    path = folder / file.name
    written = tables.read(path)
    [matrix] = tables.map_embeddings(path, DIM)
    changed_at(path, matrix.offset + 7 * 2 * DIM + 5, b"\1")
    changed_at(path, matrix.offset + 20 * 2 * DIM, bytes(3 * DIM))  # a row and a half
    [part], _, lost_contents = salvage(folder, file, DIM)
    lost = [7, 20, 21]
    assert lost_contents == {f"{number:064x}" for number in lost}
    assert part.equals(written.filter(pa.array(np.isin(np.arange(50), lost, invert=True))))


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file of rows in groups of 16, 16, 16 and 2."""
    monkeypatch.setattr(tables, "ROWS_PER_GROUP", 16)
    folder = make(tmp_path / "c.ps", 50)
    [file] = Snapshot.open(folder).manifest.of("rows")
    return folder, file


def kept(large):
    """The places of the rows that are read, and the contents of those that are known to be lost."""
    folder, file = large
    parts, _, lost = salvage(folder, file, DIM)
    places = [i for part in parts for i in part["row_id"].to_pylist()]
    return places, lost if lost is None else sorted(int(name, 16) for name in lost)


def without(*places):
    return [place for place in range(50) if place not in places]


def page(large, group, name):
    """Where the data page of a column starts, its header before it, and how long it is."""
    folder, file = large
    metadata = pq.read_metadata(folder / file.name)
    column = metadata.schema.names.index(name) if name != "embedding" else 8
    chunk = metadata.row_group(group).column(column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    return start, chunk.total_compressed_size


@pytest.mark.parametrize("group", [0, 1, 3])
def test_of_a_group_that_is_lost_the_others_are_kept(large, group):
    start, length = page(large, group, "content_hash")
    changed_at(large[0] / large[1].name, start + length - 3, bytes(3))
    own = range(group * 16, min(50, group * 16 + 16))
    assert kept(large) == (without(*own), None), "whose rows were in it cannot be read"


@pytest.mark.parametrize("group", [0, 1, 3])
def test_of_a_group_of_which_every_embedding_is_changed_the_others_are_kept(large, group):
    start, length = page(large, group, "embedding")
    own = range(group * 16, min(50, group * 16 + 16))
    num_bytes = len(own) * 2 * DIM
    changed_at(large[0] / large[1].name, start + length - num_bytes, bytes(num_bytes))
    assert kept(large) == (without(*own), list(own))


def test_whatever_changes_of_the_header_of_a_page_of_embeddings_its_rows_are_kept(large):
    path = large[0] / large[1].name
    start, length = page(large, 1, "embedding")
    whole = path.read_bytes()
    for bit in range(8 * (length - 16 * 2 * DIM)):
        changed_at(path, start + bit // 8, bytes([whole[start + bit // 8] ^ 1 << bit % 8]))
        places, lost = kept(large)
        assert places in ([], without()), bit
        assert lost == ([] if places else None)
        path.write_bytes(whole)


def test_checksums_that_cannot_be_read_are_computed_again(large):
    start, length = page(large, 1, "checksum")
    changed_at(large[0] / large[1].name, start + length - 8, b"\xff\xff")
    assert kept(large) == (without(), [])


def test_a_file_from_before_there_were_checksums_is_read(tmp_path):
    golden = Path(__file__).parent / "golden_collections" / "1"
    for table in ("rows", "grid"):
        [file] = Snapshot.open(golden).manifest.of(table)
        assert file.footer_sha256 == ""
        [part], _, _ = salvage(golden, file, DIM)
        assert part.schema == tables.schema_of(table, DIM)
        assert part.num_rows == file.num_rows


def test_a_file_with_another_footer_is_not_read(tmp_path, monkeypatch):
    """What reads it may end the process, not just fail."""
    folder = make(tmp_path / "c.ps", 50)
    [file] = Snapshot.open(folder).manifest.of("rows")
    path = folder / file.name
    changed_at(path, path.stat().st_size - 100, b"\xff")
    monkeypatch.delattr(pq, "ParquetFile")
    assert salvage(folder, file, DIM) == NOTHING
