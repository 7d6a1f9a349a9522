"""Purge: of what was removed no file of the collection holds anything any more."""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fakes import ColourEncoder
from media_folder import write_pictures, write_videos
from stops import stopping_after

from perception_search import (
    Collection,
    caption_words,
    current_index,
    index,
    manifest,
    text_cache,
)
from perception_search.snapshot import Snapshot
from perception_search.verify import verify
from perception_search.writer import Writer

EVERY = os.environ.get("PERCEPTION_SEARCH_FAULTS") == "long"
"""Stop at every durable operation, not at every twelfth."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A collection of which a picture, a video and a file that is gone were removed; what
    must not be found any more: paths, hashes, embeddings.
    """
    folder = tmp_path_factory.mktemp("made")
    media = write_pictures(folder / "media", 8)
    write_videos(media / "v", 2, seconds=12)
    path = folder / "photos.ps"
    photos = Collection.create(path, encoder=ColourEncoder())
    photos.ingest(media, commit_rows=4)
    with Writer(path) as writer:
        current_index.build(writer, index.recipe("Flat"))
    pictures = sorted(media.rglob("*.jpg"))
    gone = [pictures[2], pictures[5], media / "v" / "000000.mp4"]
    snapshot = photos.snapshot
    hashes = [snapshot.path_records[file].content_hash for file in gone]
    mine = np.isin(snapshot.rows.content_hash.to_pylist(), hashes)
    vectors = [snapshot.rows.embeddings(np.flatnonzero(mine)).astype(np.float16)]
    vectors.append(np.array(snapshot.grids.of(hashes[2]).embeddings))
    photos.remove(gone[0])
    photos.remove(gone[2])
    gone[1].unlink()
    photos.ingest(media)
    secrets = [os.fsencode(file) for file in gone] + [h.encode() for h in hashes]
    secrets += [row.tobytes() for part in vectors for row in part]
    return path, media, secrets


def readable(path):
    """All bytes that a file holds, what Parquet compresses too; floats as float16."""
    content = path.read_bytes()
    if path.suffix == ".parquet":
        for column in pq.read_table(path).columns:
            content += repr(column.to_pylist()).encode()
    if path.suffix == ".faiss":
        vectors = np.frombuffer(content[len(content) % 4 :], np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            content += vectors.astype(np.float16).tobytes()
    return content


def holding(folder, secrets):
    """The files in which one of the secrets can be found."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [file for file in files if any(secret in readable(file) for secret in secrets)]


def test_before_a_purge_everything_is_still_there(made):
    path, _, secrets = made
    kinds = {file.parent.name for file in holding(path, secrets)}
    assert kinds == {"rows", "grid", "items", "paths", "index"}


def test_after_a_purge_no_file_holds_anything_of_it(made, tmp_path):
    path, media, secrets = made
    copy = tmp_path / "photos.ps"
    shutil.copytree(path, copy)
    photos = Collection.open(copy, encoder=ColourEncoder())
    expected = [(hit.path, hit.score) for hit in photos.search("red", k=20)]
    report = photos.purge()
    assert holding(copy, secrets) == []
    assert len(report.paths) == report.num_items == 3
    assert len(report.returning) == 2, "one of the three files is gone itself"
    assert report.freed_bytes > 0
    assert verify(copy) == []
    assert [(hit.path, hit.score) for hit in photos.search("red", k=20)] == expected
    assert index.read_record(copy).num_rows == len(photos.snapshot.searchable)
    assert len(manifest.versions(copy)) == 2
    again = photos.purge()
    assert (again.num_items, again.num_files, again.paths) == (0, 0, [])
    assert photos.ingest(media).ingested == 2, "what lies in a followed folder comes back"


def test_what_was_kept_of_items_goes_and_queries_stay(made, tmp_path):
    path, _, _ = made
    copy = tmp_path / "photos.ps"
    shutil.copytree(path, copy)
    photos = Collection.open(copy, encoder=ColourEncoder())
    photos.search("red")
    picture = copy / manifest.THUMBNAILS / "ab" / "abcdef-480.webp"
    words = copy / caption_words.FOLDER / "0123" / "corpus.jsonl"
    captions, reranked = copy / text_cache.CAPTIONS_FILE, copy / manifest.CACHE / "rerank-01.sqlite"
    for file in (picture, words, captions, reranked):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"a boy on a beach")
    photos.purge()
    assert [file for file in (picture, words, captions, reranked) if file.exists()] == []
    assert text_cache.is_whole(copy / text_cache.FILE)
    assert len(text_cache.asked(copy, photos.snapshot.dim, 10)) == 1


def test_a_purge_takes_no_more_than_it_must(tmp_path):
    media = write_pictures(tmp_path / "media", 3)
    photos = Collection.create(tmp_path / "photos.ps", encoder=ColourEncoder())
    shutil.copy(media / "0000" / "000000.jpg", media / "twin.jpg")
    (media / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    photos.ingest(media)
    photos.remove(media / "twin.jpg")
    report = photos.purge()
    assert (report.paths, report.num_items) == ([media / "twin.jpg"], 0)
    assert len(photos.search("red")) == 3
    assert len(photos.failures()) == 1
    photos.remove(media)
    assert photos.purge().num_items == 3
    assert photos.search("red") == []
    assert verify(photos.path) == []
    assert not list((photos.path / "rows").iterdir())


def test_stopped_at_any_operation_another_purge_completes_it(made, tmp_path):
    path, _, secrets = made
    expected = len(Snapshot.open(path).live_items)
    number = 0
    while True:
        copy = tmp_path / "photos.ps"
        shutil.copytree(path, copy)
        with stopping_after(number) as stop:
            Collection.open(copy).purge()
        assert len(Snapshot.open(copy).live_items) == expected
        assert verify(copy, quick=True) == [] or stop.stopped
        Collection.open(copy, encoder=ColourEncoder()).purge()
        assert holding(copy, secrets) == []
        assert verify(copy) == []
        shutil.rmtree(copy)
        if not stop.stopped:
            break
        number += 1 if EVERY else 12
    assert number > 40


def test_purge_says_what_it_did(run, made, tmp_path):
    copy = tmp_path / "photos.ps"
    shutil.copytree(made[0], copy)
    code, out, err = run("purge", copy, "--dry-run")
    assert code == 0
    assert len(out.splitlines()) == 3
    assert "nothing was changed" in err
    code, out, err = run("purge", copy)
    assert code == 0
    assert out.startswith("3 items purged, of 3 paths; ")
    assert "spare cells of an SSD" in err
    assert "2 of these files are still in a folder that is followed" in err
    code, out, _ = run("purge", copy, "--json")
    assert (code, out) == (0, '{"paths": 0, "items": 0, "files": 0, "freed_bytes": 0}\n')
    assert Path(copy).is_dir()
