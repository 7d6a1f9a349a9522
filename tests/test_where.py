"""Filters: one condition goes through, anything else is refused in one sentence.

PERCEPTION_SEARCH_FAULTS=long draws more of them.
"""

import os

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perception_search.errors import QueryError
from perception_search.where import matching

LONG = os.environ.get("PERCEPTION_SEARCH_FAULTS") == "long"
ITEMS = pa.table(
    {
        "kind": ["video", "image", None],
        "width": [10, 2000, 5],
        "name": ["a.mp4", "b's.jpg", "c;--.jpg"],
        "paths": [["x", "y"], ["z"], []],
    }
)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("kind = 'video'", [True, False, False]),
        ("width > 5 AND kind IN ('image', 'video')", [True, True, False]),
        ("kind IS NULL -- a comment", [False, False, True]),
        ("name = 'b''s.jpg'", [False, True, False]),
        ("name LIKE '%;--%'", [False, False, True]),
        ("list_contains(paths, 'z')", [False, True, False]),
        ("kind <> 'image'", [True, False, False]),
        ("false", [False, False, False]),
    ],
)
def test_a_condition_selects_rows(where, expected):
    assert matching(ITEMS, where).tolist() == expected


@pytest.mark.parametrize(
    "where",
    [
        "",
        "   ",
        "1=1) UNION ALL (SELECT 9",
        "1=1 UNION ALL SELECT 9",
        "1=1; DROP TABLE items",
        "1=1; SELECT 1",
        "EXISTS (SELECT 1)",
        "width > (SELECT max(width) FROM items)",
        "width IN (SELECT 10)",
        "1=1 LIMIT 1",
        "1=1 ORDER BY width",
        "1=1 GROUP BY _position",
        "1=1 HAVING true",
        "1=1 QUALIFY true",
        "1=1 USING SAMPLE 1",
        "count(*) > 1",
        "sum(width) OVER () > 1",
        "nope = 1",
        "kind = 'vid",
        "read_text('/etc/hostname') IS NOT NULL",
        "kind",
        "width = 1 \0",
        "getenv('HOME') = 'x'",
    ],
)
def test_anything_but_one_condition_is_refused(where):
    with pytest.raises(QueryError, match="where"):
        matching(ITEMS, where)


def test_an_unknown_column_is_answered_with_the_known_ones():
    with pytest.raises(QueryError, match="The columns are kind, width, name, paths"):
        matching(ITEMS, "nope = 1")


# Drawn conditions

ATOMS = [
    ("kind = 'video'", lambda row: None if row["kind"] is None else row["kind"] == "video"),
    ("kind IS NULL", lambda row: row["kind"] is None),
    ("width > 5", lambda row: row["width"] > 5),
    ("width BETWEEN 5 AND 10", lambda row: 5 <= row["width"] <= 10),
    ("name LIKE '%.jpg'", lambda row: row["name"].endswith(".jpg")),
    ("\"name\" IN ('a.mp4', 'b''s.jpg')", lambda row: row["name"] in ("a.mp4", "b's.jpg")),
    ("list_contains(paths, 'z')", lambda row: "z" in row["paths"]),
    ("length(name) /* ) */ > 5", lambda row: len(row["name"]) > 5),
]
FORBIDDEN = [
    "(SELECT 1) = 1",
    "EXISTS (FROM items)",
    "width IN (SELECT width FROM items)",
    "width = ANY (SELECT 1)",
    "read_text('canary.txt') IS NULL",
    "read_blob('canary.txt') IS NULL",
    "(FROM read_csv('canary.txt')) IS NULL",
    "glob('*') IS NULL",
    "getenv('HOME') IS NULL",
    "query('SELECT 1') IS NULL",
    "query_table('items') IS NULL",
    "nextval('a') = 1",
    "count(*) > 0",
    "row_number() OVER () > 0",
    "unnest(paths) = 'z'",
    "true) UNION (SELECT 1",
    "true; DROP TABLE items",
    "true; COPY items TO 'copy.csv'",
    "true; ATTACH 'other.db'",
    "true; INSTALL httpfs",
    "true; SET enable_external_access = true",
    "true; PRAGMA database_list",
    "true ORDER BY (SELECT 1)",
    "true LIMIT (SELECT 1)",
]


def _not(of):
    return lambda row: None if of(row) is None else not of(row)


def _and(one, other):
    def of(row):
        values = one(row), other(row)
        return False if False in values else None if None in values else True

    return of


def _or(one, other):
    return _not(_and(_not(one), _not(other)))


def combined(atoms):
    """SQL of these and what it is of a row: True, False or None, as SQL has it."""
    return st.recursive(
        atoms,
        lambda inner: st.one_of(
            inner.map(lambda a: (f"NOT ({a[0]})", _not(a[1]))),
            st.tuples(inner, inner).map(
                lambda p: (f"({p[0][0]}) AND ({p[1][0]})", _and(p[0][1], p[1][1]))
            ),
            st.tuples(inner, inner).map(
                lambda p: (f"({p[0][0]})\nor (\t{p[1][0]})", _or(p[0][1], p[1][1]))
            ),
        ),
        max_leaves=6,
    )


@settings(deadline=None, max_examples=1_000 if LONG else 60)
@given(combined(st.sampled_from(ATOMS)))
def test_a_drawn_condition_selects_what_it_says(condition):
    where, expected = condition
    assert matching(ITEMS, where).tolist() == [expected(row) is True for row in ITEMS.to_pylist()]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working folder with one file, which nobody may read; whether it is as it was."""
    monkeypatch.chdir(tmp_path)
    canary = tmp_path / "canary.txt"
    canary.write_text("kind\nvideo\n")
    os.utime(canary, (0, 10**9))  # older than its change: the next reading would be noted
    yield tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["canary.txt"]
    if _notes_readings(tmp_path):
        assert canary.stat().st_atime == 0, "it was read"


def _notes_readings(folder):
    """Whether the file system there notes when a file is read."""
    other = folder.parent / "noted.txt"
    other.write_text("x")
    os.utime(other, (0, 10**9))
    other.read_text()
    return other.stat().st_atime != 0


@settings(
    deadline=None,
    max_examples=3_000 if LONG else 120,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(condition=combined(st.sampled_from(ATOMS)), bad=st.sampled_from(FORBIDDEN), data=st.data())
def test_whatever_else_stands_in_a_condition_is_refused(elsewhere, condition, bad, data):
    where, _ = condition
    atom = data.draw(st.sampled_from([text for text, _ in ATOMS if text in where]))
    with pytest.raises(QueryError, match="where"):
        matching(ITEMS, where.replace(atom, bad, 1))
