"""Embeddings as other programs lay them down: clip-retrieval's folders, and Parquet.

clip-retrieval (and autofaiss, which builds indexes of the same folders) keeps `img_emb/*.npy`,
float16 or float32 (N, dim), and beside each the file of `metadata/` with N rows, of which
`image_path` names the picture. A Parquet file has one column of vectors and one of paths; pandas,
DuckDB and LanceDB take it as it is.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from perception_search.errors import ExportError
from perception_search.media import display
from perception_search.search import eligible_rows
from perception_search.snapshot import Snapshot

FORMATS = ("clip-retrieval", "parquet")
ROWS_PER_FILE = 250_000
_AT_ONCE = 16_384
_EMBEDDINGS, _METADATA = "img_emb", "metadata"
_PATH_COLUMNS = ("image_path", "path", "url")
_READ_ROWS = 8192


class Given(NamedTuple):
    """Some rows of another program: paths, and embeddings (N, dim) as they were stored."""

    paths: list[str]
    embeddings: NDArray[np.floating]


def write(
    snapshot: Snapshot,
    to: Path,
    form: str,
    condition: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write every row that is searched, pictures and segments; returns how many.

    Columns beside the embedding: `image_path`, `kind`, `content_hash`, `row_id` and, for segments,
    `start_seconds` and `end_seconds`. Embeddings have unit length; clip-retrieval's are float16 as
    they are stored, Parquet's float32, which more programs read.

    Args:
        snapshot: the version.
        to: a folder for clip-retrieval, a file for Parquet; must not exist.
        form: one of `FORMATS`.
        condition: a filter over the item columns, in SQL.
        on_progress: called with (rows written, rows in all).

    Raises:
        ExportError: `to` exists, or there is no such format.
        QueryError: `condition` cannot be used.
    """
    if form not in FORMATS:
        raise ExportError(f"no format {form!r}; there are {', '.join(FORMATS)}")
    if to.exists():
        raise ExportError(f"{display(to)} exists already; name another place")
    positions = eligible_rows(snapshot, condition)
    part = to.with_name(f".{to.name}.part")
    _remove(part)
    write_all = _write_clip_retrieval if form == "clip-retrieval" else _write_parquet
    try:
        for num_rows in write_all(snapshot, positions, part):
            if on_progress is not None:
                on_progress(num_rows, len(positions))
        part.rename(to)
    finally:
        _remove(part)
    return len(positions)


def _write_parquet(snapshot: Snapshot, positions: NDArray[np.int64], file: Path) -> Iterator[int]:
    """The number of rows written so far, now and then."""
    num_rows = 0
    with pq.ParquetWriter(file, _schema(snapshot.dim)) as writer:
        for batch in _batches(snapshot, positions):
            writer.write_table(batch)
            num_rows += batch.num_rows
            yield num_rows


def _write_clip_retrieval(
    snapshot: Snapshot, positions: NDArray[np.int64], folder: Path
) -> Iterator[int]:
    """The number of rows written so far, now and then."""
    for name in (_EMBEDDINGS, _METADATA):
        (folder / name).mkdir(parents=True)
    firsts = range(0, len(positions), ROWS_PER_FILE)
    digits = len(str(max(0, len(firsts) - 1)))  # other readers sort by name
    for number, first in enumerate(firsts):
        some = positions[first : first + ROWS_PER_FILE]
        place = folder / _EMBEDDINGS / f"{_EMBEDDINGS}_{number:0{digits}}.npy"
        matrix = np.lib.format.open_memmap(place, "w+", np.float16, (len(some), snapshot.dim))
        for start in range(0, len(some), _AT_ONCE):
            stretch = some[start : start + _AT_ONCE]
            matrix[start : start + len(stretch)] = snapshot.rows.embeddings(stretch)
            yield first + start + len(stretch)
        matrix.flush()
        metadata = folder / _METADATA / f"{_METADATA}_{number:0{digits}}.parquet"
        pq.write_table(_columns(snapshot, some), metadata)


def _columns(snapshot: Snapshot, positions: NDArray[np.int64]) -> pa.Table:
    rows = snapshot.rows
    items = snapshot.item_of_row[positions]
    paths = [display(path) for path in snapshot.first_paths(items)]
    return pa.table(
        {
            "image_path": pa.array(paths, pa.string()),
            "kind": snapshot.live_items["kind"].take(pa.array(items)),
            "content_hash": snapshot.live_items["content_hash"].take(pa.array(items)),
            "row_id": pa.array(rows.row_id[positions]),
            "start_seconds": pa.array(rows.start_seconds[positions], from_pandas=True),
            "end_seconds": pa.array(rows.end_seconds[positions], from_pandas=True),
        }
    )


