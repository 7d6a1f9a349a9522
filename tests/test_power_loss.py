"""The power goes at any moment: what was acknowledged is there once, whole, and the next run goes on.

PERCEPTION_SEARCH_FAULTS=long tries 10,000 states and more; PERCEPTION_SEARCH_SEED replays a run.
"""

import os
import random
import shutil
from unittest import mock

import pytest
from power_loss import Choice, build, check, record

from perception_search import PerceptionSearchError

LONG = os.environ.get("PERCEPTION_SEARCH_FAULTS") == "long"
SEED = int(os.environ.get("PERCEPTION_SEARCH_SEED", random.randrange(1 << 32)))
NUM_STATES = 10_000 if LONG else 200


def states(log, seed, count):
    """Different states after a power cut, `count` or some more, with what was acknowledged: at
    every operation the two extremes, then as many that are drawn.
    """
    rng = random.Random(seed)
    seen = set()
    rounds = 0
    while rounds == 0 or len(seen) < count:
        hows = ("worst", "least") if rounds == 0 else ("drawn",)
        rounds += 1
        assert rounds < 10 * count, "so many different states there are not"
        for point in range(len(log.events) + 1):
            for how in hows:
                state = log.state(point, Choice(how, rng))
                acknowledged = log.acknowledged(point)
                key = hash((frozenset(state.items()), acknowledged))
                if key not in seen:
                    seen.add(key)
                    yield point, how, state, acknowledged


def replay(folder, log, seed, count):
    """How many states were tried, and the sentences of those that were not as they must be."""
    tried, bad = 0, []
    with mock.patch.object(os, "fsync", lambda _: None):  # what is checked has no power to lose
        for point, how, state, acknowledged in states(log, seed, count):
            tried += 1
            place = folder / "state"
            place.mkdir(parents=True)
            build(state, place)
            try:
                check(place, acknowledged)
            except (AssertionError, PerceptionSearchError, OSError) as error:
                bad.append(f"{how} before operation {point}: {error!r}"[:300])
            shutil.rmtree(place)
    return tried, bad


@pytest.mark.timeout(3600 if LONG else 300)
def test_after_a_power_cut_every_acknowledged_row_is_there_once_and_the_next_run_goes_on(tmp_path):
    print(f"PERCEPTION_SEARCH_SEED={SEED}")
    root = tmp_path / "root"
    root.mkdir()
    log = record(root)
    assert {event[0] for event in log.events} == {"name", "sync", "sync_folder", "acknowledged"}
    tried, bad = replay(tmp_path / "replay", log, SEED, NUM_STATES)
    assert bad == [], f"seed {SEED}: {len(bad)} of {tried} states"
    assert tried >= NUM_STATES
    print(f"{tried} states after a power cut, {len(log.events)} operations, 0 lost, 0 torn")
