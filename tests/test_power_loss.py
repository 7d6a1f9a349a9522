"""The power goes at any moment: what was acknowledged is there once, and the next run goes on.

PERCEPTION_SEARCH_FAULTS=long tries 10,000 states and more; PERCEPTION_SEARCH_SEED replays a run.
"""

import itertools
import os
import random
import warnings

import pytest
from fakes import ColourEncoder, OtherEncoder
from media_folder import write_pictures
from power_loss import (
    COLLECTION,
    embeddings,
    record,
    record_purge,
    record_work,
    replay,
    still_purged,
)
from stores import flipped, make, unit

from perception_search import Collection, current_index, index, manifest, reembed, repair, search
from perception_search.snapshot import Snapshot
from perception_search.verify import verify
from perception_search.writer import Writer

LONG = os.environ.get("PERCEPTION_SEARCH_FAULTS") == "long"
SEED = int(os.environ.get("PERCEPTION_SEARCH_SEED", random.randrange(1 << 32)))
NUM_STATES = 10_000 if LONG else 150


def replayed(tmp_path, life):
    """The log of a life of a collection, and how many states it was found sound in."""
    root = tmp_path / "root"
    root.mkdir()
    log = life(root)
    return log, num_sound(tmp_path, log)


def num_sound(tmp_path, log, *check):
    """How many states after a power cut were tried, all of which are sound."""
    print(f"PERCEPTION_SEARCH_SEED={SEED}")
    found = list(replay(tmp_path / "replay", log, SEED, NUM_STATES, *check))
    bad = [sentence for sentence in found if sentence]
    assert bad == [], f"seed {SEED}: {len(bad)} of {len(found)} states"
    return len(found)


@pytest.mark.timeout(3600 if LONG else 300)
def test_after_a_power_cut_every_acknowledged_row_is_there_once_and_the_next_run_goes_on(tmp_path):
    log, tried = replayed(tmp_path, record)
    assert {event[0] for event in log.events} == {"name", "sync", "sync_folder", "acknowledged"}
    assert tried >= NUM_STATES
    print(f"{tried} states after a power cut, {len(log.events)} operations, 0 lost, 0 torn")


@pytest.mark.timeout(3600 if LONG else 300)
def test_after_a_power_cut_in_a_purge_nothing_else_is_lost_and_nothing_comes_back(tmp_path):
    log, tried = replayed(tmp_path, record_purge)
    print(f"{tried} states after a power cut in a purge, {len(log.events)} operations, 0 bad")
    assert list(still_purged(log, SEED)) == [], f"seed {SEED}"


def worked(tmp_path, work, check):
    """How many states after a power cut in that work on `tmp_path / "root"` were found sound."""
    log = record_work(tmp_path / "root", work)
    tried = num_sound(tmp_path, log, check)
    return f"{tried} states after a power cut, {len(log.events) - log.start} operations, 0 bad"


def nothing_left(path):
    """Whether all is well, and swept."""
    return verify(path) == [] and not list(path.rglob(".tmp-*"))


@pytest.mark.timeout(3600 if LONG else 300)
def test_after_a_power_cut_in_a_move_to_another_model_one_of_both_is_whole(tmp_path):
    media = write_pictures(tmp_path / "media", 6)
    path = tmp_path / "root" / COLLECTION
    Collection.create(path, encoder=ColourEncoder()).ingest(media)
    whole = dict([embeddings(path)])
    whole["others"] = embeddings_as_new(tmp_path, media, OtherEncoder())
    turns = itertools.count()

    def check(root, said):
        model, found = embeddings(root / COLLECTION)
        assert found == whole[model], "a row is lost, or another model's"
        assert said is None or model == "others", "the move was reported, and is undone"
        if model == "colours" and next(turns) % 16 == 0:  # it is decoded and embedded anew
            reembed.reembed(root / COLLECTION, OtherEncoder())
            assert embeddings(root / COLLECTION) == ("others", whole["others"])
            assert nothing_left(root / COLLECTION)

    print(worked(tmp_path, lambda path: reembed.reembed(path, OtherEncoder()), check), "in a move")


def embeddings_as_new(tmp_path, media, encoder):
    """What is stored of each item where another collection is made of the same media."""
    Collection.create(tmp_path / "new.ps", encoder=encoder).ingest(media)
    return embeddings(tmp_path / "new.ps")[1]


@pytest.mark.timeout(3600 if LONG else 300)
def test_after_a_power_cut_in_a_repair_another_one_completes_it(tmp_path):
    media = write_pictures(tmp_path / "media", 6)
    path = tmp_path / "root" / COLLECTION
    photos = Collection.create(path, encoder=ColourEncoder())
    photos.ingest(media, commit_rows=3)
    whole = embeddings(path)
    for damaged in (
        path / photos.snapshot.manifest.of("rows")[0].name,
        path / photos.snapshot.manifest.of("paths")[0].name,
        manifest.path_of(path, photos.snapshot.version, "a"),
    ):
        flipped(damaged)
    turns = itertools.count()

    def mend(path):
        assert repair.repair(path, lambda _: ColourEncoder()).losses == []

    def check(root, said):
        if said is None and next(turns) % 8 == 0:
            mend(root / COLLECTION)
            assert nothing_left(root / COLLECTION)
        if said is not None or not verify(root / COLLECTION):
            assert embeddings(root / COLLECTION) == whole, "what was mended is not what was there"

    print(worked(tmp_path, mend, check), "in a repair")


@pytest.mark.timeout(3600 if LONG else 300)
def test_after_a_power_cut_in_a_build_of_an_index_answers_are_those_of_a_scan(
    tmp_path, monkeypatch
):
    path = tmp_path / "root" / COLLECTION
    path.parent.mkdir(parents=True)
    make(path, 60)
    build(path, "Flat")
    monkeypatch.setattr(search, "SCAN_IF_FEWER_ROWS", 0)
    queries = [search.Target(unit(number)) for number in (5, 30, 70)]

    def check(root, said):
        snapshot = Snapshot.open(root / COLLECTION)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            opened = current_index.CurrentIndex(root / COLLECTION).opened(snapshot.rows)
        assert opened is not None or told or said is None, "an index that was reported is gone"
        found = search.search_many(snapshot, queries, k=5, index=opened)
        assert found == search.search_many(snapshot, queries, k=5)
        build(root / COLLECTION, "Flat")
        assert nothing_left(root / COLLECTION)

    def grow(path):
        make(path, 20, first=60)
        build(path, "SQ8")

    print(worked(tmp_path, grow, check), "in a build of an index")


def build(path, factory):
    with Writer(path) as writer:
        current_index.build(writer, index.recipe(factory))
