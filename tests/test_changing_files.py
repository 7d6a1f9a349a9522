"""Files are edited, cut, replaced by others or by links while they are read: no embedding is of
other bytes than its content hash says, and the next run finds what is there then.

PERCEPTION_SEARCH_FAULTS=long edits for longer; PERCEPTION_SEARCH_SEED replays a run as far as time
allows.
"""

import hashlib
import os
import random
import threading
import time

import numpy as np
import pytest
from fakes import ColourEncoder
from media_folder import write_pictures, write_videos

from perception_search import Collection
from perception_search.snapshot import Snapshot
from perception_search.verify import verify

LONG = os.environ.get("PERCEPTION_SEARCH_FAULTS") == "long"
SEED = int(os.environ.get("PERCEPTION_SEARCH_SEED", random.randrange(1 << 32)))
NUM_ROUNDS = 200 if LONG else 4
NUM_FILES = 60
EDITS = ("in place", "in place", "by a link", "by another")


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """Files that others are made to equal: pictures and videos, whole, cut and with a tail."""
    folder = tmp_path_factory.mktemp("contents")
    write_pictures(folder / "p", 20, size=(320, 240))
    write_videos(folder / "v", 16, seconds=12, size=(320, 240))
    for number, path in enumerate(sorted(folder.rglob("*.*"))):
        whole = path.read_bytes()
        path.with_name(f"cut-{path.name}").write_bytes(whole[: len(whole) * 2 // 3])
        path.with_name(f"long-{path.name}").write_bytes(whole + bytes(number))
    return folder


def embeddings(path):
    """What is stored of each content: its rows, and a video's grid."""
    snapshot = Snapshot.open(path)
    found = {}
    for position, content_hash in enumerate(snapshot.rows.content_hash.to_pylist()):
        rows = snapshot.rows.embeddings(np.array([position]))
        found.setdefault(content_hash, []).append(rows.tobytes())
    for content_hash in snapshot.grids:
        found[content_hash].append(snapshot.grids.of(content_hash).embeddings.tobytes())
    return found


def edit(path, source, how):
    """Make `path` hold what `source` holds."""
    content = source.read_bytes()
    if how == "in place" and path.is_file() and not path.is_symlink():
        with path.open("r+b") as file:
            file.write(content)
            file.truncate()
        return
    other = path.with_name(f".{path.name}")
    other.unlink(missing_ok=True)
    if how == "by a link":
        other.symlink_to(source)
    else:
        other.write_bytes(content)
    other.replace(path)


@pytest.mark.timeout(3600 if LONG else 300)
def test_an_embedding_is_of_the_bytes_that_its_hash_says(tmp_path, contents):
    print(f"PERCEPTION_SEARCH_SEED={SEED}")
    rng = random.Random(SEED)
    Collection.create(tmp_path / "whole.ps", encoder=ColourEncoder()).ingest(contents)
    expected = embeddings(tmp_path / "whole.ps")
    sources = sorted(path for path in contents.rglob("*.*") if path.is_file())
    media = tmp_path / "media"
    media.mkdir()
    files = [media / f"{number}.bin" for number in range(NUM_FILES)]
    for file in files:
        edit(file, rng.choice(sources), "by another")
    path = tmp_path / "photos.ps"
    photos = Collection.create(path, encoder=ColourEncoder(delay_seconds=0.001))
    stop = threading.Event()
    edits = 0

    def go_on():
        nonlocal edits
        while not stop.is_set():
            edit(rng.choice(files), rng.choice(sources), rng.choice(EDITS))
            edits += 1
            time.sleep(rng.uniform(0, 0.004))

    editor = threading.Thread(target=go_on)
    editor.start()
    outcomes = set()
    try:
        for _ in range(NUM_ROUNDS):
            photos.ingest(
                media,
                commit_rows=8,
                on_commit=lambda some: outcomes.update(file.outcome for file in some),
            )
    finally:
        stop.set()
        editor.join()
    report = photos.ingest(media, retry_failed=True)
    assert "changed_during_read" not in {file.outcome for file in report.failed}
    stored = embeddings(path)
    stale = [name for name in stored.keys() & expected.keys() if stored[name] != expected[name]]
    assert stale == [], f"seed {SEED}"
    live = Snapshot.open(path).live_paths
    now = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert {file: name for name, some in live.items() for file in some} == {
        file: name for file, name in now.items() if name in expected
    }
    assert verify(path) == []
    assert "ingested" in outcomes
    torn = len(stored.keys() - expected.keys())
    print(
        f"{edits} edits of {NUM_FILES} files in {NUM_ROUNDS} ingests, "
        f"{len(stored) - torn} contents stored, 0 stale, {torn} of a file half written; {outcomes}"
    )
