"""Taking items out of a collection: they are hidden at once; their files are never touched."""

from collections.abc import Sequence
from pathlib import Path

from perception_search.errors import QueryError
from perception_search.snapshot import Snapshot
from perception_search.where import matching
from perception_search.writer import Writer


def remove(writer: Writer, paths: Sequence[Path], where: str | None) -> list[Path]:
    """Hide what lies at and below these paths, and what a filter matches; the paths hidden.

    Args:
        writer: the collection's, entered.
        paths: absolute.
        where: a filter over the item columns, in SQL.

    Raises:
        QueryError: nothing is meant by one of `paths`, or `where` cannot be used.
    """
    snapshot = writer.snapshot
    records = snapshot.path_records
    live = {path for some in snapshot.live_paths.values() for path in some}
    chosen: set[Path] = set()
    for wanted in paths:
        below = {path for path in live if path.is_relative_to(wanted)}
        if not below:
            raise QueryError(f"{wanted} is not in {writer.folder}: nothing was removed.")
        chosen |= below
    if where is not None:
        chosen |= _matching(snapshot, where)
    for path in chosen:
        record = records[path]._replace(outcome="removed", reason="taken out by hand")
        writer.add_path(path, record)
    if chosen:
        writer.commit()
        writer.compact()
    return sorted(chosen)


def _matching(snapshot: Snapshot, where: str) -> set[Path]:
    kept = snapshot.shown_items.filter(matching(snapshot.shown_items, where))
    hashes = kept["content_hash"].to_pylist()
    return {path for content_hash in hashes for path in snapshot.live_paths[content_hash]}
