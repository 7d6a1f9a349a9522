"""The collection's tables as Parquet: schemas, writing, reading; knows no collection.

Embeddings are one uncompressed PLAIN page per row group, so that the last `rows x dim x 2` bytes
of their column chunk are the matrix itself and can be memory-mapped. Every page has a checksum.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

ROWS_PER_GROUP = 65_536

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


def _embedding_field(dim: int) -> pa.Field:
    element = pa.field("element", pa.float16(), nullable=False)
    return pa.field("embedding", pa.list_(element, dim), nullable=False)


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
            _embedding_field(dim),
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
            _embedding_field(dim),
        ],
        metadata=_SINGLE_PAGE,
    )


def schema_of(table: str, dim: int) -> pa.Schema:
    """The schema of `rows` or `grid`."""
    return rows_schema(dim) if table == "rows" else grid_schema(dim)


def embedding_array(matrix: NDArray[np.float16]) -> pa.Array:
    """A matrix (N, dim) as the column that the schemas above hold."""
    flat = pa.array(np.ascontiguousarray(matrix).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=_embedding_field(matrix.shape[1]).type)


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
        use_dictionary=[name for name in plain if name != "row_id"],
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
    coded = list(coded or ())
    with pq.ParquetFile(
        path, page_checksum_verification=True, memory_map=True, read_dictionary=coded
    ) as file:
        return file.read(columns=columns)


def groups(path: Path) -> Iterator[pa.Table]:
    """The table in `path` a row group at a time, page checksums verified."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number)


def map_embeddings(path: Path, dim: int) -> list[NDArray[np.float16]]:
    """The embedding column as matrices (n, dim), one a row group, memory-mapped where possible.

    A file written otherwise than by `write` (compressed, or in several pages) is read instead.
    """
    matrices: list[NDArray[np.float16]] = []
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
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
                values = file.read_row_group(number, columns=["embedding"])["embedding"]
                flat = values.combine_chunks().flatten().to_numpy()
                matrices.append(flat.reshape(group.num_rows, dim))
    return matrices
