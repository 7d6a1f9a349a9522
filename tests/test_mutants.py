"""Every safeguard of the store is needed: without any one of them, these checks turn red.

PERCEPTION_SEARCH_SEED replays a run.
"""

import itertools
import os
import random

import numpy as np
import pytest
from mutants import MODULES, mutants
from power_loss import COLLECTION, record, record_purge, replay, sound, still_purged

from perception_search import index
from perception_search.errors import PerceptionSearchError
from perception_search.snapshot import Snapshot
from perception_search.verify import verify

SEED = int(os.environ.get("PERCEPTION_SEARCH_SEED", random.randrange(1 << 32)))
FLIPS_PER_FILE = 12
MUTANTS = mutants()


def flips(path, seed):
    """One sentence for every flipped bit that was silent: used unseen, or not named by `verify`."""
    rng = random.Random(seed)
    snapshot = Snapshot.open(path)
    positions = np.arange(len(snapshot.rows))
    known = {"next_row_id": snapshot.manifest.next_row_id, "version": snapshot.version}
    index.build(path, snapshot.rows, positions, index.recipe("Flat"), **known)
    state = snapshot.manifest
    victims = [path / "collection.json", *(path / file.name for file in state.files)]
    victims += sorted((path / "manifests").glob(f"{state.version:08d}.*"))
    victims += sorted(file for file in (path / "index").iterdir() if file.stat().st_size)
    for victim in victims:
        whole = victim.read_bytes()
        for _ in range(FLIPS_PER_FILE):
            position = rng.randrange(len(whole) * 8)
            content = bytearray(whole)
            content[position // 8] ^= 1 << position % 8
            victim.write_bytes(content)
            try:
                sound(path)
            except AssertionError as error:
                yield f"{victim.name}, bit {position}: {error}"
            except (PerceptionSearchError, OSError, ValueError):
                pass
            if victim not in {damage.path for damage in verify(path)}:
                yield f"{victim.name}, bit {position}: not named"
        victim.write_bytes(whole)


def first_wrong(folder, mutant):
    """The first thing that goes wrong, as a sentence; empty where nothing does."""
    root = folder / "root"
    root.mkdir()
    try:
        if mutant.module == "purge":
            log = record_purge(root)
            cut = (sentence for sentence in replay(folder / "replay", log, SEED, 200) if sentence)
            return next(itertools.chain(still_purged(log, SEED), cut), "")
        log = record(root)
        cut = (sentence for sentence in replay(folder / "replay", log, SEED, 200) if sentence)
        flipped = flips(root / COLLECTION, SEED)
        likely = [flipped, cut] if "compared" in mutant.change else [cut, flipped]
        return next(itertools.chain(*likely), "")
    except Exception as error:  # of what kind is chance: what is damaged is parsed unchecked
        return repr(error)


def test_without_a_change_no_flipped_bit_is_silent(tmp_path):
    """That no power cut loses anything then is in test_power_loss.py."""
    print(f"PERCEPTION_SEARCH_SEED={SEED}")
    root = tmp_path / "root"
    root.mkdir()
    record(root)
    assert list(flips(root / COLLECTION, SEED)) == [], f"seed {SEED}"


def test_every_module_with_safeguards_is_looked_at():
    assert {mutant.module for mutant in MUTANTS} == set(MODULES)
    print(f"{len(MUTANTS)} safeguards left out one by one")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.module} {mutant.change}")
def test_no_safeguard_can_be_left_out(mutant, tmp_path):
    with mutant.in_place():
        wrong = first_wrong(tmp_path, mutant)
    assert wrong, f"seed {SEED}: nothing shows that this is missing"
    print(f"{mutant.module} {mutant.change}: {wrong}")
