"""Filters: one condition goes through, anything else is refused in one sentence."""

import pyarrow as pa
import pytest

from perception_search.errors import QueryError
from perception_search.where import matching

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
