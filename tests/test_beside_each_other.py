"""Many processes at one collection: one writes, and every reader sees one version.

PERCEPTION_SEARCH_FAULTS=long asks a million times.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stores import make

from perception_search.snapshot import Snapshot
from perception_search.verify import verify

LONG = os.environ.get("PERCEPTION_SEARCH_FAULTS") == "long"
NUM_ROUNDS = 100 if LONG else 1
NUM_READERS = 8
NUM_QUERIES = 1_000_000 if LONG else 4_000
ROWS_A_COMMIT = 3

WRITERS = """
import os, sys, pathlib
from perception_search.errors import CollectionLocked
from perception_search.writer import Writer
folder = pathlib.Path(sys.argv[1])
print("ready", flush=True)
for _ in sys.stdin:
    try:
        with Writer(folder):
            held = os.open(folder / "held", os.O_CREAT | os.O_EXCL)  # fails where two are in
            print("in", flush=True)
            sys.stdin.readline()
            os.close(held)
            os.unlink(folder / "held")
    except CollectionLocked as error:
        print(error, flush=True)
        sys.stdin.readline()
    print("out", flush=True)
"""

READER = """
import sys, pathlib
import numpy as np
from stores import unit
from perception_search.snapshot import Snapshot
folder, count, rows = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
seen, snapshot = set(), None
for number in range(100 * count):
    if number >= count and len(seen) > 1:
        break  # a quick one goes on until the writer has had its turn
    if number % 20 == 0:
        snapshot = Snapshot.open(folder, snapshot)
    ids = snapshot.rows.row_id
    assert len(ids) == rows * (snapshot.version - 1), (len(ids), snapshot.version)
    assert ids.tolist() == list(range(len(ids)))
    assert (snapshot.item_of_row >= 0).all(), "a row without its item"
    wanted = number % len(ids)
    scores = snapshot.rows.embeddings(np.arange(len(ids))) @ unit(wanted)
    best = int(scores.argmax())
    assert best == wanted and scores[best] > .999, (best, wanted)
    assert snapshot.rows.content_hash[best].as_py() == f"{wanted:064x}"
    seen.add(snapshot.version)
    if number == 0:
        print("ready", flush=True)
        sys.stdin.readline()  # all begin together, and beside the writer
print(number, len(seen))
"""


def start(code, *arguments):
    folders = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)},
    )


def tell(children):
    """Let all go on, and what each says then."""
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    return [child.stdout.readline().rstrip("\n") for child in children]


@pytest.mark.timeout(3600 if LONG else 120)
def test_of_twenty_writers_one_is_in_and_the_others_are_told_who(tmp_path):
    folder = make(tmp_path / "c.ps", 1)
    children = [start(WRITERS, folder) for _ in range(20)]
    try:
        assert [child.stdout.readline() for child in children] == ["ready\n"] * 20
        for _ in range(NUM_ROUNDS):
            said = tell(children)
            assert said.count("in") == 1, said
            others = [sentence for sentence in said if sentence != "in"]
            assert all("is being written by" in sentence for sentence in others)
            assert set(tell(children)) == {"out"}
    finally:
        for child in children:
            child.stdin.close()
            child.wait(60)
            child.stdout.close()
    assert verify(folder) == []
    print(f"{NUM_ROUNDS} times 20 writers at once, never two in")


@pytest.mark.timeout(4 * 3600 if LONG else 120)
def test_eight_readers_beside_a_writer_each_see_one_version(tmp_path):
    folder = make(tmp_path / "c.ps", ROWS_A_COMMIT)
    count = NUM_QUERIES // NUM_READERS
    readers = [start(READER, folder, count, ROWS_A_COMMIT) for _ in range(NUM_READERS)]
    assert [reader.stdout.readline() for reader in readers] == ["ready\n"] * NUM_READERS
    for reader in readers:
        reader.stdin.write("\n")
        reader.stdin.flush()
    commits = 0
    while any(reader.poll() is None for reader in readers) and commits < 300:
        commits += 1
        make(folder, ROWS_A_COMMIT, first=commits * ROWS_A_COMMIT)
    asked, versions = 0, []
    for reader in readers:
        said, _ = reader.communicate(timeout=4 * 3600)
        assert reader.returncode == 0
        number, seen = map(int, said.split())
        asked += number
        versions.append(seen)
    assert len(Snapshot.open(folder).rows) == (commits + 1) * ROWS_A_COMMIT
    assert min(versions) > 1, "every reader saw the collection grow"
    print(f"{asked} queries by 8 readers beside {commits} commits, 0 torn, versions {versions}")
