"""One's own columns and filters over them, drawn at random: what Python says of every row.

PERCEPTION_SEARCH_FAULTS=long draws 2,000 conditions; PERCEPTION_SEARCH_SEED replays a run.
"""

import operator
import os
import random
import shutil

import pandas as pd
import pytest
from fakes import ColourEncoder
from media_folder import write_pictures

from perception_search import Collection, current_index, index
from perception_search.verify import verify
from perception_search.writer import Writer

LONG = os.environ.get("PERCEPTION_SEARCH_FAULTS") == "long"
SEED = int(os.environ.get("PERCEPTION_SEARCH_SEED", random.randrange(1 << 32)))
NUM_CONDITIONS = 2_000 if LONG else 80
NUM_PICTURES = 60
TEXTS = ["", " ", "dog", "Dog", "it's", '"quoted"', "a;--b", "%", "_", "\\", "né", "日本", "\n",
         "NULL", "0", "' OR 1=1 --", "a" * 3000]  # fmt: skip
VALUES = {
    "tag": [*TEXTS, None],
    "rating": [-1, 0, 1, 2, 5, 1 << 53, None],
    "weight": [-1.5, 0.0, 0.1, 1e300, -1e-300, None],
    "kept": [True, False, None],
}
COMPARE = {"=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le,
           ">": operator.gt, ">=": operator.ge}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A collection with four columns of its own, and what each file's row of them is."""
    print(f"PERCEPTION_SEARCH_SEED={SEED}")
    rng = random.Random(SEED)
    folder = tmp_path_factory.mktemp("metadata")
    paths = sorted(write_pictures(folder / "media", NUM_PICTURES).rglob("*.jpg"))
    rows = [{name: rng.choice(values) for name, values in VALUES.items()} for _ in paths]
    # pandas' own types with a mark for what is missing, as read_csv gives them on request
    types = {"tag": "string", "rating": "Int64", "weight": "Float64", "kept": "boolean"}
    table = pd.DataFrame(rows).astype(types)
    table["path"] = [str(path) for path in paths]
    photos = Collection.create(folder / "photos.ps", encoder=ColourEncoder())
    photos.ingest(folder / "media", metadata=table, commit_rows=17)
    return photos, dict(zip(paths, rows, strict=True))


def literal(value):
    """A value as SQL writes it."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value).upper() if isinstance(value, bool) else repr(value)


def condition(rng, depth=3):
    """A condition as SQL, and as a function of a row that gives True, False or None: unknown."""
    kind = rng.randrange(6 if depth else 3)
    name = rng.choice(list(VALUES))
    some = [value for value in VALUES[name] if value is not None]
    if kind == 0:
        is_null = rng.random() < 0.5
        return (
            f"{name} IS {'' if is_null else 'NOT '}NULL",
            lambda row: (row[name] is None) == is_null,
        )
    if kind == 1:
        chosen = rng.sample(some, min(3, len(some)))
        return (
            f"{name} IN ({', '.join(map(literal, chosen))})",
            lambda row: None if row[name] is None else row[name] in chosen,
        )
    if kind == 2:
        symbol, value = rng.choice(list(COMPARE)), rng.choice(some)
        return (
            f"{name} {symbol} {literal(value)}",
            lambda row: None if row[name] is None else COMPARE[symbol](row[name], value),
        )
    one, is_one = condition(rng, depth - 1)
    if kind == 3:
        return f"NOT ({one})", lambda row: None if (said := is_one(row)) is None else not said
    other, is_other = condition(rng, depth - 1)
    joined, decides = ("AND", False) if kind == 4 else ("OR", True)

    def both(row):
        said = (is_one(row), is_other(row))
        return decides if decides in said else (None if None in said else not decides)

    return f"({one}) {joined} ({other})", both


def test_what_was_given_comes_back_as_it_was(made):
    photos, rows = made
    items = photos.items()
    by_hash = items.set_index("content_hash")
    assert len(items) == NUM_PICTURES
    for content_hash, [path] in photos.snapshot.live_paths.items():
        for name, value in rows[path].items():
            found = by_hash.loc[content_hash, name]
            assert pd.isna(found) if value is None else found == value, f"seed {SEED}: {name}"


def test_conditions_keep_what_python_keeps(made, tmp_path, monkeypatch):
    photos, rows = made
    path = tmp_path / "indexed.ps"
    shutil.copytree(photos.path, path)
    with Writer(path) as writer:
        current_index.build(writer, index.recipe("HNSW16"))
    indexed = Collection.open(path, encoder=ColourEncoder())
    assert verify(path) == []
    monkeypatch.setattr("perception_search.search.SCAN_IF_FEWER_ROWS", 0)
    rng = random.Random(SEED)
    sizes = []
    for _ in range(NUM_CONDITIONS):
        where, is_kept = condition(rng)
        expected = {path for path, row in rows.items() if is_kept(row) is True}
        sizes.append(len(expected))
        told = f"seed {SEED}: {where}"
        hits = photos.search("red", k=NUM_PICTURES, where=where)
        assert {hit.path for hit in hits} == expected, told
        found = indexed.search("red", k=NUM_PICTURES, where=where)
        assert [(hit.path, hit.score) for hit in found] == [
            (hit.path, hit.score) for hit in hits
        ], told
    assert len(set(sizes)) > 10, "the conditions tell something"
