"""The collection's tables as Parquet: schemas, writing, reading; knows no collection.

Embeddings are one uncompressed PLAIN page per row group, so that the last `rows x dim x 2` bytes
of their column chunk are the matrix itself and can be memory-mapped. Every page has a checksum, and
since a page of embeddings is too large to be read for one of them, so has every embedding.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

ROWS_PER_GROUP = 65_536

_FOOTER_END = 8
"""Bytes behind the metadata: their length in 4, and `PAR1`."""

_SINGLE_PAGE = {b"perception_search": b"embedding: one plain page a row group"}

SCOPES = ("image", "segment", "video")
IMAGE, SEGMENT, VIDEO = range(len(SCOPES))
SEARCHED = (IMAGE, SEGMENT)
"""Scopes that a search ranks, and an index holds."""

ITEM_FIELDS = [
    pa.field("content_hash", pa.string(), nullable=False),
    pa.field("kind", pa.string()),
    pa.field("size_bytes", pa.int64()),
    pa.field("modified_at", pa.timestamp("us")),
    pa.field("taken_at", pa.timestamp("us")),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("duration_seconds", pa.float64()),
    pa.field("camera", pa.string()),
    pa.field("latitude", pa.float64()),
    pa.field("longitude", pa.float64()),
    pa.field("outcome", pa.string(), nullable=False),
    pa.field("reason", pa.string()),
    pa.field("decoder", pa.string()),
    pa.field("cuts", pa.list_(pa.float64())),
]

HIDDEN_ITEM_FIELDS = ("decoder", "cuts")
"""What a filter does not see."""

PATHS = pa.schema(
    [
        pa.field("path", pa.binary(), nullable=False),
        pa.field("size_bytes", pa.int64()),
        pa.field("modified_ns", pa.int64()),
        pa.field("inode", pa.uint64()),
        pa.field("content_hash", pa.string()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
    ]
)

CAPTIONS = pa.schema(
    [
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("created_at", pa.timestamp("us"), nullable=False),
        pa.field("start_seconds", pa.float64()),
        pa.field("end_seconds", pa.float64()),
    ]
)
"""An item has none, one or several; times are null where one is of the whole item."""


_CHECKSUM = pa.field("checksum", pa.uint64(), nullable=False)


def _embedding_fields(dim: int) -> list[pa.Field]:
    element = pa.field("element", pa.float16(), nullable=False)
    return [_CHECKSUM, pa.field("embedding", pa.list_(element, dim), nullable=False)]


def rows_schema(dim: int) -> pa.Schema:
    """Rows: what is searched. Times are null for images."""
    return pa.schema(
        [
            pa.field("row_id", pa.int64(), nullable=False),
            pa.field("content_hash", pa.string(), nullable=False),
            pa.field("scope", pa.string(), nullable=False),
            pa.field("start_seconds", pa.float64()),
            pa.field("end_seconds", pa.float64()),
            pa.field("num_frames", pa.int32(), nullable=False),
            pa.field("norm", pa.float32(), nullable=False),
            *_embedding_fields(dim),
        ],
        metadata=_SINGLE_PAGE,
    )


def grid_schema(dim: int) -> pa.Schema:
    """Grid: the unit embedding of every frame on a video's time grid, in order."""
    return pa.schema(
        [
            pa.field("content_hash", pa.string(), nullable=False),
            pa.field("pts_seconds", pa.float64(), nullable=False),
            pa.field("norm", pa.float32(), nullable=False),
            *_embedding_fields(dim),
        ],
        metadata=_SINGLE_PAGE,
    )


def schema_of(table: str, dim: int) -> pa.Schema:
    """The schema of `rows` or `grid`."""
    return rows_schema(dim) if table == "rows" else grid_schema(dim)


def is_schema_of(schema: pa.Schema, table: str, dim: int) -> bool:
    """Whether it is, or was before embeddings had checksums."""
    ours = schema_of(table, dim)
    return bool(schema in (ours, ours.remove(ours.get_field_index(_CHECKSUM.name))))


def embedding_arrays(matrix: NDArray[np.float16]) -> list[pa.Array]:
    """A matrix (N, dim) as the last columns of the schemas above: checksums, and embeddings."""
    checksum, embedding = _embedding_fields(matrix.shape[1])
    flat = pa.array(np.ascontiguousarray(matrix).reshape(-1))
    return [
        pa.array(checksums(matrix), checksum.type),
        pa.FixedSizeListArray.from_arrays(flat, type=embedding.type),
    ]


def checksums(matrix: NDArray[np.float16]) -> NDArray[np.uint64]:
    """One number of each row (N, dim): the sum of its 64-bit words, each times an odd number of its
    own, modulo 2^64. No change within one word leaves it the same.

    Words are of 16 bits where a row is no whole number of 64-bit ones. It takes as long as reading
    the rows from memory, a hundredth of what SHA-256 takes.
    """
    word = np.uint64 if matrix.shape[1] % 4 == 0 else np.uint16
    words = np.ascontiguousarray(matrix).view(word).astype(np.uint64, copy=False)
    odd = 2 * np.arange(words.shape[1], dtype=np.uint64) + 1
    sums: NDArray[np.uint64] = np.einsum("ij,j->i", words, odd)
    return sums


