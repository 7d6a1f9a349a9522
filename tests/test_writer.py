"""The writer: one at a time, all or nothing, tidy, and nothing acknowledged is ever lost."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from stops import stopping_after
from stores import caption, description, flipped, item, make, row, unit

from perception_search import durable, manifest, tables
from perception_search.errors import CollectionDamaged, CollectionLocked, CollectionNotFound
from perception_search.manifest import StoredFile
from perception_search.snapshot import PathRecord, Snapshot
from perception_search.writer import Grid, Writer, create_folder, merge_plan


def test_what_was_committed_is_read_back(tmp_path):
    folder = make(tmp_path / "c.ps", 5)
    snapshot = Snapshot.open(folder)
    assert len(snapshot.rows) == 5
    assert snapshot.rows.row_id.tolist() == [0, 1, 2, 3, 4]
    expected = np.stack([unit(n) for n in range(5)]).astype(np.float16).astype(np.float32)
    assert np.array_equal(snapshot.rows.embeddings(np.arange(5)), expected)
    assert np.array_equal(snapshot.rows.embeddings(np.array([3, 0])), expected[[3, 0]])
    assert snapshot.live_items["width"].to_pylist() == [100, 101, 102, 103, 104]
    paths = [str(path) for paths in snapshot.live_paths.values() for path in paths]
    assert sorted(paths) == [f"/photos/{n}.jpg" for n in range(5)]


def test_nothing_is_visible_before_the_commit(tmp_path):
    folder = make(tmp_path / "c.ps", 1)
    with Writer(folder) as writer:
        writer.add_item(item(7), [row(7)])
        assert len(Snapshot.open(folder).rows) == 1
    assert len(Snapshot.open(folder).rows) == 1, "what was not committed is gone"


def test_a_snapshot_does_not_change_while_others_write(tmp_path):
    folder = make(tmp_path / "c.ps", 3)
    before = Snapshot.open(folder)
    make(folder, 3, first=3)
    assert len(before.rows) == 3
    assert len(Snapshot.open(folder).rows) == 6


def test_a_later_version_reads_only_what_is_new(tmp_path, monkeypatch):
    folder = make(tmp_path / "c.ps", 6)
    before = Snapshot.open(folder)
    assert before.item_of_row.tolist() == list(range(6))
    make(folder, 2, first=6)
    make(folder, 1, first=2)  # an item that is there already, with one more row
    opened = []
    real = tables._opened
    monkeypatch.setattr(
        tables, "_opened", lambda path, *how: opened.append(path) or real(path, *how)
    )
    after, fresh = Snapshot.open(folder, before), Snapshot.open(folder)
    assert after.item_of_row.tolist() == fresh.item_of_row.tolist()
    assert len(opened) == 3 * 2 + 3 * 3
    assert after.items.equals(fresh.items)
    assert after.paths.equals(fresh.paths)
    every = np.arange(9)
    assert np.array_equal(after.rows.embeddings(every), fresh.rows.embeddings(every))
    assert after.rows.row_id.tolist() == fresh.rows.row_id.tolist()


@pytest.mark.parametrize("seed", range(8))
def test_a_version_read_after_another_is_as_if_read_afresh(tmp_path, seed):
    folder = make(tmp_path / "c.ps", 3)
    random = np.random.default_rng(seed)
    snapshot = Snapshot.open(folder)
    for first in range(3, 43, 2):
        assert len(snapshot.item_of_row) == len(snapshot.rows)  # as any search asks for
        change = random.choice(["more", "more", "remove", "copy", "revive", "replace", "compact"])
        some = int(random.integers(0, first))
        with Writer(folder, snapshot) as writer:
            match change:
                case "more":
                    writer.add_item(item(first), [row(first), row(first)])
                    writer.add_path(Path(f"/{first}"), seen(first))
                case "remove":
                    writer.add_path(Path(f"/photos/{some}.jpg"), seen(some, "removed"))
                case "copy":
                    writer.add_path(Path(f"/copies/{first}.jpg"), seen(some))
                case "revive":
                    writer.add_path(Path(f"/photos/{some}.jpg"), seen(some))
                case "replace":
                    writer.add_item(item(some) | {"outcome": "unreadable"})
            writer.commit()
            if change == "compact":
                writer.compact()
        snapshot, fresh = Snapshot.open(folder, snapshot), Snapshot.open(folder)
        assert snapshot.item_of_row.tolist() == fresh.item_of_row.tolist(), change
        assert snapshot.live_items.equals(fresh.live_items), change
        assert snapshot.searchable.tolist() == fresh.searchable.tolist()
        assert snapshot.live_paths == fresh.live_paths


def seen(number, outcome="ingested"):
    return PathRecord(1, 2, 3, f"{number:064x}", outcome)


def test_a_version_whose_files_were_merged_reads_them_anew(tmp_path):
    folder = make(tmp_path / "c.ps", 3)
    make(folder, 3, first=3)
    before = Snapshot.open(folder)
    assert len(before.rows) == 6
    with Writer(folder, before) as writer:
        writer.compact()
    after = Snapshot.open(folder, before)
    assert after.rows.row_id.tolist() == list(range(6))
    assert after.rows.content_hash.num_chunks == 1


def test_a_later_record_replaces_an_earlier_one(tmp_path):
    folder = make(tmp_path / "c.ps", 2)
    with Writer(folder) as writer:
        writer.add_item(item(0) | {"width": 5, "own": "column"})
        writer.add_path(Path("/photos/1.jpg"), PathRecord(None, None, None, f"{1:064x}", "removed"))
        writer.commit()
        for _ in range(2):
            snapshot = Snapshot.open(folder)
            assert snapshot.live_items.to_pylist()[0]["own"] == "column"
            assert snapshot.live_items["width"].to_pylist() == [5]
            assert snapshot.item_of_row.tolist() == [0, -1]
            writer.compact()
    assert len(Snapshot.open(folder).manifest.files) == 3


def test_row_ids_are_never_reused_and_survive_merging(tmp_path):
    folder = make(tmp_path / "c.ps", 0)
    for first in range(0, 40, 4):
        make(folder, 4, first=first)
    before = Snapshot.open(folder)
    assert len(before.manifest.of("rows")) == 10
    with Writer(folder) as writer:
        writer.compact()
    after = Snapshot.open(folder)
    assert len(after.manifest.of("rows")) == 1
    assert after.rows.row_id.tolist() == before.rows.row_id.tolist() == list(range(40))
    everything = np.arange(40)
    assert np.array_equal(after.rows.embeddings(everything), before.rows.embeddings(everything))
    assert after.manifest.of("rows")[0].provenance == ({"device": "cpu"},)
    assert after.rows.positions(np.array([39, 0, 1000])).tolist() == [39, 0, -1]


def test_the_number_of_files_grows_with_the_logarithm(tmp_path):
    files = []
    for number in range(2000):
        files.append(StoredFile("rows", f"{number:064x}", 1, 1))
        plan = merge_plan(files)
        assert plan == files[len(files) - len(plan) :]
        assert len(plan) != 1
        if plan:
            total = sum(file.num_rows for file in plan)
            files = [*files[: -len(plan)], StoredFile("rows", f"{number:064x}", 1, total)]
        assert len(files) <= 8
    assert sum(file.num_rows for file in files) == 2000


def test_only_old_files_that_nothing_names_are_deleted(tmp_path):
    folder = make(tmp_path / "c.ps", 2)
    foreign = folder / "rows" / "holiday.parquet"
    foreign.write_bytes(b"mine")
    orphan = folder / "rows" / f"{'e' * 64}.parquet"
    orphan.write_bytes(b"left by a crash")
    for number in range(2, 8):
        make(folder, 1, first=number)
    with Writer(folder) as writer:
        writer.compact()
        assert writer.collect_garbage() == [], "everything is younger than a day"
        for path in folder.rglob("*"):
            os.utime(path, (1, 1))
        deleted = writer.collect_garbage()
    assert foreign.exists()
    assert not orphan.exists()
    assert orphan in deleted
    assert len(manifest.versions(folder)) == manifest.NUM_KEPT
    for version in manifest.versions(folder):
        state = manifest.read_copy(folder, version, "a")
        assert all((folder / file.name).exists() for file in state.files)


def test_a_second_writer_stops_at_once_and_names_the_first(tmp_path):
    folder = make(tmp_path / "c.ps", 1)
    with Writer(folder):
        with pytest.raises(CollectionLocked, match=f"process {os.getpid()} on "), Writer(folder):
            pass
        code = textwrap.dedent("""
            import sys, pathlib
            from perception_search.errors import CollectionLocked
            from perception_search.writer import Writer
            try:
                with Writer(pathlib.Path(sys.argv[1])): print("in")
            except CollectionLocked as error: print(error)
        """)
        command = [sys.executable, "-c", code, str(folder)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert f"process {os.getpid()} on " in said
    with Writer(folder):
        pass


def test_writing_to_no_collection_is_refused(tmp_path):
    with pytest.raises(CollectionNotFound), Writer(tmp_path):
        pass


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, 2.0])
def test_an_embedding_that_is_not_of_unit_length_is_refused(tmp_path, bad):
    folder = make(tmp_path / "c.ps", 0)
    with Writer(folder) as writer, pytest.raises(ValueError, match="cannot be stored"):
        writer.add_item(item(0), [row(0, unit(0) * np.float32(bad))])


def test_a_full_disk_leaves_the_version_before(tmp_path, monkeypatch):
    folder = make(tmp_path / "c.ps", 3)
    version = Snapshot.open(folder).version
    for operation in ("create", "sync", "rename", "sync_folder"):

        def full(what, path, operation=operation):
            if what == operation and path.parent.name != "manifests":
                raise OSError(28, "No space left on device")

        with Writer(folder) as writer:
            writer.add_item(item(9), [row(9)])
            monkeypatch.setattr(durable, "on_operation", full)
            with pytest.raises(OSError, match="No space left"):
                writer.commit()
            monkeypatch.setattr(durable, "on_operation", None)
        assert Snapshot.open(folder).version == version
    assert not list(folder.rglob(f"{durable.TEMPORARY_PREFIX}*"))
    assert len(Snapshot.open(folder).rows) == 3


def test_a_damaged_or_missing_file_is_named(tmp_path):
    for table in manifest.TABLES:
        folder = make(tmp_path / f"{table}.ps", 3, grid=True, captions=True)
        [file] = Snapshot.open(folder).manifest.of(table)
        path = folder / file.name
        flipped(path)
        with pytest.raises(CollectionDamaged, match=file.sha256):
            Snapshot.open(folder).path_of(file)
        path.unlink()
        with pytest.raises(CollectionDamaged, match=file.sha256):
            Snapshot.open(folder).path_of(file)


def test_interrupted_writes_are_swept_by_the_next_writer(tmp_path):
    folder = make(tmp_path / "c.ps", 1)
    for place in ("rows", "manifests", "."):
        (folder / place / f"{durable.TEMPORARY_PREFIX}1-abc").write_bytes(b"half")
    with Writer(folder):
        pass
    assert not list(folder.rglob(f"{durable.TEMPORARY_PREFIX}*"))


def test_a_stop_at_any_durable_operation_loses_nothing(tmp_path):
    """Every operation in turn is the last one: the state is the one before or the one after."""

    number = 0
    while True:
        folder = make(tmp_path / f"{number}.ps", 2, grid=True, captions=True)
        acknowledged = 2
        with stopping_after(number) as stop, Writer(folder) as writer:
            writer.add_item(item(9), [row(9)], Grid(unit(9)[None], np.ones(1), np.zeros(1)))
            writer.add_captions(f"{9:064x}", [caption("nine")])
            writer.commit()
            acknowledged = 3
            writer.compact()
        snapshot = Snapshot.open(folder)
        rows = snapshot.rows
        assert acknowledged <= len(rows) <= 3
        assert snapshot.captions.num_rows == len(rows), "captions come with what they are of"
        with Writer(folder) as writer:
            if len(rows) == 2:
                writer.add_item(item(9), [row(9)])
                writer.commit()
        rows = Snapshot.open(folder).rows
        assert sorted(rows.content_hash.to_pylist()) == sorted([f"{n:064x}" for n in (0, 1, 9)])
        assert len(set(rows.row_id.tolist())) == 3
        if not stop.stopped:
            break
        number += 1
    assert number >= 40, "the commit and the merge have at least that many operations"


def test_creating_is_whole_or_absent(tmp_path, monkeypatch):
    for number in range(20):
        path = tmp_path / f"{number}.ps"
        count = 0

        def fail(_what, _path, last=number):
            nonlocal count
            count += 1
            if count > last:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(durable, "on_operation", fail)
        try:
            create_folder(path, description())
        except OSError:
            monkeypatch.setattr(durable, "on_operation", None)
            if path.exists():
                assert Snapshot.open(path).version == 1
        else:
            break
    monkeypatch.setattr(durable, "on_operation", None)
    assert number > 8
    assert not list(tmp_path.glob(f"{durable.TEMPORARY_PREFIX}*"))
