"""Every safeguard of the store is needed: without any one of them, these checks turn red.

PERCEPTION_SEARCH_FAULTS=long flips more bits; PERCEPTION_SEARCH_SEED replays a run.
"""

import io
import itertools
import os
import random
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from mutants import MODULES, mutants
from power_loss import COLLECTION, record, record_purge, replay, sound, still_purged

from perception_search import index, tables
from perception_search.errors import PerceptionSearchError
from perception_search.snapshot import Snapshot
from perception_search.verify import verify

LONG = os.environ.get("PERCEPTION_SEARCH_FAULTS") == "long"
SEED = int(os.environ.get("PERCEPTION_SEARCH_SEED", random.randrange(1 << 32)))
MUTANTS = mutants()


def damages(path, seed, flips_per_file=12):
    """One sentence for every damage that was silent: used unseen, or not named by `verify`.

    Bits are flipped in every kind of file, in rows and grids also as if those were too large to be
    hashed whole; and a file of items is another one, of the same length and itself whole.
    """
    rng = random.Random(seed)
    snapshot = Snapshot.open(path)
    positions = np.arange(len(snapshot.rows))
    known = {"next_row_id": snapshot.manifest.next_row_id, "version": snapshot.version}
    index.build(path, snapshot.rows, positions, index.recipe("Flat"), **known)
    state = snapshot.manifest
    victims = [path / "collection.json", *(path / file.name for file in state.files)]
    victims += sorted((path / "manifests").glob(f"{state.version:08d}.*"))
    victims += sorted(file for file in (path / "index").iterdir() if file.stat().st_size)
    limits = [(victim, Snapshot.HASH_LIMIT_BYTES) for victim in victims]
    limits += [(path / file.name, 0) for file in state.files if file.table in ("rows", "grid")]
    items = path / state.of("items")[0].name
    cases = [(items, Snapshot.HASH_LIMIT_BYTES, "other items", other_items(items))]
    for victim, limit in limits:
        whole = victim.read_bytes()
        for _ in range(flips_per_file):
            position = rng.randrange(len(whole) * 8)
            content = bytearray(whole)
            content[position // 8] ^= 1 << position % 8
            cases.append((victim, limit, f"bit {position}", content))
    for victim, limit, what, content in cases:
        whole = victim.read_bytes()
        victim.write_bytes(content)
        try:
            with mock.patch.object(Snapshot, "HASH_LIMIT_BYTES", limit):
                sound(path)
        except AssertionError as error:
            yield f"{victim.name}, {what}: {error}"
        except PerceptionSearchError:
            pass
        if victim not in {damage.path for damage in verify(path)}:
            yield f"{victim.name}, {what}: not named"
        victim.write_bytes(whole)


def other_items(path):
    """The content of a file as long as `path`, in which every picture is wider."""
    written = tables.read(path)
    place = written.schema.get_field_index("width")
    for more in range(1, 1000):
        widths = pc.add(written["width"], pa.scalar(more, pa.int32()))
        file = io.BytesIO()
        tables.write(file, written.schema, [written.set_column(place, "width", widths)])
        if file.tell() == path.stat().st_size:
            return file.getvalue()
    raise AssertionError("no other file has its length")


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
        damaged = damages(root / COLLECTION, SEED)
        likely = [damaged, cut] if "compared" in mutant.change else [cut, damaged]
        return next(itertools.chain(*likely), "")
    except Exception as error:  # of what kind is chance: what is damaged is parsed unchecked
        return repr(error)


@pytest.mark.timeout(3600 if LONG else 300)
def test_without_a_change_no_damage_is_silent(tmp_path):
    """That no power cut loses anything then is in test_power_loss.py."""
    print(f"PERCEPTION_SEARCH_SEED={SEED}")
    root = tmp_path / "root"
    root.mkdir()
    record(root)
    flips = 2_000 if LONG else 12
    assert list(damages(root / COLLECTION, SEED, flips)) == [], f"seed {SEED}"
    print(f"{flips} flipped bits in every file, 0 silent")


def test_every_module_with_safeguards_is_looked_at():
    assert {mutant.module for mutant in MUTANTS} == set(MODULES)
    print(f"{len(MUTANTS)} safeguards left out one by one")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.module} {mutant.change}")
def test_no_safeguard_can_be_left_out(mutant, tmp_path):
    with mutant.in_place():
        wrong = first_wrong(tmp_path, mutant)
    assert wrong, f"seed {SEED}: nothing shows that this is missing"
    print(f"{mutant.module} {mutant.change}: {wrong}")