def write(file: BinaryIO, schema: pa.Schema, parts: Iterable[pa.Table]) -> int:
    """Write `parts` one after the other as row groups of at most 65,536; returns the rows."""
    plain = [name for name in schema.names if name != "embedding"]
    compression = dict.fromkeys(plain, "zstd")
    if "embedding" in schema.names:
        compression["embedding.list.element"] = "none"
    num_rows = 0
    with pq.ParquetWriter(
        file,
        schema,
        compression=compression,
        use_dictionary=[name for name in plain if name not in ("row_id", "checksum")],
        write_statistics=list(plain),
        write_page_checksum=True,
        data_page_size=2**31 - 1,
        max_rows_per_page=ROWS_PER_GROUP,
    ) as writer:
        for part in regroup(parts):
            writer.write_table(part, row_group_size=ROWS_PER_GROUP)
            num_rows += part.num_rows
    return num_rows


def regroup(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of exactly 65,536, but for the last: never more in memory."""
    waiting: list[pa.Table] = []
    num_waiting = 0
    for part in parts:
        while num_waiting + part.num_rows >= ROWS_PER_GROUP:
            taken = ROWS_PER_GROUP - num_waiting
            yield pa.concat_tables([*waiting, part.slice(0, taken)]).combine_chunks()
            part = part.slice(taken)
            waiting, num_waiting = [], 0
        if part.num_rows:
            waiting.append(part)
            num_waiting += part.num_rows
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def read(
    path: Path, columns: list[str] | None = None, coded: Sequence[str] | None = None
) -> pa.Table:
    """The table in `path`, page checksums verified.

    Args:
        path: the file.
        columns: those wanted; None for all.
        coded: columns to be read as dictionary arrays: few values, often repeated.
    """
    with _opened(path, coded) as file:
        return with_checksums(file.read(columns=columns))


def _opened(path: Path, coded: Sequence[str] | None = None) -> pq.ParquetFile:
    return pq.ParquetFile(
        path, page_checksum_verification=True, memory_map=True, read_dictionary=list(coded or ())
    )


def groups(path: Path) -> Iterator[pa.Table]:
    """The table in `path` a row group at a time, page checksums verified."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for number in range(file.num_row_groups):
            yield with_checksums(file.read_row_group(number))


def footer_sha256(path: Path) -> str:
    """SHA-256, in hex, of the end of a Parquet file, which says how to read the rest.

    It has no checksum of its own, and what parses a damaged one may end the process.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _FOOTER_END))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size - _FOOTER_END - length))
        return hashlib.sha256(file.read()).hexdigest()


def without(table: pa.Table, content_hashes: pa.Array) -> pa.Table:
    """The records of a table, in order, but for those of some contents."""
    return table.filter(pc.invert(pc.is_in(table["content_hash"], value_set=content_hashes)))


def with_checksums(table: pa.Table) -> pa.Table:
    """The same with checksums where it has embeddings and was written before they had any."""
    if "embedding" not in table.column_names or _CHECKSUM.name in table.column_names:
        return table
    sums = checksums(matrix_of(table))
    return table.add_column(table.num_columns - 1, _CHECKSUM, pa.array(sums))


def matrix_of(table: pa.Table) -> NDArray[np.float16]:
    """The embeddings (N, dim) of a table that has them."""
    column = table["embedding"].combine_chunks()
    matrix: NDArray[np.float16] = column.flatten().to_numpy()
    return matrix.reshape(table.num_rows, column.type.list_size)


def read_mapped(
    path: Path, dim: int, coded: Sequence[str] | None = None
) -> tuple[pa.Table, list[NDArray[np.float16]]]:
    """The table of rows or grids in `path` without its embeddings, and these as `map_embeddings`
    gives them: not compared with their checksums.
    """
    with _opened(path, coded) as file:
        names = file.schema_arrow.names
        if _CHECKSUM.name in names:
            table = file.read(columns=[name for name in names if name != "embedding"])
        else:  # of what the page's checksum says is whole
            table = with_checksums(file.read()).drop_columns(["embedding"])
        return table, _mapped(file, path, dim)


def map_embeddings(path: Path, dim: int) -> list[NDArray[np.float16]]:
    """The embedding column as matrices (n, dim), one a row group, memory-mapped where possible.

    A file written otherwise than by `write` (compressed, or in several pages) is read instead.
    """
    with _opened(path) as file:
        return _mapped(file, path, dim)


def _mapped(file: pq.ParquetFile, path: Path, dim: int) -> list[NDArray[np.float16]]:
    matrices: list[NDArray[np.float16]] = []
    column = file.schema_arrow.get_field_index("embedding")
    single_page = (file.schema_arrow.metadata or {}).items() >= _SINGLE_PAGE.items()
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        chunk = group.column(column)  # one leaf a column here, so the numbers agree
        num_bytes = group.num_rows * dim * 2
        if single_page:
            offset = chunk.data_page_offset + chunk.total_compressed_size - num_bytes
            matrices.append(np.memmap(path, np.float16, "r", offset, (group.num_rows, dim)))
        else:
            matrices.append(matrix_of(file.read_row_group(number, columns=["embedding"])))
    return matrices
