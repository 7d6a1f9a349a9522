"""A filter in SQL over the item table; knows no collection and runs nothing but one expression.

The text is parsed first and refused unless it is a single boolean expression without a subquery;
it is then evaluated by an in-memory DuckDB that may open no file and change no setting.
"""

import json
import threading
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from perception_search.errors import QueryError

TIME_LIMIT_SECONDS = 30.0

_EXAMPLE = "write one condition over the item columns, such as: kind = 'video' AND width > 1000"


def _nodes(tree: Any) -> Any:
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for branch in tree:
            yield from _nodes(branch)


def _check(connection: Any, statement: str, where: str) -> None:
    """Raise unless `statement` is `SELECT ... FROM items WHERE <one plain expression>`."""
    serialized = connection.execute("SELECT json_serialize_sql(?)", [statement]).fetchone()[0]
    parsed = json.loads(serialized)
    if parsed.get("error"):
        raise QueryError(f"where {where!r}: {parsed.get('error_message')}; {_EXAMPLE}")
    statements = parsed["statements"]
    node = statements[0]["node"]
    whole = len(statements) == 1 and node.get("type") == "SELECT_NODE"
    # what could follow an expression: GROUP BY, HAVING, QUALIFY, SAMPLE, ORDER BY, LIMIT, WITH
    bare = (
        whole
        and not node.get("modifiers")
        and not node.get("group_expressions")
        and not node.get("having")
        and not node.get("qualify")
        and not node.get("sample")
        and not node.get("cte_map", {}).get("map")
        and node.get("from_table", {}).get("type") == "BASE_TABLE"
        and node["from_table"].get("table_name") == "items"
        and node.get("where_clause") is not None
    )
    if not bare:
        raise QueryError(f"where {where!r} is more than one condition; {_EXAMPLE}")
    for part in _nodes(node["where_clause"]):
        if part.get("class") == "SUBQUERY" or part.get("type") == "SUBQUERY":
            raise QueryError(
                f"where {where!r} holds a subquery, which a filter may not; {_EXAMPLE}"
            )


def matching(items: pa.Table, where: str) -> NDArray[np.bool_]:
    """Which rows of `items` satisfy `where`: bool (N,), in order; null counts as no.

    Raises:
        QueryError: `where` is not one boolean expression, names an unknown column, or took
            longer than 30 seconds.
    """
    import duckdb

    if not isinstance(where, str) or not where.strip():
        raise QueryError(f"where is empty; {_EXAMPLE}")
    if "\0" in where:
        raise QueryError(f"where {where!r} holds a NUL character; {_EXAMPLE}")
    numbered = items.append_column("_position", pa.array(np.arange(items.num_rows)))
    # the line break ends a `--` comment that would otherwise swallow what follows
    statement = f"SELECT _position FROM items WHERE {where}\n"
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        connection.register("items", numbered)
        connection.execute("SET enable_external_access = false")
        connection.execute("SET autoinstall_known_extensions = false")
        connection.execute("SET autoload_known_extensions = false")
        connection.execute("SET lock_configuration = true")
        timer = threading.Timer(TIME_LIMIT_SECONDS, connection.interrupt)
        timer.daemon = True
        timer.start()
        try:
            _check(connection, statement, where)
            found = connection.execute(statement).fetchnumpy()["_position"]
        except duckdb.InterruptException as error:
            raise QueryError(
                f"where {where!r} took longer than {TIME_LIMIT_SECONDS:g} seconds; {_EXAMPLE}"
            ) from error
        except duckdb.BinderException as error:
            columns = ", ".join(items.column_names)
            problem = str(error).splitlines()[0].removeprefix("Binder Error: ")
            raise QueryError(f"where {where!r}: {problem} The columns are {columns}.") from error
        except duckdb.Error as error:
            raise QueryError(
                f"where {where!r}: {str(error).splitlines()[0]}; {_EXAMPLE}"
            ) from error
        finally:
            timer.cancel()
    mask = np.zeros(items.num_rows, bool)
    mask[np.asarray(found, np.int64)] = True
    return mask
