"""What can still be read of a table's file that is not what was written; changes nothing.

Every page of a column has a checksum of its own (`tables.write`), so of a file with a damaged page
the others are as they were written. A row group is kept where every column that matters can be
read; another column of it that cannot is left empty, and of embeddings, which have a checksum each,
the rows are kept that are whole. Nothing is kept where the footer is another, or where no page is
found to be damaged: then it is what stands before a page and says how to read it.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from perception_search import durable, manifest, tables
from perception_search.manifest import StoredFile

_NEEDED = {
    "items": ("content_hash", "kind", "outcome"),
    "paths": ("path", "content_hash", "outcome"),
}
"""Columns without which a record says nothing; of other tables all are needed."""
_HASH = "^[0-9a-f]{64}$"


class Salvaged(NamedTuple):
    """What was read of a file.

    Attributes:
        parts: its whole row groups, or the whole rows of them.
        lost_columns: columns that could not be read in one of them, and are empty there.
        lost_contents: the content hashes of the rows that are lost; None where nobody knows.
    """

    parts: list[pa.Table]
    lost_columns: frozenset[str]
    lost_contents: frozenset[str] | None

    @property
    def num_rows(self) -> int:
        """Records that were read."""
        return sum(part.num_rows for part in self.parts)


NOTHING = Salvaged([], frozenset(), None)


def salvage(folder: Path, stored: StoredFile, dim: int) -> Salvaged:
    """What of a damaged file is as it was written.

    Args:
        folder: the collection.
        stored: the file, of any table; it may be missing.
        dim: of the embeddings.
    """
    path, table = folder / stored.name, stored.table
    parts, lost_columns = [], set()
    lost_contents: set[str] | None = set()
    is_explained = False
    try:
        if stored.footer_sha256 and tables.footer_sha256(path) != stored.footer_sha256:
            return NOTHING
        is_explained = durable.sha256_of(path) == stored.sha256  # whole, and wrong all the same
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            schema = file.schema_arrow
            needed = _NEEDED.get(table, tuple(schema.names))
            has_embeddings = table in ("rows", "grid")
            if has_embeddings and not tables.is_schema_of(schema, table, dim):
                return NOTHING
            matrices = tables.map_embeddings(path, dim) if has_embeddings else []
            for number in range(file.num_row_groups):
                part, missing = _group(file, number, schema)
                is_explained = is_explained or bool(missing)
                some: set[str] = set()
                if has_embeddings and part is not None:
                    part, missing, some = _whole_rows(part, missing, matrices[number])
                if missing.intersection(needed) or part is None or not _is_sound(part, table):
                    lost_contents = None
                    continue
                lost_columns |= missing
                if lost_contents is not None:
                    lost_contents |= some
                if part.num_rows:
                    parts.append(part)
    except (OSError, ValueError, OverflowError, pa.ArrowException):
        lost_contents = None  # nothing more can be read
    if not is_explained:
        return NOTHING
    known = None if lost_contents is None else frozenset(lost_contents)
    return Salvaged(parts, frozenset(lost_columns), known)


def _whole_rows(
    part: pa.Table, missing: set[str], matrix: NDArray[np.float16]
) -> tuple[pa.Table, set[str], set[str]]:
    """Of a row group the rows whose embedding is whole, the columns that are still missing, and the
    contents of the other rows.

    One of the two, embeddings and their checksums, is enough to tell: the other page is damaged.

    Args:
        part: as `_group` gives it.
        missing: its columns that could not be read.
        matrix: its embeddings as they are on disk.
    """
    if "checksum" not in part.column_names:  # written before there were any
        return part if missing else tables.with_checksums(part), missing, set()
    if missing == {"checksum"}:
        return tables.with_checksums(part.drop_columns(["checksum"])), set(), set()
    if missing - {"embedding"}:
        return part, missing, set()
    place = part.schema.get_field_index("embedding")
    field = part.schema.field(place).with_nullable(False)
    part = part.set_column(place, field, tables.embedding_arrays(matrix)[1])
    is_whole = tables.checksums(matrix) == part["checksum"].to_numpy()
    lost = part["content_hash"].filter(pa.array(~is_whole)).unique().to_pylist()
    return part.filter(pa.array(is_whole)), set(), set(lost)


def _group(
    file: pq.ParquetFile, number: int, schema: pa.Schema
) -> tuple[pa.Table | None, set[str]]:
    """One row group, and the columns that could not be read and are empty in it."""
    num_rows = file.metadata.row_group(number).num_rows
    columns, missing = {}, set()
    for field in schema:
        try:
            read = file.read_row_group(number, columns=[field.name])[field.name]
            if len(read) != num_rows:
                raise ValueError("it holds another number of values")
            columns[field.name] = read
        except (OSError, ValueError, KeyError, OverflowError, pa.ArrowException):
            missing.add(field.name)
    if not columns:
        return None, missing
    for name in missing:
        columns[name] = pa.nulls(num_rows, schema.field(name).type)
    fields = [
        schema.field(name).with_nullable(True) if name in missing else schema.field(name)
        for name in schema.names
    ]
    whole = pa.schema(fields, schema.metadata)
    return pa.table([columns[name] for name in schema.names], schema=whole), missing


def _is_sound(part: pa.Table, table: str) -> bool:
    """Whether the values can be what was written: a second look, after the checksums."""
    names = part.column_names
    if table != "paths" and "content_hash" in names:
        hashes = pc.match_substring_regex(part["content_hash"], _HASH)
        if not pc.all(hashes, min_count=0, skip_nulls=False).as_py():
            return False
    if table == "rows" and not pc.all(
        pc.is_in(part["scope"], value_set=pa.array(tables.SCOPES)), min_count=0
    ):
        return False
    if table in ("rows", "grid"):
        lengths = np.linalg.norm(tables.matrix_of(part).astype(np.float32), axis=1)
        return bool((np.abs(lengths - 1) < 0.01).all())
    return True


def unnamed(folder: Path, table: str, named: set[str]) -> list[Path]:
    """Whole files of a table that are not among the named, oldest first.

    A file is whole when its SHA-256 is its name: what a lost version held, or an older one.

    Args:
        folder: the collection.
        table: the table.
        named: SHA-256 of the files that are known already.
    """
    found = []
    for path in (folder / table).glob("*.parquet"):
        try:
            if path.stem not in named and durable.sha256_of(path) == path.stem:
                found.append((path.stat().st_mtime_ns, path))
        except OSError:
            continue  # what cannot be read helps nobody
    return [path for _, path in sorted(found)]


def readable_version(folder: Path, below: int) -> manifest.Manifest | None:
    """The newest version under `below` of which a copy is whole."""
    for version in reversed(manifest.versions(folder)):
        for copy in manifest.COPIES:
            if version < below:
                try:
                    return manifest.read_copy(folder, version, copy)
                except (OSError, ValueError):
                    continue
    return None
