"""The index that lies beside a collection: built from it, kept open, mended; knows no query."""

import warnings
from pathlib import Path

import numpy as np

from perception_search import index as indexing
from perception_search import tables
from perception_search.errors import MissingExtra, PerceptionSearchWarning, QueryError
from perception_search.index import Index, IndexRecord, Recipe
from perception_search.snapshot import Rows
from perception_search.writer import Writer


def build(writer: Writer, recipe: Recipe) -> IndexRecord:
    """Index every row that can be found.

    Args:
        writer: the collection's, entered.
        recipe: how.

    Raises:
        ValueError: there is nothing to index, or the recipe wants more rows than there are.
        MissingExtra: FAISS is not installed.
        OSError: the disk is full; the index before, if any, stays.
    """
    snapshot = writer.snapshot
    searchable = (snapshot.item_of_row >= 0) & (snapshot.rows.scope != tables.VIDEO)
    return indexing.build(
        writer.folder,
        snapshot.rows,
        np.flatnonzero(searchable),
        recipe,
        next_row_id=snapshot.manifest.next_row_id,
        version=snapshot.version,
    )


def mend(writer: Writer) -> None:
    """Build the index anew if there is one that cannot be trusted."""
    try:
        indexing.open_index(writer.folder, writer.snapshot.rows)
    except QueryError:
        build(writer, _recipe_of(writer.folder) or indexing.recipe("hnsw"))
    except MissingExtra:
        pass  # without FAISS every search is exact


def rebuild(writer: Writer) -> None:
    """Build the index anew, by the same recipe, if there is one."""
    recipe = _recipe_of(writer.folder)
    if recipe is not None:
        build(writer, recipe)


def _recipe_of(folder: Path) -> Recipe | None:
    try:
        record = indexing.read_record(folder)
    except ValueError:
        return None
    return record.recipe if record else None


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