def _batches(snapshot: Snapshot, positions: NDArray[np.int64]) -> Iterator[pa.Table]:
    schema = _schema(snapshot.dim)
    for first in range(0, len(positions), _AT_ONCE):
        some = positions[first : first + _AT_ONCE]
        flat = pa.array(snapshot.rows.embeddings(some).reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(flat, snapshot.dim)
        yield _columns(snapshot, some).append_column("embedding", vectors).cast(schema)


def _schema(dim: int) -> pa.Schema:
    return pa.schema(
        [
            pa.field("image_path", pa.string()),
            pa.field("kind", pa.string()),
            pa.field("content_hash", pa.string()),
            pa.field("row_id", pa.int64()),
            pa.field("start_seconds", pa.float64()),
            pa.field("end_seconds", pa.float64()),
            pa.field("embedding", pa.list_(pa.float32(), dim)),
        ]
    )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read(source: Path) -> Iterator[Given]:
    """The rows of a clip-retrieval folder, a Parquet file or a folder of those, in order.

    Raises:
        ValueError: it is none of these, or embeddings and paths do not belong together.
    """
    if (source / _EMBEDDINGS).is_dir():
        yield from _read_clip_retrieval(source)
        return
    files = [source] if source.is_file() else _in_order(source, ".parquet")
    if not files or any(file.suffix != ".parquet" for file in files):
        raise ValueError(
            f"{display(source)} holds no embeddings; give a folder with {_EMBEDDINGS}/ and "
            f"{_METADATA}/ as clip-retrieval writes it, or Parquet with paths and vectors"
        )
    for file in files:
        yield from _read_parquet(file)


def _read_clip_retrieval(folder: Path) -> Iterator[Given]:
    matrices = _in_order(folder / _EMBEDDINGS, ".npy")
    metadata = _in_order(folder / _METADATA, ".parquet")
    if len(matrices) != len(metadata):
        raise ValueError(
            f"{display(folder)}: {len(matrices)} files of embeddings in {_EMBEDDINGS}/ and "
            f"{len(metadata)} of paths in {_METADATA}/; there must be as many"
        )
    for file, beside in zip(matrices, metadata, strict=True):
        try:
            matrix = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{display(file)} is no array of numbers: {error}") from error
        if matrix.ndim != 2 or matrix.dtype.kind != "f":
            raise ValueError(
                f"{display(file)} holds {matrix.dtype} of shape {matrix.shape}, not vectors"
            )
        column = _path_column(beside)
        paths: list[str] = _opened(beside).read(columns=[column])[column].to_pylist()
        if len(paths) != len(matrix):
            raise ValueError(
                f"{display(file)} holds {len(matrix)} embeddings, {display(beside)} {len(paths)} "
                "rows; they must be the same pictures in the same order"
            )
        for first in range(0, len(paths), _READ_ROWS):
            some = slice(first, first + _READ_ROWS)
            yield Given(paths[some], np.asarray(matrix[some]))


def _read_parquet(file: Path) -> Iterator[Given]:
    opened = _opened(file)
    vectors = [
        field.name
        for field in opened.schema_arrow
        if pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type)
        if pa.types.is_floating(field.type.value_type)
    ]
    if len(vectors) != 1:
        raise ValueError(
            f"{display(file)} has {len(vectors)} columns of vectors ({', '.join(vectors)}); "
            "there must be one"
        )
    column = _path_column(file)
    for batch in opened.iter_batches(_READ_ROWS, columns=[column, vectors[0]]):
        array = batch[vectors[0]]
        if array.null_count:
            raise ValueError(f"{display(file)} has rows without an embedding")
        flat = array.flatten().to_numpy(zero_copy_only=False)
        if len(flat) % max(1, len(array)):
            raise ValueError(f"{display(file)} has embeddings of several lengths")
        yield Given(batch[column].to_pylist(), flat.reshape(len(array), -1))


def _opened(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{display(file)} is no Parquet file: {error}") from error


def _path_column(file: Path) -> str:
    names = _opened(file).schema_arrow.names
    for name in _PATH_COLUMNS:
        if name in names:
            return name
    raise ValueError(
        f"{display(file)} names no pictures: it has the columns {', '.join(names)}, "
        f"and one of {', '.join(_PATH_COLUMNS)} is needed"
    )


def _in_order(folder: Path, suffix: str) -> list[Path]:
    """The files in order of the numbers in their names: 2 before 10."""
    if not folder.is_dir():
        return []

    def key(path: Path) -> str:
        return re.sub(r"\d+", lambda number: number[0].zfill(20), path.stem)

    return sorted((path for path in folder.iterdir() if path.suffix == suffix), key=key)
