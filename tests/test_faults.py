"""Killed at any moment, flipped anywhere: nothing acknowledged is lost, nothing damaged is silent.

PERCEPTION_SEARCH_FAULTS=long runs a hundred times as many; PERCEPTION_SEARCH_SEED replays a run.
"""

import os
import random
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakes import ColourEncoder
from kill_child import DONE, Child
from media_folder import write_pictures, write_videos

from perception_search import Collection, PerceptionSearchError
from perception_search.captioning import GivenCaption, take_in
from perception_search.manifest import TABLES
from perception_search.snapshot import Snapshot
from perception_search.verify import verify
from perception_search.writer import Writer

LONG = os.environ.get("PERCEPTION_SEARCH_FAULTS") == "long"
SEED = int(os.environ.get("PERCEPTION_SEARCH_SEED", random.randrange(1 << 32)))
NUM_KILLS = 10_000 if LONG else 100
NUM_FLIPS = 20_000 if LONG else 200
NUM_PICTURES = 400


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), NUM_PICTURES)


def kill_once(collection, media, operations, delay_seconds):
    """Start an ingest and kill it; the acknowledged paths, and whether it ran to its end."""
    child = Child(str(collection), str(media), operations)
    lines = [child.line()]
    if operations is None:
        time.sleep(delay_seconds)
        child.kill()
    lines += child.ended()
    return [line for line in lines if line not in (DONE, None)], DONE in lines


def check_after_kill(collection, acknowledged):
    snapshot = Snapshot.open(collection)
    live = {str(path) for paths in snapshot.live_paths.values() for path in paths}
    lost = set(acknowledged) - live
    rows = snapshot.rows.content_hash.to_pylist()
    assert not lost, f"seed {SEED}: {len(lost)} acknowledged files are lost"
    assert len(rows) == len(set(rows)), f"seed {SEED}: rows stand twice"
    assert len(set(snapshot.rows.row_id.tolist())) == len(rows)
    assert (snapshot.item_of_row >= 0).all(), "every row belongs to a live item"
    assert len(rows) == snapshot.live_items.num_rows


def run_kills(folder, media, seed, count):
    """`count` kills in a row on collections in `folder`; how many hit a durable operation."""
    rng = random.Random(seed)
    at_operation = 0
    number = 0
    collection = acknowledged = None
    while number < count:
        if collection is None:
            collection = folder / f"{number}.ps"
            Collection.create(collection, encoder=ColourEncoder())
            acknowledged = set()
        operations = rng.randrange(120) if number % 2 else None
        paths, done = kill_once(collection, media, operations, rng.uniform(0, 0.3))
        acknowledged.update(paths)
        check_after_kill(collection, acknowledged)
        if not done:
            number += 1
            at_operation += operations is not None
        if done or len(acknowledged) > NUM_PICTURES - 60:
            collection = None
    return at_operation


@pytest.mark.slow
@pytest.mark.timeout(24 * 3600 if LONG else 600)
def test_killed_at_any_moment_every_acknowledged_file_is_there_once(tmp_path, pictures):
    print(f"PERCEPTION_SEARCH_SEED={SEED}")
    folders = [tmp_path / "0", tmp_path / "1"]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(run_kills, folder, pictures, SEED + number, NUM_KILLS // 2)
            for number, folder in enumerate(folders)
        ]
        at_operation = sum(run.result() for run in runs)
    assert at_operation >= NUM_KILLS // 2
    print(f"{NUM_KILLS} kills, {at_operation} of them at a durable operation, 0 lost, 0 duplicate")


@pytest.mark.slow
def test_the_real_command_survives_two_kills(tmp_path):
    media = write_pictures(tmp_path / "media", 240, size=(320, 240))
    collection = tmp_path / "photos.ps"
    command = [sys.executable, "-m", "perception_search", "ingest", str(collection), str(media)]
    Collection.create(collection, model="starter")
    rng = random.Random(SEED)
    acknowledged = set()
    for _ in range(2):
        child = subprocess.Popen(
            [*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        time.sleep(rng.uniform(1, 5))
        child.kill()
        lines = child.stdout.readlines()
        child.stdout.close()
        child.wait(60)
        for line in lines:
            if line.endswith("}\n") and '"outcome": "ingested"' in line:
                acknowledged.add(line.split('"path": "')[1].split('"')[0])
        check_after_kill(collection, acknowledged)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert len(Snapshot.open(collection).rows) == 240
    assert Collection.open(collection).verify() == []


def answers(path):
    """What three searches give, with a fresh process's eyes; or the error that was told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            photos = Collection.open(path, encoder=ColourEncoder())
            return [
                [(hit.row_id, str(hit.path), round(hit.score, 3)) for hit in hits]
                for hits in (
                    photos.search("picture", k=5, by="words"),
                    photos.search("red", k=5),
                    photos.search("dark", k=5, where="kind = 'video'"),
                    photos.similar(next(iter(photos.snapshot.live_paths.values()))[0], k=5),
                )
            ]
        except (PerceptionSearchError, OSError) as error:
            return str(error)


@pytest.mark.slow
@pytest.mark.timeout(24 * 3600 if LONG else 600)
def test_a_flipped_bit_in_any_file_is_never_silent(tmp_path):
    print(f"PERCEPTION_SEARCH_SEED={SEED}")
    rng = random.Random(SEED)
    media = tmp_path / "media"
    write_pictures(media / "p", 60)
    write_videos(media / "v", 5)
    path = tmp_path / "photos.ps"
    photos = Collection.create(path, encoder=ColourEncoder())
    photos.ingest(media, commit_rows=20)
    photos.index("hnsw")
    with Writer(path) as writer:
        live = photos.snapshot.live_paths.values()
        given = [GivenCaption(str(p[0]), f"a picture of {n % 7}") for n, p in enumerate(live)]
        take_in(writer, given)
    expected = answers(path)
    assert isinstance(expected, list)
    assert photos.verify() == []
    files = [p for p in sorted(path.rglob("*")) if p.is_file() and p.stat().st_size]
    kinds = {p.parent.name for p in files}
    assert {"manifests", *TABLES, "index", "cache", path.name} <= kinds
    assert any(p.parent.parent.name == "caption-words" for p in files)
    state = Snapshot.open(path).manifest
    named = {path / file.name for file in state.files}
    named |= {path / "collection.json", *(path / "index").iterdir()}
    named |= {p for p in files if p.name.startswith(f"{state.version:08d}.")}
    silent = []
    for number in range(NUM_FLIPS):
        # every kind of file as often as every other
        kind = sorted(kinds)[number % len(kinds)]
        victim = rng.choice([p for p in files if p.parent.name == kind])
        whole = victim.read_bytes()
        position = rng.randrange(len(whole) * 8)
        content = bytearray(whole)
        content[position // 8] ^= 1 << position % 8
        victim.write_bytes(content)
        got = answers(path)
        told = isinstance(got, str)
        found = any(damage.path == victim for damage in verify(path))
        if (not told and got != expected) or (victim in named and not found):
            silent.append((victim.name, position))
        for extra in set(path.rglob("*")) - set(files):
            if extra.is_file():
                extra.unlink()
        victim.parent.mkdir(parents=True, exist_ok=True)  # a damaged cache is thrown away
        victim.write_bytes(whole)
    assert silent == [], f"seed {SEED}"
    print(f"{NUM_FLIPS} flipped bits in {len(kinds)} kinds of file, 0 silent")
