"""The index that lies beside a collection: built from it, kept open, mended; knows no query."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from perception_search import index as indexing
from perception_search import text_cache, tuning
from perception_search.errors import MissingExtra, PerceptionSearchWarning, QueryError
from perception_search.index import Index, IndexRecord
from perception_search.recipe import AUTO, EXACT, USUAL_RECALL, Recipe, recipe_for, recipes
from perception_search.rows import Rows
from perception_search.tuning import Queries, Tuned
from perception_search.writer import Writer

NEW_ROWS = 10_000
NEW_SHARE = 0.01
"""More new rows than both are added to the index; fewer are scanned, in a hundredth of a second."""
GROWN = 4
"""An index is built anew when there are so many times the rows it was built of,"""
DEAD_SHARE = 0.5
"""or when this share of what it holds can no longer be found."""
DRIFT = 0.1
"""Rows that came are unlike the others when the index finds so much less near them."""


def choose(
    writer: Writer, name: str, recall: float, asked: NDArray[np.float32]
) -> IndexRecord | None:
    """Build the index of a recipe's name, and tune it; None where there is to be none.

    Args:
        writer: the collection's, entered.
        name: of a recipe, a string for `faiss.index_factory`, `exact` or `auto`.
        recall: as for `tune`.
        asked: as for `tune`.
    """
    _check_recall(recall)
    if name == AUTO:
        name, _ = recipe_for(len(writer.snapshot.searchable), writer.snapshot.dim)
        if name == EXACT:
            indexing.remove(writer.folder)
            return None
    if name == EXACT:
        indexing.remove(writer.folder, for_good=True)
        return None
    index = build(writer, indexing.recipe(name))
    if index.record.num_rows > tuning.K:
        _tune(writer, index, recall, asked)
    return index.record


def build(writer: Writer, recipe: Recipe) -> Index:
    """Index every row that can be found, to be searched as the recipe says.

    Args:
        writer: the collection's, entered.
        recipe: how.

    Raises:
        ValueError: there is nothing to index, or the recipe wants more rows than there are.
        MissingExtra: FAISS is not installed.
        OSError: the disk is full; the index before, if any, stays.
    """
    snapshot = writer.snapshot
    return indexing.build(
        writer.folder,
        snapshot.rows,
        snapshot.searchable,
        recipe,
        next_row_id=snapshot.manifest.next_row_id,
        version=snapshot.version,
    )


def tune(writer: Writer, recall: float, asked: NDArray[np.float32]) -> Tuned:
    """Have the index searched from now on in the cheapest way that reaches a recall.

    Args:
        writer: the collection's, entered.
        recall: the share of the ten best rows that should be found.
        asked: (N, dim) unit embeddings of texts that were asked.

    Raises:
        QueryError: there is no index, or it cannot be trusted.
        ValueError: the recall is no share, or there are too few rows.
    """
    _check_recall(recall)
    index = indexing.open_index(writer.folder, writer.snapshot.rows)
    if index is None:
        raise QueryError("there is no index to tune: every search is exact")
    return _tune(writer, index, recall, asked)


def keep_up(writer: Writer, asked: NDArray[np.float32]) -> str:
    """Have the index hold what the collection holds by now; one sentence if anything was done.

    Many new rows are added to it, by what it learned when it was built; when they are unlike the
    rows before, that is warned of, and it is searched more thoroughly. It is built anew when the
    collection is another by size, or when it cannot be trusted. A collection that has none gets
    one when it is large enough, unless `exact` was chosen for it.

    Args:
        writer: the collection's, entered.
        asked: as for `tune`.
    """
    try:
        return _keep_up(writer, asked)
    except OSError as error:
        why = error.strerror or error
        return f"The index could not be kept up ({why}); searches find the same without it."


def _keep_up(writer: Writer, asked: NDArray[np.float32]) -> str:
    rows = writer.snapshot.rows
    try:
        index = indexing.open_index(writer.folder, rows)
    except QueryError:
        return _said("built anew, since it could not be trusted", rebuild(writer, asked))
    except MissingExtra:  # without FAISS every search is exact
        return ""
    if index is None:
        return _first(writer, asked)
    record = index.record
    snapshot = writer.snapshot
    num_since = snapshot.manifest.next_row_id - record.next_row_id
    may_be_dead = bool(pc.any(pc.equal(snapshot.paths["outcome"], "removed")).as_py())
    if num_since <= _many(record) and not may_be_dead and record.num_trained_rows:
        return ""  # nothing to do, and not worth looking at every row
    positions = snapshot.searchable
    new, old_ids = snapshot.parted(positions, record.next_row_id)
    num_dead = record.num_rows - len(old_ids)
    if len(positions) > GROWN * record.num_trained_rows or num_dead > DEAD_SHARE * record.num_rows:
        return _said("built anew for what there is now", rebuild(writer, asked))
    if len(new) > _many(record):
        return _said("extended", _extend(writer, new, asked))
    return ""


def _many(record: IndexRecord) -> float:
    """How many new rows are scanned; more are added to the index."""
    return max(NEW_ROWS, NEW_SHARE * record.num_rows)


def _first(writer: Writer, asked: NDArray[np.float32]) -> str:
    """The first index of a collection that has become large enough for one."""
    if indexing.is_unwanted(writer.folder):
        return ""
    try:
        return _said("built", choose(writer, AUTO, USUAL_RECALL, asked))
    except MissingExtra as error:
        return f"This many rows want an index. {error}"


def _said(what: str, record: IndexRecord | None) -> str:
    if record is None:
        return ""
    return f"index {what}: {record.recipe.name}, {record.num_rows:,} rows"


def rebuild(writer: Writer, asked: NDArray[np.float32]) -> IndexRecord | None:
    """Build the index anew, by the same recipe and to the same recall, if there is one.

    Where its record is damaged, what suits the number of rows.

    Args:
        writer: the collection's, entered.
        asked: as for `tune`.
    """
    try:
        record = indexing.read_record(writer.folder)
    except ValueError:
        return choose(writer, AUTO, USUAL_RECALL, asked)
    if record is None:
        return None
    if not len(writer.snapshot.searchable):
        indexing.remove(writer.folder)
        return None
    known = recipes().get(record.recipe.name, record.recipe)
    index = build(writer, replace(record.recipe, factory=known.factory))
    if record.wanted_recall and index.record.num_rows > tuning.K:
        _tune(writer, index, record.wanted_recall, asked)
    return index.record


def renew(writer: Writer) -> None:
    """Build the index anew, if there is one; where that cannot be, do without it."""
    asked = text_cache.asked(writer.folder, writer.snapshot.dim, tuning.NUM_QUERIES)
    try:
        rebuild(writer, asked)
    except (MissingExtra, ValueError):  # no FAISS, or too few rows by now: searches are exact
        indexing.remove(writer.folder)


def _extend(writer: Writer, new: NDArray[np.int64], asked: NDArray[np.float32]) -> IndexRecord:
    """Add the rows at `new`, and measure whether it finds what is near them."""
    snapshot = writer.snapshot
    index = indexing.extend(
        writer.folder,
        snapshot.rows,
        new,
        next_row_id=snapshot.manifest.next_row_id,
        version=snapshot.version,
    )
    wanted = index.record.wanted_recall
    if not wanted:
        return index.record
    queries = tuning.queries_by_picture(snapshot.rows, snapshot.searchable, new)
    found = tuning.recall_of(index, queries, index.record.recipe)
    tuned = _tune(writer, index, wanted, asked, {"new picture": queries})
    if found < wanted - DRIFT:
        now = tuned.recall["new picture"]
        warnings.warn(
            f"the {len(new):,} rows that came are unlike those the index was built of: it found "
            f"{found:.0%} of what is near them and, searched more thoroughly, finds {now:.0%} now, "
            f"in {tuned.milliseconds:.1f} ms a query. `perception-search index` builds it anew.",
            PerceptionSearchWarning,
            stacklevel=4,
        )
    return index.record


def _tune(
    writer: Writer,
    index: Index,
    recall: float,
    asked: NDArray[np.float32],
    more: Mapping[str, Queries] | None = None,
) -> Tuned:
    snapshot = writer.snapshot
    _, old_ids = snapshot.parted(snapshot.searchable, index.record.next_row_id)
    positions = snapshot.rows.positions(old_ids)
    if len(positions) <= tuning.K:
        raise ValueError(f"an index of {len(positions)} rows cannot be tuned; search exactly")
    queries = {**tuning.sample_queries(snapshot.rows, positions, asked), **(more or {})}
    tuned = tuning.tune(index, snapshot.rows, queries, recall)
    indexing.write_record(
        writer.folder,
        index,
        snapshot.rows,
        recipe=tuned.recipe,
        recall=dict(tuned.recall),
        wanted_recall=recall,
    )
    return tuned


def _check_recall(recall: float) -> None:
    if not 0 < recall <= 1:
        raise ValueError(f"recall={recall}; must be above 0 and at most 1, such as 0.95")


class CurrentIndex:
    """The index in a collection's folder, opened once and again when another takes its place."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._index: Index | None = None
        self._stamp: tuple[int, int] | None = None

    def opened(self, rows: Rows) -> Index | None:
        """The index; None where there is none, or none that can be trusted, which is warned of."""
        try:
            status = (self._folder / indexing.FOLDER / indexing.CURRENT).stat()
        except OSError:
            self._index, self._stamp = None, None
            return None
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp != self._stamp:
            self._index, self._stamp = None, stamp
            try:
                self._index = indexing.open_index(self._folder, rows)
            except (QueryError, MissingExtra) as error:
                warnings.warn(
                    f"{str(error).rstrip('.')}: searching without the index, exactly. "
                    "The next ingest builds it anew, and so does `perception-search index`.",
                    PerceptionSearchWarning,
                    stacklevel=5,
                )
        return self._index
