"""Files are edited, cut, replaced by others or by links while they are read: no embedding is of
other bytes than its content hash says, and the next run finds what is there then.

PERCEPTION_SEARCH_FAULTS=long edits for longer; PERCEPTION_SEARCH_SEED replays a run as far as time
allows.
"""

import hashlib
import os
import random
import shutil
import threading
import time
from collections import Counter

import numpy as np
import pytest
from fakes import ColourEncoder
from media_folder import write_pictures, write_videos

from perception_search import Collection
from perception_search.snapshot import Snapshot
from perception_search.verify import verify

LONG = os.environ.get("PERCEPTION_SEARCH_FAULTS") == "long"
SEED = int(os.environ.get("PERCEPTION_SEARCH_SEED", random.randrange(1 << 32)))
NUM_COLLECTIONS = 50 if LONG else 1
NUM_INGESTS = 4
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


@pytest.fixture(scope="module")
def expected(contents, tmp_path_factory):
    """What is stored of each content that nobody edits."""
    path = tmp_path_factory.mktemp("whole") / "c.ps"
    Collection.create(path, encoder=ColourEncoder()).ingest(contents)
    return embeddings(path)


@pytest.mark.timeout(3600 if LONG else 300)
def test_an_embedding_is_of_the_bytes_that_its_hash_says(tmp_path, contents, expected):
    print(f"PERCEPTION_SEARCH_SEED={SEED}")
    rng = random.Random(SEED)
    outcomes = Counter()
    for number in range(NUM_COLLECTIONS):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcomes += edited_and_ingested(folder, contents, expected, rng)
        shutil.rmtree(folder)
    assert outcomes["ingested"] > 20 * NUM_COLLECTIONS
    print(f"{NUM_COLLECTIONS} collections: {dict(outcomes.most_common())}, 0 stale")


def edited_and_ingested(folder, contents, expected, rng):
    """What became of files that were edited while they were ingested, some times over."""
    sources = sorted(path for path in contents.rglob("*.*") if path.is_file())
    media = folder / "media"
    media.mkdir()
    files = [media / f"{number}.bin" for number in range(NUM_FILES)]
    for file in files:
        edit(file, rng.choice(sources), "by another")
    path = folder / "photos.ps"
    photos = Collection.create(path, encoder=ColourEncoder(delay_seconds=0.001))
    stop = threading.Event()
    outcomes = Counter()

    def go_on():
        while not stop.is_set():
            edit(rng.choice(files), rng.choice(sources), rng.choice(EDITS))
            outcomes["edits"] += 1
            time.sleep(rng.uniform(0, 0.004))

    def count(some):
        outcomes.update(file.outcome for file in some)

    editor = threading.Thread(target=go_on)
    editor.start()
    try:
        for _ in range(NUM_INGESTS):
            photos.ingest(media, commit_rows=8, on_commit=count)
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
    }, f"seed {SEED}: what is there now is not what is found"
    assert verify(path) == []
    outcomes["half written"] += len(stored.keys() - expected.keys())
    return outcomes
