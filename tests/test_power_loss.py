"""The power goes at any moment: what was acknowledged is there once, and the next run goes on.

PERCEPTION_SEARCH_FAULTS=long tries 10,000 states and more; PERCEPTION_SEARCH_SEED replays a run.
"""

import os
import random

import pytest
from fakes import ColourEncoder, OtherEncoder
from media_folder import write_pictures
from power_loss import (
    COLLECTION,
    embeddings,
    record,
    record_move,
    record_purge,
    replay,
    still_purged,
)

from perception_search import Collection, reembed
from perception_search.verify import verify

LONG = os.environ.get("PERCEPTION_SEARCH_FAULTS") == "long"
SEED = int(os.environ.get("PERCEPTION_SEARCH_SEED", random.randrange(1 << 32)))
NUM_STATES = 10_000 if LONG else 200


def replayed(tmp_path, life):
    """The log of a life of a collection, and how many states it was found sound in."""
    print(f"PERCEPTION_SEARCH_SEED={SEED}")
    root = tmp_path / "root"
    root.mkdir()
    log = life(root)
    found = list(replay(tmp_path / "replay", log, SEED, NUM_STATES))
    tried, bad = len(found), [sentence for sentence in found if sentence]
    assert bad == [], f"seed {SEED}: {len(bad)} of {tried} states"
    return log, tried


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


@pytest.mark.timeout(3600 if LONG else 300)
def test_after_a_power_cut_in_a_move_to_another_model_one_of_both_is_whole(tmp_path):
    print(f"PERCEPTION_SEARCH_SEED={SEED}")
    media = write_pictures(tmp_path / "media", 6)
    root = tmp_path / "root"
    path = root / COLLECTION
    Collection.create(path, encoder=ColourEncoder()).ingest(media)
    whole = dict([embeddings(path)])
    log = record_move(root, OtherEncoder())
    whole |= dict([embeddings(path)])
    assert whole.keys() == {"colours", "others"}
    num_checked = 0

    def check(place, said):
        nonlocal num_checked
        model, found = embeddings(place / COLLECTION)
        assert found == whole[model], "a row is lost, or another model's"
        assert said is None or model == "others", "the move was reported, and is undone"
        num_checked += 1
        if model == "colours" and num_checked % 16 == 0:  # it is opened, decoded, embedded anew
            reembed.reembed(place / COLLECTION, OtherEncoder())
            assert embeddings(place / COLLECTION) == ("others", whole["others"])
            assert verify(place / COLLECTION) == []
            assert not list(place.rglob(".tmp-*")), "what an interrupted write left is swept"

    found = list(replay(tmp_path / "replay", log, SEED, NUM_STATES, check))
    bad = [sentence for sentence in found if sentence]
    assert bad == [], f"seed {SEED}: {len(bad)} of {len(found)} states"
    print(f"{len(found)} states after a power cut in a move, {len(log.events)} operations, 0 bad")
