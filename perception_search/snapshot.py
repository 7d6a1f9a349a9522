"""One version of a collection, read: rows, embeddings, items, paths, captions of one manifest.

Everything is read when first asked for and never changes while others write. Knows no encoder, no
index and no media file.
"""

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from perception_search import durable, manifest, tables
from perception_search.errors import CollectionDamaged
from perception_search.frames import Sampling
from perception_search.manifest import Manifest, StoredFile
from perception_search.media import display
from perception_search.rows import Grids, Rows
from perception_search.segments import Segmentation

_FEW_LOOKUPS = 8
_FEW_CHUNKS = 8  # of a table that is not worth copying into one piece


class PathRecord(NamedTuple):
    """What was seen at one path when it was last looked at.

    `outcome` is `ingested` where the path holds an item of the collection, `removed` where it is
    gone or was taken out, and otherwise the word that says why it is not in.
    """

    size_bytes: int | None
    modified_ns: int | None
    inode: int | None
    content_hash: str | None
    outcome: str
    reason: str | None = None


OWN = "own"
"""Model and licence of captions that the collection's owner brings."""


class Caption(NamedTuple):
    """What an item, or a stretch of a video, shows in words.

    Attributes:
        text: the words.
        model: what wrote them; `own` for what the collection's owner brought.
        licence: what they may be used for; `own` where that is the owner's business.
        created_at: when they were stored, in UTC without a zone.
        prompt: what the model was asked; None where nothing was.
        start_seconds: where the stretch begins; None for the whole item.
        end_seconds: the first instant after it.
    """

    text: str
    model: str
    licence: str
    created_at: datetime
    prompt: str | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None


