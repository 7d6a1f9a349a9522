"""The power goes at any moment: what was acknowledged is there once, and the next run goes on.

PERCEPTION_SEARCH_FAULTS=long tries 10,000 states and more; PERCEPTION_SEARCH_SEED replays a run.
"""

import os
import random

import numpy as np
import pytest
from power_loss import PURGED, Choice, record, record_purge, replay
from stores import unit

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
    secret = unit(PURGED).astype(np.float16).tobytes()
    for how in ("worst", "least", "drawn"):  # once it has returned, whatever the disk does
        state = log.state(len(log.events), Choice(how, random.Random(SEED)))
        assert state
        assert not [place for place, content in state.items() if secret in (content or b"")], how
