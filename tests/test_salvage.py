"""Salvage: of a damaged file nothing is read that was not written."""

import os
import random

import pytest
from stores import DIM, make

from perception_search import tables
from perception_search.salvage import salvage
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
    for _ in range(NUM_FLIPS):
        content = bytearray(whole)
        if rng.random() < 0.2:
            content = content[: rng.randrange(len(content))]
        else:
            bit = rng.randrange(8 * len(content))
            content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        parts, lost = salvage(path, table, DIM)
        for part in parts:
            num_read += 1
            for name in set(written.column_names) - lost:
                assert part[name].to_pylist() == written[name].to_pylist(), f"seed {SEED}: {name}"
            assert all(part[name].null_count == part.num_rows for name in lost)
    print(f"PERCEPTION_SEARCH_SEED={SEED}: {num_read} of {NUM_FLIPS} could be read")
    assert (num_read > 0) == (table in ("items", "paths")), "of few rows all are in one page"
    path.write_bytes(whole)
    assert [part.num_rows for part in salvage(path, table, DIM).parts] == [30]
    path.unlink()
    assert salvage(path, table, DIM) == ([], frozenset())


def test_the_other_groups_of_a_large_file_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS_PER_GROUP", 16)
    folder = make(tmp_path / "c.ps", 50)
    [file] = Snapshot.open(folder).manifest.of("rows")
    path = folder / file.name
    written = tables.read(path)
    second = tables.map_embeddings(path, DIM)[1]
    content = bytearray(path.read_bytes())
    content[second.offset + 5] ^= 4
    path.write_bytes(content)
    parts, _ = salvage(path, "rows", DIM)
    assert [part.num_rows for part in parts] == [16, 16, 2]
    expected = written["row_id"].to_pylist()
    assert [i for part in parts for i in part["row_id"].to_pylist()] == expected[:16] + expected[
        32:
    ]