class Snapshot:
    """One version of a collection, read lazily; never changes while others write.

    Every file is compared with its SHA-256 before its first use, except for rows, and for grids,
    above `HASH_LIMIT_BYTES` in total: of those the footer is compared with its SHA-256, every page
    but the embeddings with its checksum, an embedding with its own where it is used; `verify`
    compares the whole.
    """

    HASH_LIMIT_BYTES = 1 << 28

    def __init__(self, folder: Path, state: Manifest, before: "Snapshot | None" = None) -> None:
        self.folder = folder
        self.manifest = state
        self.dim = int(state.collection["identity"]["dim"])
        self._checked: set[str] = before._checked if before is not None else set()
        if before is not None and before.dim != self.dim:
            before = None  # of another model: what was read of none of its rows is no beginning
        self._read_before = before._read() if before is not None else {}
        self._joined_before = before._joined() if before is not None else None
        self._num_kept: dict[str, int] = {}  # records of the version before that still hold
        self._num_lookups = 0
        self._parted: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    @staticmethod
    def open(folder: Path, before: "Snapshot | None" = None) -> "Snapshot":
        """The newest version in `folder`.

        Args:
            folder: the collection.
            before: an earlier version that was read; what still holds of it is not read again.

        Raises:
            CollectionNotFound: there is none.
            CollectionDamaged: neither copy of its manifest is whole.
        """
        return Snapshot(folder, manifest.read(folder), before)

    @property
    def version(self) -> int:
        """Counts up by one with every commit."""
        return self.manifest.version

    @property
    def grid_seconds(self) -> float:
        """Between two points of the videos' time grid."""
        return 1 / self.sampling.frames_per_second

    @property
    def sampling(self) -> Sampling:
        """How videos are looked at."""
        described = dict(self.manifest.collection["sampling"])
        described.pop("segment_seconds", None)  # a collection from when it could not be changed
        return Sampling(**described)

    @property
    def segmentation(self) -> Segmentation:
        """Which stretches of videos the segment rows are."""
        described = self.manifest.segmentation
        if not described:  # made when it was fixed at creation
            described = {"seconds": self.manifest.collection["sampling"]["segment_seconds"]}
        return Segmentation.of(described)

    def path_of(self, file: StoredFile) -> Path:
        """Where `file` lies, after its content was compared with its name.

        Raises:
            CollectionDamaged: the file is missing or does not hold what was written.
        """
        if file.sha256 not in self._checked:
            self._compare(file, whole=not self._too_large_to_hash(file))
            self._checked.add(file.sha256)
        return self.folder / file.name

    def _compare(self, file: StoredFile, *, whole: bool) -> None:
        """Raise CollectionDamaged unless a file has its size and its content, or its footer."""
        path = self.folder / file.name
        try:
            is_same = path.stat().st_size == file.size_bytes
            if is_same and whole:
                is_same = durable.sha256_of(path) == file.sha256
            elif is_same and file.footer_sha256:
                is_same = tables.footer_sha256(path) == file.footer_sha256
        except OSError as error:
            raise CollectionDamaged(f"{path} cannot be read: {error.strerror}.") from error
        if not is_same:
            raise CollectionDamaged(
                f"{path} does not hold what was written to it. "
                f"`perception-search verify {self.folder}` says what is damaged."
            )

    def _too_large_to_hash(self, file: StoredFile) -> bool:
        total = sum(other.size_bytes for other in self.manifest.of(file.table))
        return file.table in ("rows", "grid") and total > self.HASH_LIMIT_BYTES

    def _read(self) -> dict[str, tuple[Sequence[StoredFile], Any]]:
        """Of the tables that were read, now or for a version before: their files and content."""
        read = [name for name in ("rows", "items", "paths", "captions") if name in vars(self)]
        return self._read_before | {
            name: (self.manifest.of(name), vars(self)[name]) for name in read
        }

    def _joined(self) -> tuple[pa.Table, NDArray[np.int64]] | None:
        """The live items and each row's place among them, if they were worked out."""
        if "item_of_row" not in vars(self):
            return None
        return self.live_items, self.item_of_row

    def _since(self, table: str) -> tuple[Any, Sequence[StoredFile]]:
        """What was read of a table for the version before, None where it was not or does not hold
        any more, and the files that came since.
        """
        files = self.manifest.of(table)
        known, content = self._read_before.pop(table, ((), None))
        if list(known) != list(files[: len(known)]):
            return None, files
        return content, files[len(known) :]

    def _table(self, name: str, key: str, schema: pa.Schema) -> pa.Table:
        """One table with its latest record for every key."""
        before, files = self._since(name)
        parts = [tables.read(self.path_of(file)) for file in files]
        if before is not None:
            parts.insert(0, before)
        table = latest(parts, key) if parts else schema.empty_table()
        if before is not None and table.num_rows == sum(part.num_rows for part in parts):
            self._num_kept[name] = before.num_rows
        return table

    @functools.cached_property
    def items(self) -> pa.Table:
        """Every file content ever seen, by `content_hash`, with its outcome."""
        return self._table("items", "content_hash", pa.schema(tables.ITEM_FIELDS))

    @functools.cached_property
    def paths(self) -> pa.Table:
        """Every path ever looked at: `path` (binary), what was seen, and the outcome."""
        return self._table("paths", "path", tables.PATHS)

    @functools.cached_property
    def captions(self) -> pa.Table:
        """Every item's captions, removed items' too; of an item those that were stored last."""
        return self._table("captions", "content_hash", tables.CAPTIONS)

    def captions_of(self, content_hashes: Sequence[str]) -> dict[str, list[Caption]]:
        """The captions of each of these items that has any."""
        found: dict[str, list[Caption]] = {}
        if not self.manifest.of("captions"):
            return found
        wanted = pc.is_in(self.captions["content_hash"], value_set=pa.array(content_hashes))
        some = self.captions.filter(wanted)
        columns = [some[name].to_pylist() for name in Caption._fields]
        captions = map(Caption._make, zip(*columns, strict=True))
        for content_hash, caption in zip(some["content_hash"].to_pylist(), captions, strict=True):
            found.setdefault(content_hash, []).append(caption)
        return found

    @functools.cached_property
    def item_of_caption(self) -> NDArray[np.int64]:
        """For every caption the position of its item in `live_items`; -1 where that is removed."""
        return _places(self.captions["content_hash"], self.live_items)

    @functools.cached_property
    def path_records(self) -> dict[Path, PathRecord]:
        """What was seen at every path that was ever looked at."""
        columns = [self.paths[name].to_pylist() for name in PathRecord._fields]
        paths = [Path(os.fsdecode(path)) for path in self.paths["path"].to_pylist()]
        records = map(PathRecord._make, zip(*columns, strict=True))
        return dict(zip(paths, records, strict=True))

    @functools.cached_property
    def live_paths(self) -> dict[str, list[Path]]:
        """Content hash to the paths that hold it now."""
        live = self.paths.filter(pc.equal(self.paths["outcome"], "ingested"))
        found: dict[str, list[Path]] = {}
        for path, content_hash in zip(
            live["path"].to_pylist(), live["content_hash"].to_pylist(), strict=True
        ):
            found.setdefault(content_hash, []).append(Path(os.fsdecode(path)))
        return found

    @functools.cached_property
    def live_items(self) -> pa.Table:
        """The items that can be found: ingested, and at a path."""
        if self._added is not None:
            before, _, new = self._added
            live = pa.concat_tables([before, new], promote_options="permissive")
        else:
            live = _live(self.items, self.paths)
        return live.combine_chunks()  # of one piece a few are taken in no time

    @functools.cached_property
    def _added(self) -> tuple[pa.Table, NDArray[np.int64], pa.Table] | None:
        """The live items of the version before, each row's place among them, and the live items
        that came since; None where more than new contents at new paths did.

        Looking a million items up takes longer than all else that a new version asks for.
        """
        joined, self._joined_before = self._joined_before, None
        items, paths = self.items, self.paths
        if joined is None or not {"items", "paths"} <= self._num_kept.keys():
            return None
        new_items = items.slice(self._num_kept["items"])
        new_paths = paths.slice(self._num_kept["paths"])
        at_a_path = new_paths.filter(pc.equal(new_paths["outcome"], "ingested"))["content_hash"]
        are_new = pc.is_in(at_a_path, value_set=new_items["content_hash"])
        if not pc.all(are_new, min_count=0).as_py():
            return None
        return *joined, _live(new_items, new_paths)

    @functools.cached_property
    def _paths_by_item(self) -> tuple[pa.Array, NDArray[np.int64]]:
        """The paths of all live items, item by item, and where each item's begin (N + 1)."""
        live = self.paths.filter(pc.equal(self.paths["outcome"], "ingested"))
        place = pc.index_in(live["content_hash"], value_set=self.live_items["content_hash"])
        item = np.asarray(pc.fill_null(place, -1).to_numpy(), np.int64)
        order = np.argsort(item, kind="stable")
        starts = np.searchsorted(item[order], np.arange(self.live_items.num_rows + 1))
        return live["path"].combine_chunks().take(pa.array(order)), starts

    def first_paths(self, items: NDArray[np.int64]) -> list[Path]:
        """The first path of each of the live items at these positions.

        At first they are looked for among all paths; for who asks often all are put in order.
        """
        self._num_lookups += 1
        if self._num_lookups > _FEW_LOOKUPS:
            paths, starts = self._paths_by_item
            return [Path(os.fsdecode(paths[at].as_py())) for at in starts[items].tolist()]
        hashes = self.live_items["content_hash"].take(pa.array(items))
        wanted = pc.and_(
            pc.is_in(self.paths["content_hash"], value_set=hashes),
            pc.equal(self.paths["outcome"], "ingested"),
        )
        found = self.paths.select(["content_hash", "path"]).filter(wanted).to_pydict()
        pairs = zip(reversed(found["content_hash"]), reversed(found["path"]), strict=True)
        first = dict(pairs)  # of several the first stays
        return [Path(os.fsdecode(first[content_hash])) for content_hash in hashes.to_pylist()]

    @functools.cached_property
    def shown_items(self) -> pa.Table:
        """The live items as `where` and tables show them: with `paths`, `name` and `folder`;
        names that are no text are escaped.
        """
        items = self.live_items
        paths, starts = self._paths_by_item
        texts = [display(os.fsdecode(path)) for path in paths.to_pylist()]
        firsts = [texts[start].rpartition(os.sep) for start in starts[:-1].tolist()]
        shown = items.select([n for n in items.column_names if n not in tables.HIDDEN_ITEM_FIELDS])
        every = pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(texts, pa.string()))
        shown = shown.add_column(1, "paths", every)
        shown = shown.add_column(2, "name", pa.array([name for _, _, name in firsts], pa.string()))
        folders = pa.array([folder or os.sep for folder, _, _ in firsts], pa.string())
        return shown.add_column(3, "folder", folders)

    @functools.cached_property
    def rows(self) -> Rows:
        """All rows, removed items' too, in the order they were written."""
        before, files = self._since("rows")
        if before is None:
            columns = tables.rows_schema(self.dim).empty_table().drop_columns(["embedding"])
            known = Rows(columns, [], self.dim)
        else:
            known = before
            self._num_kept["rows"] = len(before)
        with self._or_damaged(files):
            parts = [tables.read_mapped(self.path_of(file), self.dim) for file in files]
            matrices = [matrix for _, some in parts for matrix in some]
            return known.followed_by([columns for columns, _ in parts], matrices)

    @functools.cached_property
    def grids(self) -> Grids:
        """The time grids of all videos, removed ones too."""
        files = self.manifest.of("grid")
        coded = ["content_hash"]
        with self._or_damaged(files):
            return Grids(
                [tables.read_mapped(self.path_of(file), self.dim, coded) for file in files]
            )

    @contextlib.contextmanager
    def _or_damaged(self, files: Sequence[StoredFile]) -> Iterator[None]:
        """Whatever goes wrong in here, raise CollectionDamaged where one of the files is."""
        try:
            yield
        except CollectionDamaged:
            raise
        except Exception:  # what is damaged and was not compared can end in any
            for file in files:
                self._compare(file, whole=True)
            raise

    def cuts_of(self, content_hash: str) -> list[float] | None:
        """When the picture of a video changes at once, in seconds; None where it is not known."""
        place = self._with_cuts.get(content_hash)
        found: list[float] | None = None if place is None else self.items["cuts"][place].as_py()
        return found

    @functools.cached_property
    def _with_cuts(self) -> dict[str, int]:
        """Where in `items` the videos are whose cuts are known."""
        if "cuts" not in self.items.column_names:  # written before cuts were looked for
            return {}
        places = np.flatnonzero(pc.is_valid(self.items["cuts"]).to_numpy())
        hashes = self.items["content_hash"].take(pa.array(places)).to_pylist()
        return dict(zip(hashes, places.tolist(), strict=True))

    @functools.cached_property
    def searchable(self) -> NDArray[np.int64]:
        """Positions of the rows that a search ranks: pictures and segments, not removed."""
        is_searched = np.isin(self.rows.scope, tables.SEARCHED)
        return np.flatnonzero((self.item_of_row >= 0) & is_searched)

    def parted(
        self, positions: NDArray[np.int64], row_id: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows at `positions` parted in two: the positions of those with this id or a later
        one, and the ids of those before.

        For `searchable` they are worked out once, and the arrays are the same at every call.
        """
        if positions is self.searchable and row_id in self._parted:
            return self._parted[row_id]
        row_ids = self.rows.row_id[positions]
        is_later = row_ids >= row_id
        parted = positions[is_later], row_ids[~is_later]
        if positions is self.searchable:
            self._parted[row_id] = parted
        return parted

    @functools.cached_property
    def item_of_row(self) -> NDArray[np.int64]:
        """For every row the position of its item in `live_items`; -1 where that is removed."""
        hashes, live = self.rows.content_hash, self.live_items
        if self._added is not None and "rows" in self._num_kept:
            before, known, new = self._added
            places = _places(hashes.slice(len(known)), new)
            if (places >= 0).all():
                return np.concatenate([known, places + before.num_rows])
        return _places(hashes, live)


def _live(items: pa.Table, paths: pa.Table) -> pa.Table:
    """The items that were ingested and are at one of the paths."""
    at_a_path = paths.filter(pc.equal(paths["outcome"], "ingested"))["content_hash"]
    live = pc.and_(
        pc.is_in(items["content_hash"], value_set=at_a_path),
        pc.equal(items["outcome"], "ingested"),
    )
    return items.filter(live)


def _places(hashes: pa.ChunkedArray, items: pa.Table) -> NDArray[np.int64]:
    place = pc.index_in(hashes, value_set=items["content_hash"])
    return np.asarray(pc.fill_null(place, -1).to_numpy(), np.int64)


def latest(parts: Sequence[pa.Table], key: str) -> pa.Table:
    """One table of the last record of every key, in the order of those.

    Args:
        parts: from the oldest to the newest; of a key those in the last part that has any are kept.
        key: the column.
    """
    kept: list[pa.Table] = []
    later = pa.chunked_array([], parts[0][key].type)
    for part in reversed(parts):  # the newer are the smaller: few keys are looked up
        keys = part[key]
        if len(later):
            is_replaced = pc.is_in(keys, value_set=later)
            if pc.any(is_replaced).as_py():
                part = part.filter(pc.invert(is_replaced))
        kept.append(part)
        later = pa.chunked_array([*later.chunks, *keys.chunks], keys.type)
    table = pa.concat_tables(reversed(kept), promote_options="permissive")
    return table if table[key].num_chunks <= _FEW_CHUNKS else table.combine_chunks()
