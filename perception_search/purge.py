"""Taking what was removed out of a collection's files for good.

`remove`, and an ingest that finds a file gone, only hide. A purge writes the tables anew without
what is hidden, makes that the newest version and the one before it, and then deletes at once every
file and manifest that held it, all thumbnails, and all caches but that of queries. Killed at any
moment, another purge completes it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from perception_search import current_index, durable, manifest, tables, text_cache
from perception_search import index as indexing
from perception_search.manifest import StoredFile
from perception_search.salvage import readable_version
from perception_search.snapshot import Snapshot
from perception_search.writer import Writer

LIMIT = (
    "Deleted is what the collection's folder held. Snapshots of the file system, backups and the "
    "spare cells of an SSD may hold it still."
)


@dataclass(frozen=True)
class Purge:
    """What is taken out, or would be.

    Attributes:
        paths: files that were removed, or are gone.
        num_items: contents whose embeddings, records and captions go.
        returning: of `paths` those that lie in a folder that is followed: the next ingest of it
            takes them in again.
        num_files: files of the collection that were deleted.
        freed_bytes: by how much it became smaller.
    """

    paths: list[Path]
    num_items: int
    returning: list[Path]
    num_files: int = 0
    freed_bytes: int = 0


def doomed(snapshot: Snapshot) -> tuple[Purge, pa.Array]:
    """What a purge of this version takes out, and the contents, by hash."""
    is_removed = pc.equal(snapshot.paths["outcome"], "removed")
    names = snapshot.paths.filter(is_removed)["path"].to_pylist()
    paths = sorted(Path(os.fsdecode(name)) for name in names)
    kept = snapshot.paths.filter(pc.invert(is_removed))["content_hash"].unique()
    known = [snapshot.items["content_hash"], snapshot.rows.content_hash]
    known += [_hashes(snapshot, file) for file in snapshot.manifest.files if file.table == "grid"]
    chunks = [chunk for column in known for chunk in column.chunks]
    everything = pa.chunked_array(chunks, pa.string()).unique()
    hashes = everything.filter(pc.invert(pc.is_in(everything, value_set=kept)))
    roots = [Path(root) for root in snapshot.manifest.roots]
    returning = [
        path
        for path in paths
        if any(path.is_relative_to(root) for root in roots) and path.is_file()
    ]
    return Purge(paths, len(hashes), returning), hashes


def _hashes(snapshot: Snapshot, file: StoredFile) -> pa.ChunkedArray:
    return tables.read(snapshot.path_of(file), ["content_hash"])["content_hash"]


def purge(writer: Writer) -> Purge:
    """Take what is hidden out of every file of the collection; returns when it is gone.

    Args:
        writer: the collection's, entered.

    Raises:
        OSError: a file cannot be written or deleted; run it again to complete it.
    """
    before = _size(writer.folder)
    found, hashes = doomed(writer.snapshot)
    if found.paths or len(hashes):
        writer.commit(files=_without(writer, hashes))
    _renew_index(writer)
    state = writer.snapshot.manifest
    older = readable_version(writer.folder, state.version)
    if older is None or older.files != state.files:
        writer.commit()  # so that the version before, which `repair` may open, holds none of it
    num_deleted = _delete_old(writer)
    freed = before - _size(writer.folder)
    return Purge(found.paths, found.num_items, found.returning, num_deleted, freed)


def _without(writer: Writer, hashes: pa.Array) -> list[StoredFile]:
    """The files of the next version."""
    snapshot = writer.snapshot
    files: list[StoredFile] = []
    for file in snapshot.manifest.files:
        if file.table in ("rows", "grid"):
            rest = writer.without(file, hashes)
            files += [rest] if rest is not None else []
        elif file.table not in ("items", "paths"):
            part = tables.without(tables.read(snapshot.path_of(file)), hashes)
            files.append(writer.write_table(file.table, part.schema, [part], file.provenance))
    items, paths = snapshot.items, snapshot.paths
    items = tables.without(items, hashes)
    paths = paths.filter(pc.not_equal(paths["outcome"], "removed"))
    files += [writer.write_table("items", items.schema, [items])] if len(items) else []
    files += [writer.write_table("paths", paths.schema, [paths])] if len(paths) else []
    return files


def _renew_index(writer: Writer) -> None:
    """Build an index anew that holds rows which are hidden; one that cannot be read too."""
    try:
        record = indexing.read_record(writer.folder)
        snapshot = writer.snapshot
        ids = snapshot.rows.row_id[snapshot.searchable]
        if record is None or record.num_rows == (ids < record.next_row_id).sum():
            return
    except ValueError:
        pass  # it cannot be read
    current_index.renew(writer)


def _delete_old(writer: Writer) -> int:
    """Delete every manifest and file but those of the two newest versions, which are the same."""
    folder = writer.folder
    num_deleted = 0
    for version in manifest.versions(folder)[:-2]:
        for copy in manifest.COPIES:
            path = manifest.path_of(folder, version, copy)
            num_deleted += path.exists()
            durable.remove(path)
    num_deleted += len(writer.collect_garbage(minimum_age_seconds=-float("inf")))
    num_deleted += _delete_derived(folder)
    record = indexing.read_record(folder)
    for path in (folder / indexing.FOLDER).glob("*.faiss"):
        if record is None or path != indexing.path_of(folder, record):
            durable.remove(path)
            num_deleted += 1
    for name in (manifest.FOLDER, *manifest.TABLES, indexing.FOLDER, manifest.CACHE):
        if (folder / name).is_dir():
            durable.sync_folder(folder / name)
    return num_deleted


def _delete_derived(folder: Path) -> int:
    """Delete what was kept of any item, to be made anew when needed; queries stay."""
    queries = (folder / text_cache.FILE).name
    num_deleted = 0
    for name in (manifest.CACHE, manifest.THUMBNAILS):
        for path in sorted((folder / name).rglob("*")):
            if path.is_file() and not path.name.startswith(queries):  # SQLite adds -journal, -wal
                durable.remove(path)
                num_deleted += 1
    return num_deleted


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
