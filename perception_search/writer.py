"""The one writer of a collection: stages records and commits them as the next version.

A version is visible as a whole or not at all, and what `commit` returned survives a kill and power
loss. Knows no encoder, no index and no media file.
"""

import contextlib
import itertools
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from perception_search import durable, manifest, tables
from perception_search.errors import CollectionLocked
from perception_search.manifest import Manifest, StoredFile
from perception_search.segments import Segmentation
from perception_search.snapshot import Caption, PathRecord, Snapshot, latest

ROWS_AT_ONCE = 4096
MINIMUM_AGE_SECONDS = 24 * 3600.0

_LOCK = "writer.lock"
_HOLDER = "writer.holder"


@dataclass(frozen=True)
class NewRow:
    """One row to be stored: `embedding` (dim,) float32 of unit length, `norm` its length before."""

    scope: str
    embedding: NDArray[np.float32]
    norm: float
    num_frames: int = 1
    start_seconds: float | None = None
    end_seconds: float | None = None


@dataclass(frozen=True)
class Grid:
    """The frames of a video's time grid: unit embeddings (T, dim), norms (T,), times (T,)."""

    embeddings: NDArray[np.floating]
    norms: NDArray[np.float32]
    pts_seconds: NDArray[np.float64]


def create_folder(
    path: Path, description: Mapping[str, Any], segmentation: Segmentation | None = None
) -> None:
    """Make a collection's folder with an empty first version: whole, or not at all.

    Args:
        path: absent, or an empty folder.
        description: what `collection.json` is to say.
        segmentation: which stretches videos are to be found by.

    Raises:
        OSError: `path` is taken or cannot be made.
    """
    durable.make_folders(path.parent)
    building = path.with_name(f"{durable.TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        for name in (manifest.FOLDER, *manifest.TABLES):
            (building / name).mkdir(parents=True)
        durable.write(building / manifest.COLLECTION_FILE, manifest.encode_collection(description))
        described = (segmentation or Segmentation()).as_dict()
        manifest.write(
            building, Manifest(version=1, collection=description, segmentation=described)
        )
        # the folders' names are safe too: each file that was written synced the folder it is in
        building.replace(path)  # an empty folder may be replaced, anything else raises
        durable.sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


class Writer:
    """The one writer of a collection: stages records, commits them, tidies up. A context manager.

    Nothing staged is visible before `commit` returns, and all of it is safe on disk when it does.

    Args:
        folder: the collection's.
        before: a version that was read; see `Snapshot.open`.
        base: what to start from instead of the newest version, where that cannot be read; it
            bears the newest version's number.
    """

    def __init__(
        self, folder: Path, before: Snapshot | None = None, base: Manifest | None = None
    ) -> None:
        self.folder = folder
        self._before = before
        self._base = base
        self._lock = FileLock(folder / _LOCK, blocking=False)

    def __enter__(self) -> "Writer":
        manifest.versions(self.folder)  # a plain message where there is no collection
        with durable.writing(self.folder):
            try:
                self._lock.acquire()
            except Timeout as error:
                raise CollectionLocked(
                    f"{self.folder} is being written by {_read_holder(self.folder)}. "
                    f"Searching goes on meanwhile; try again when it has finished."
                ) from error
        try:
            with durable.writing(self.folder):
                _write_holder(self.folder)
            if self._base is None:
                self.snapshot = Snapshot.open(self.folder, self._before)
                manifest.heal(self.folder, self.snapshot.manifest)
            else:
                self.snapshot = Snapshot(self.folder, self._base)
            for table in manifest.TABLES:
                durable.sweep(self.folder / table)
            durable.sweep(self.folder / manifest.FOLDER)
            durable.sweep(self.folder)
        except BaseException:
            self._lock.release()
            raise
        self.next_row_id = self.snapshot.manifest.next_row_id
        self.forget()
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()
        with contextlib.suppress(OSError):  # the disk may be gone; nothing hangs on it
            (self.folder / _HOLDER).unlink(missing_ok=True)
        self._lock.release()

    def forget(self) -> None:
        """Drop everything that is staged."""
        self._rows: list[tuple[int, str, NewRow]] = []
        self._grids: list[tuple[str, Grid]] = []
        self._items: dict[str, dict[str, Any]] = {}
        self._paths: dict[Path, PathRecord] = {}
        self._roots: list[str] = []
        self._captions: dict[str, list[Caption]] = {}

    @property
    def num_staged_rows(self) -> int:
        """Rows that the next commit will make visible."""
        return len(self._rows)

    @property
    def has_staged(self) -> bool:
        """Whether a commit would write anything."""
        tables_too = self._rows or self._grids or self._items or self._paths or self._captions
        return bool(tables_too or self._roots)

    def add_item(
        self, item: Mapping[str, Any], rows: Sequence[NewRow] = (), grid: Grid | None = None
    ) -> None:
        """Stage one item, the rows it is found by and its grid.

        Raises:
            ValueError: an embedding is not finite or not of unit length.
        """
        content_hash = item["content_hash"]
        self.add_rows(content_hash, rows)
        if grid is not None:
            self._grids.append((content_hash, grid))
        self._items[content_hash] = dict(item)

    def add_rows(self, content_hash: str, rows: Sequence[NewRow]) -> None:
        """Stage rows of an item that is known, or is staged too.

        Raises:
            ValueError: an embedding is not finite or not of unit length.
        """
        for row in rows:
            length = float(np.linalg.norm(row.embedding))
            if not (np.isfinite(row.norm) and abs(length - 1) < 1e-3):
                raise ValueError(f"an embedding of length {length:g} cannot be stored")
        for row in rows:
            self._rows.append((self.next_row_id, content_hash, row))
            self.next_row_id += 1

    def add_path(self, path: Path, record: PathRecord) -> None:
        """Stage what was seen at `path`."""
        self._paths[path] = record

    def add_captions(self, content_hash: str, captions: Sequence[Caption]) -> None:
        """Stage an item's captions, one or more, in the place of all that it has.

        Raises:
            ValueError: there is none, or one has no words.
        """
        if not captions or not all(caption.text.strip() for caption in captions):
            raise ValueError("a caption without words cannot be stored")
        self._captions[content_hash] = list(captions)

    def add_root(self, root: Path) -> None:
        """Stage `root` as a folder whose files are followed; a known one is not staged again."""
        name = str(root)
        if name not in self.snapshot.manifest.roots and name not in self._roots:
            self._roots.append(name)

    def commit(
        self,
        provenance: Mapping[str, str] | None = None,
        files: Sequence[StoredFile] | None = None,
        **changes: Any,
    ) -> Snapshot:
        """Make everything staged the next version; returns when it is safe on disk.

        Args:
            provenance: how the staged rows came to be.
            files: what takes the place of the files there are, in order; None for those.
            changes: further fields of the manifest that change with them.

        Raises:
            OSError: the disk is full or failing; the version before stays the newest.
        """
        state = self.snapshot.manifest
        files = list(state.files if files is None else files)
        for table, content in self._staged_tables():
            origin = (dict(provenance),) if provenance and table == "rows" else ()
            files.append(self.write_table(table, content.schema, [content], origin))
        self._install(files=tuple(files), roots=(*state.roots, *self._roots), **changes)
        self.forget()
        return self.snapshot

    def replace_segments(
        self, rows: Iterable[tuple[str, NewRow]], segmentation: Segmentation
    ) -> Snapshot:
        """Put other segment rows in the place of all there are; returns when they are safe.

        Files without segment rows stay; the others are written anew, what else they hold with it.
        One commit: a reader sees the old segments or the new ones.

        Args:
            rows: content hash and row of every new segment, those of a video together.
            segmentation: what they are, from now on.

        Raises:
            OSError: the disk is full or failing; the version before stays the newest.
        """
        state = self.snapshot.manifest
        files = list(state.files)
        mixed = [file for file in state.of("rows") if self._holds_segments(file)]
        kept = (
            group.filter(pc.not_equal(group["scope"], "segment"))
            for file in mixed
            for group in tables.groups(self.snapshot.path_of(file))
        )
        parts = itertools.chain(kept, self._numbered(rows))
        first = next(parts, None)
        if first is not None:
            parts = itertools.chain([first], parts)
            schema = tables.rows_schema(self.snapshot.dim)
            merged = self.write_table("rows", schema, parts, _origins(mixed))
            files = [*(file for file in files if file not in mixed), merged]
        self._install(files=tuple(files), segmentation=segmentation.as_dict())
        return self.snapshot

    def _holds_segments(self, file: StoredFile) -> bool:
        scopes = tables.read(self.snapshot.path_of(file), ["scope"])["scope"]
        return bool(pc.any(pc.equal(scopes, "segment")).as_py())

    def _numbered(self, rows: Iterable[tuple[str, NewRow]]) -> Iterator[pa.Table]:
        """The rows with new ids, as tables."""
        rows = iter(rows)
        while some := list(itertools.islice(rows, ROWS_AT_ONCE)):
            numbers = range(self.next_row_id, self.next_row_id + len(some))
            self.next_row_id += len(some)
            numbered = [(n, *pair) for n, pair in zip(numbers, some, strict=True)]
            yield _rows_table(numbered, self.snapshot.dim)

    def _install(self, **changes: Any) -> None:
        """Make the newest version with these changes the next one."""
        newest = self.snapshot.manifest
        state = replace(newest, version=newest.version + 1, next_row_id=self.next_row_id, **changes)
        manifest.write(self.folder, state)
        self.snapshot = Snapshot(self.folder, state, self.snapshot)

    def _staged_tables(self) -> Iterator[tuple[str, pa.Table]]:
        dim = self.snapshot.dim
        if self._rows:
            yield "rows", _rows_table(self._rows, dim)
        if self._grids:
            yield "grid", _grid_table(self._grids, dim)
        if self._items:
            yield "items", items_table(self._items.values())
        if self._paths:
            yield "paths", _paths_table(self._paths)
        if self._captions:
            yield "captions", _captions_table(self._captions)

    def write_table(
        self,
        table: str,
        schema: pa.Schema,
        parts: Iterable[pa.Table],
        provenance: tuple[Mapping[str, str], ...] = (),
    ) -> StoredFile:
        """Write one file of a table, safe on disk; no version names it yet."""
        folder = self.folder / table
        if not folder.is_dir():  # a collection from before there was such a table
            with durable.writing(self.folder):
                folder.mkdir()
            durable.sync_folder(self.folder)
        with durable.pending(folder) as new:
            num_rows = tables.write(new.file, schema, parts)
            sha256 = new.sha256()
            footer_sha256 = tables.footer_sha256(new.path)
            size_bytes = new.file.tell()
            new.publish(folder / f"{sha256}.parquet")
        return StoredFile(table, sha256, size_bytes, num_rows, provenance, footer_sha256)

    def without(self, file: StoredFile, content_hashes: pa.Array) -> StoredFile | None:
        """A file of rows or grids without those of some contents: the same file where it holds
        none of them, another one written otherwise; None where nothing would be left.
        """
        path = self.snapshot.path_of(file)
        held = pc.is_in(
            tables.read(path, ["content_hash"])["content_hash"], value_set=content_hashes
        )
        if not pc.any(held).as_py():
            return file
        if pc.all(held).as_py():
            return None
        parts = (tables.without(group, content_hashes) for group in tables.groups(path))
        schema = tables.schema_of(file.table, self.snapshot.dim)
        return self.write_table(file.table, schema, parts, file.provenance)

    def compact(self) -> None:
        """Merge small files into larger ones, ids kept, and drop records that later ones replace.

        Files are merged while the ones to be merged hold at least half as many rows as the next
        larger one: a row is rewritten a number of times that grows with the logarithm of the
        collection, and so does the number of files.
        """
        state = self.snapshot.manifest
        files = list(state.files)
        for table in manifest.TABLES:
            small = merge_plan(state.of(table))
            if small:
                merged = self._merge(table, small)
                files = [*(file for file in files if file not in small), merged]
        if files != list(state.files):
            self._install(files=tuple(files))

    def _merge(self, table: str, small: list[StoredFile]) -> StoredFile:
        paths = [self.snapshot.path_of(file) for file in small]
        if table in ("rows", "grid"):
            schema = tables.schema_of(table, self.snapshot.dim)
            parts: Iterable[pa.Table] = (group for path in paths for group in tables.groups(path))
        else:
            key = "path" if table == "paths" else "content_hash"
            merged = latest([tables.read(path) for path in paths], key)
            schema, parts = merged.schema, [merged]
        return self.write_table(table, schema, parts, _origins(small))

    def collect_garbage(self, minimum_age_seconds: float = MINIMUM_AGE_SECONDS) -> list[Path]:
        """Delete files that none of the last three versions names and that are a day old.

        Returns:
            What was deleted. Files whose name is not of our making are never touched.
        """
        kept = manifest.versions(self.folder)[-manifest.NUM_KEPT :]
        named = set()
        for version in kept:
            for copy in manifest.COPIES:
                try:
                    state = manifest.read_copy(self.folder, version, copy)
                except (OSError, ValueError):
                    continue
                named |= {self.folder / file.name for file in state.files}
                break
            else:
                return []  # what a damaged version names is not known: keep everything
        candidates = [
            path
            for table in manifest.TABLES
            for path in (self.folder / table).glob("*.parquet")
            if path not in named
            and len(path.stem) == 64
            and not path.stem.strip("0123456789abcdef")
        ]
        candidates += [
            manifest.path_of(self.folder, version, copy)
            for version in manifest.versions(self.folder)
            if version not in kept
            for copy in manifest.COPIES
        ]
        oldest = time.time() - minimum_age_seconds
        deleted = []
        for path in candidates:
            if path.exists() and path.stat().st_mtime < oldest:
                durable.remove(path)
                deleted.append(path)
        return deleted


def merge_plan(files: Sequence[StoredFile]) -> list[StoredFile]:
    """The files that are worth merging into one, in their order; none or at least two.

    Only neighbours may be merged, since of two records the later wins: the plan is the longest
    tail whose every older part is at most twice what comes after it.
    """
    total = 0
    worth = 0
    for count, file in enumerate(reversed(files), start=1):
        if count > 1 and file.num_rows <= 2 * total:
            worth = count
        total += file.num_rows
    return list(files[len(files) - worth :])


def _origins(files: Sequence[StoredFile]) -> tuple[Mapping[str, str], ...]:
    """How the rows of these files came to be, each once."""
    found = {tuple(sorted(origin.items())): origin for f in files for origin in f.provenance}
    return tuple(found.values())


def _rows_table(rows: Sequence[tuple[int, str, NewRow]], dim: int) -> pa.Table:
    matrix = np.stack([row.embedding for _, _, row in rows]).astype(np.float16)
    return pa.table(
        [
            pa.array([row_id for row_id, _, _ in rows], pa.int64()),
            pa.array([content_hash for _, content_hash, _ in rows], pa.string()),
            pa.array([row.scope for _, _, row in rows], pa.string()),
            pa.array([row.start_seconds for _, _, row in rows], pa.float64()),
            pa.array([row.end_seconds for _, _, row in rows], pa.float64()),
            pa.array([row.num_frames for _, _, row in rows], pa.int32()),
            pa.array([row.norm for _, _, row in rows], pa.float32()),
            *tables.embedding_arrays(matrix),
        ],
        schema=tables.rows_schema(dim),
    )


def _grid_table(grids: Sequence[tuple[str, Grid]], dim: int) -> pa.Table:
    owners = [content_hash for content_hash, grid in grids for _ in grid.pts_seconds]
    matrix = np.concatenate([grid.embeddings for _, grid in grids]).astype(np.float16)
    return pa.table(
        [
            pa.array(owners, pa.string()),
            pa.array(np.concatenate([grid.pts_seconds for _, grid in grids]), pa.float64()),
            pa.array(np.concatenate([grid.norms for _, grid in grids]), pa.float32()),
            *tables.embedding_arrays(matrix),
        ],
        schema=tables.grid_schema(dim),
    )


def items_table(items: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Items as a table: our columns, then the caller's own as pyarrow infers them."""
    items = list(items)
    ours = {field.name for field in tables.ITEM_FIELDS}
    own = list(dict.fromkeys(name for item in items for name in item if name not in ours))
    columns = {
        field.name: pa.array([item.get(field.name) for item in items], field.type)
        for field in tables.ITEM_FIELDS
    }
    columns |= {name: pa.array([item.get(name) for item in items]) for name in own}
    fields = [*tables.ITEM_FIELDS, *(pa.field(name, columns[name].type) for name in own)]
    return pa.table(columns, schema=pa.schema(fields))


def _paths_table(paths: Mapping[Path, PathRecord]) -> pa.Table:
    records = list(paths.values())
    columns = {"path": [os.fsencode(path) for path in paths]} | {
        name: [getattr(record, name) for record in records] for name in PathRecord._fields
    }
    return pa.table(columns, schema=tables.PATHS)


def _captions_table(captions: Mapping[str, Sequence[Caption]]) -> pa.Table:
    pairs = [(content_hash, one) for content_hash, some in captions.items() for one in some]
    columns = {"content_hash": [content_hash for content_hash, _ in pairs]} | {
        name: [getattr(caption, name) for _, caption in pairs] for name in Caption._fields
    }
    return pa.table(columns, schema=tables.CAPTIONS)


def _write_holder(folder: Path) -> None:
    started = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    holder = f"process {os.getpid()} on {socket.gethostname()} since {started}"
    (folder / _HOLDER).write_text(holder)


def _read_holder(folder: Path) -> str:
    try:
        return (folder / _HOLDER).read_text()[:200] or "another process"
    except OSError:
        return "another process"
