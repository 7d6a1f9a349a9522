"""The index that lies beside a collection: built from it, kept open, mended; knows no query."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception_search import index as indexing
from perception_search import tuning
from perception_search.errors import MissingExtra, PerceptionSearchWarning, QueryError
from perception_search.index import Index, IndexRecord
from perception_search.recipe import AUTO, EXACT, Recipe, recipe_for, recipes
from perception_search.snapshot import Rows
from perception_search.tuning import Tuned
from perception_search.writer import Writer


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
    if name == AUTO:
        name, _ = recipe_for(len(writer.snapshot.rows))
    if name == EXACT:
        indexing.remove(writer.folder)
        return None
    record = build(writer, indexing.recipe(name))
    if record.num_rows > tuning.K:
        tune(writer, recall, asked)
    return indexing.read_record(writer.folder)


def build(writer: Writer, recipe: Recipe) -> IndexRecord:
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
    if not 0 < recall <= 1:
        raise ValueError(f"recall={recall}; must be above 0 and at most 1, such as 0.95")
    snapshot = writer.snapshot
    rows = snapshot.rows
    index = indexing.open_index(writer.folder, rows)
    if index is None:
        raise QueryError("there is no index to tune: every search is exact")
    positions = snapshot.searchable[snapshot.searchable_ids < index.record.next_row_id]
    if len(positions) <= tuning.K:
        raise ValueError(f"an index of {len(positions)} rows cannot be tuned; search exactly")
    tuned = tuning.tune(index, rows, tuning.sample_queries(rows, positions, asked), recall)
    indexing.write_record(writer.folder, index, rows, tuned.recipe, tuned.recall)
    return tuned


def mend(writer: Writer) -> None:
    """Build the index anew if there is one that cannot be trusted."""
    try:
        indexing.open_index(writer.folder, writer.snapshot.rows)
    except QueryError:
        name, _ = recipe_for(len(writer.snapshot.rows))
        build(
            writer, _recipe_of(writer.folder) or indexing.recipe("hnsw" if name == EXACT else name)
        )
    except MissingExtra:
        pass  # without FAISS every search is exact


def rebuild(writer: Writer) -> None:
    """Build the index anew, by the same recipe, if there is one."""
    recipe = _recipe_of(writer.folder)
    if recipe is not None:
        build(writer, recipe)


def _recipe_of(folder: Path) -> Recipe | None:
    """How the index was built, for as many rows as there are now, and how it is searched."""
    try:
        record = indexing.read_record(folder)
    except ValueError:
        return None
    if record is None:
        return None
    known = recipes().get(record.recipe.name, record.recipe)
    return replace(record.recipe, factory=known.factory)


class CurrentIndex:
    """The index in a collection's folder, opened once and again when another takes its place."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._index: Index | None = None
        self._stamp: tuple[int, int] | None = None

    def forget(self) -> None:
        """Look again at the next use: the rows are another version's now."""
        self._stamp = None

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
