"""A FAISS index over a collection's rows: build, save, open, search.

An index is a cache of the truth, which is the Parquet rows: it may be deleted at any time, it may
miss, but scores always come from the stored embeddings. It holds the rows with an id below
`next_row_id`; newer ones are scanned exactly by the caller. Knows no items and no queries in words.
"""

import hashlib
import json
import math
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_search import durable
from perception_search.errors import MissingExtra, QueryError
from perception_search.recipe import Recipe, recipes
from perception_search.rows import Rows

FOLDER = "index"
CURRENT = "current.json"
UNWANTED = "exact"
NUM_KNOWN_ANSWERS = 4
HASH_LIMIT_BYTES = 1 << 27
"""Smaller index files are compared with their hash when opened (0.1 s); larger ones meanwhile."""
TRAINING_ROWS = 200_000
SAME_ANSWERS = 0.5
"""Known answers that must come again: processors round codes differently, damage shows in many."""
_KNOWN_K = 10


def recipe(name: str) -> Recipe:
    """The recipe of this name, or a FAISS factory string as a recipe of its own.

    Raises:
        ValueError: it is neither.
    """
    known = recipes()
    if name in known:
        return known[name]
    faiss = _faiss()
    try:
        faiss.index_factory(64, name, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ValueError(
            f"{name!r} is neither a recipe ({', '.join(known)}) nor a string that "
            f"faiss.index_factory takes, such as HNSW32"
        ) from error
    return Recipe(name=name, factory=name, search=_searched_by(name))


def _searched_by(factory: str) -> dict[str, int]:
    """What says how thoroughly such an index is searched, for `tune` to choose."""
    if "IVF" in factory:
        return {"nprobe": 16}
    return {"efSearch": 64} if "HNSW" in factory else {}


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra(
            "An index needs FAISS: pip install 'perception-search[cpu]', or, where there is CUDA, "
            "'perception-search[gpu]'; one of the two, never both. Search is exact without it."
        ) from error
    return faiss


@dataclass(frozen=True)
class IndexRecord:
    """What `index/current.json` says of the index beside it.

    Attributes:
        sha256: of the index file, which is named by it.
        size_bytes: of the index file.
        dim: length of an embedding.
        num_rows: rows in the index.
        next_row_id: it holds rows with ids below this one.
        version: of the collection when it was built.
        recipe: how it was built, and is searched.
        known_answers: row id of a stored embedding to the ids it finds.
        recall: by kind of query, the share of the ten best rows that it was seen to find; empty
            where it was not measured.
        wanted_recall: what it was tuned to find; 0 where it was not.
        num_trained_rows: rows there were when it was built; others were added since.
    """

    sha256: str
    size_bytes: int
    dim: int
    num_rows: int
    next_row_id: int
    version: int
    recipe: Recipe
    known_answers: Mapping[str, list[int]]
    recall: Mapping[str, float] = field(default_factory=dict)
    wanted_recall: float = 0.0
    num_trained_rows: int = 0

    def encode(self) -> bytes:
        """JSON with a checksum of itself."""
        body = json.dumps(asdict(self), sort_keys=True).encode()
        return _sealed(body)

    @staticmethod
    def decode(content: bytes) -> "IndexRecord":
        """The record in `content`; ValueError when a byte is not as it was written."""
        body, _, _ = content.removeprefix(_OPENING).rpartition(_CLOSING)
        if _sealed(body) != content:
            raise ValueError("its checksum does not match")
        try:
            fields = json.loads(body)
            return IndexRecord(**{**fields, "recipe": Recipe(**fields["recipe"])})
        except (KeyError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(f"not an index record: {error}") from error


_OPENING, _CLOSING = b'{"body":', b',"sha256":"'


def _sealed(body: bytes) -> bytes:
    return _OPENING + body + _CLOSING + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def read_record(folder: Path) -> IndexRecord | None:
    """The record of the collection's index; None where there is none.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return IndexRecord.decode((folder / FOLDER / CURRENT).read_bytes())
    except FileNotFoundError:
        return None


def path_of(folder: Path, record: IndexRecord) -> Path:
    """Where the index file lies."""
    return folder / FOLDER / f"{record.sha256}.faiss"


def build(
    folder: Path,
    rows: Rows,
    positions: NDArray[np.int64],
    chosen: Recipe,
    *,
    next_row_id: int,
    version: int,
) -> "Index":
    """Build an index of the rows at `positions` and make it the collection's; it is open.

    Args:
        folder: the collection; its writer lock is held by the caller.
        rows: where the embeddings are.
        positions: the rows to index.
        chosen: the recipe.
        next_row_id: of the version that `rows` belongs to.
        version: of the collection.

    Raises:
        ValueError: there is nothing to index, or the recipe wants more rows than there are.
        OSError: the disk is full; the index before, if any, stays.
    """
    if chosen.metric != "inner_product":
        raise ValueError(f"recipe {chosen.name}: metric {chosen.metric!r}; only 'inner_product'")
    if not len(positions):
        raise ValueError("there is no row to index yet: ingest something first")
    faiss = _faiss()
    chosen = chosen.for_rows(len(positions), rows.dim)
    index = faiss.index_factory(rows.dim, chosen.factory, faiss.METRIC_INNER_PRODUCT)
    parameters = faiss.ParameterSpace()
    for name, value in chosen.build.items():
        parameters.set_index_parameter(index, name, value)
    if not index.is_trained:
        sample = positions[:: max(1, len(positions) // TRAINING_ROWS)]
        try:
            index.train(rows.embeddings(sample))
        except RuntimeError as error:
            raise ValueError(
                f"recipe {chosen.name} cannot be trained on {len(sample)} rows: {error}"
            ) from error
    index = faiss.IndexIDMap2(index)
    _add(index, rows, positions)
    asked = positions[np.linspace(0, len(positions) - 1, NUM_KNOWN_ANSWERS).astype(np.int64)]
    record = IndexRecord(
        sha256="",
        size_bytes=0,
        dim=rows.dim,
        num_rows=len(positions),
        next_row_id=next_row_id,
        version=version,
        recipe=chosen,
        known_answers={str(row_id): [] for row_id in rows.row_id[asked].tolist()},
        num_trained_rows=len(positions),
    )
    return _publish(folder, index, record, rows)


def extend(
    folder: Path, rows: Rows, positions: NDArray[np.int64], *, next_row_id: int, version: int
) -> "Index":
    """Add the rows at `positions` to the collection's index, which learns nothing from them.

    Args:
        folder: the collection; its writer lock is held by the caller. It has an index.
        rows: where the embeddings are.
        positions: rows that are not in it.
        next_row_id: as for `build`.
        version: as for `build`.

    Raises:
        QueryError: the index file is not what was written.
        OSError: the disk is full; the index before stays.
    """
    record = read_record(folder)
    if record is None:
        raise QueryError(f"{folder} has no index to add to")
    path = path_of(folder, record)
    if durable.sha256_of(path) != record.sha256:
        raise QueryError(f"{path} does not hold what was written to it")
    index = _faiss().read_index(str(path))
    _add(index, rows, positions)
    record = replace(
        record,
        num_rows=record.num_rows + len(positions),
        next_row_id=next_row_id,
        version=version,
    )
    return _publish(folder, index, record, rows)


def _add(index: Any, rows: Rows, positions: NDArray[np.int64]) -> None:
    for first in range(0, len(positions), 65_536):
        some = positions[first : first + 65_536]
        index.add_with_ids(rows.embeddings(some), rows.row_id[some])


def _publish(folder: Path, index: Any, record: IndexRecord, rows: Rows) -> "Index":
    """Write an index and make it the collection's."""
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    durable.sweep(place)
    with durable.pending(place) as new:
        content = _faiss().serialize_index(index)
        new.file.write(memoryview(content))
        sha256 = new.sha256()
        new.publish(place / f"{sha256}.faiss")
    record = replace(record, sha256=sha256, size_bytes=len(content))
    opened = Index(record, index, place / f"{sha256}.faiss")
    write_record(folder, opened, rows)
    for path in place.iterdir():
        if path.name not in (CURRENT, f"{sha256}.faiss"):
            durable.remove(path)
    return opened


def write_record(folder: Path, index: "Index", rows: Rows, **changes: Any) -> None:
    """Make `index` the collection's, with these changes to its record.

    Args:
        folder: the collection; its writer lock is held by the caller.
        index: opened; its record is the new one afterwards.
        rows: where the embeddings are.
        changes: fields of `IndexRecord`.
    """
    index.record = replace(index.record, **changes)
    ids = np.array([int(row_id) for row_id in index.record.known_answers], np.int64)
    answers = index.search(rows.embeddings(rows.positions(ids)), _KNOWN_K)[:, :_KNOWN_K]
    known = {
        str(row_id): found[found >= 0].tolist()
        for row_id, found in zip(ids.tolist(), answers, strict=True)
    }
    index.record = replace(index.record, known_answers=known)
    durable.write(folder / FOLDER / CURRENT, index.record.encode())


def remove(folder: Path, *, for_good: bool = False) -> None:
    """Do without an index; the writer lock is held by the caller.

    Args:
        folder: the collection.
        for_good: also when the collection grows, until another is built; see `is_unwanted`.
    """
    place = folder / FOLDER
    for path in [place / CURRENT, *place.glob("*.faiss")]:
        durable.remove(path)
    if for_good:
        place.mkdir(exist_ok=True)
        durable.write(place / UNWANTED, b"")
    else:
        durable.remove(place / UNWANTED)


def is_unwanted(folder: Path) -> bool:
    """Whether the collection is to do without an index, however large it becomes."""
    return (folder / FOLDER / UNWANTED).exists()


class Index:
    """An index that was opened and answers; thread-safe to search."""

    def __init__(self, record: IndexRecord, index: Any, path: Path) -> None:
        self.record = record
        self._index = index
        self._path = path
        self._last_bitmap = np.zeros(0, np.int64), np.zeros(0, np.uint8)
        self.damaged = False

    def check_in_background(self) -> threading.Thread:
        """Compare the whole file with its hash once, without waiting; sets `damaged`."""

        def check() -> None:
            try:
                self.damaged = durable.sha256_of(self._path) != self.record.sha256
            except OSError:
                self.damaged = True

        thread = threading.Thread(target=check, daemon=True, name="index-check")
        thread.start()
        return thread

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        allowed_row_ids: NDArray[np.int64] | None = None,
        how: Recipe | None = None,
    ) -> NDArray[np.int64]:
        """The ids of rows near each query, best first as the index sees it.

        Args:
            queries: (Q, dim), unit embeddings.
            k: rows wanted.
            allowed_row_ids: the only ids that may be found; None for all.
            how: with other search parameters and candidates than the recipe's.

        Returns:
            (Q, C) int64, -1 behind the last: as many as the recipe's candidates for `k` rows,
            among which the best `k` should be.
        """
        faiss = _faiss()
        how = how or self.record.recipe
        k = min(k * how.candidates, self.record.num_rows)
        if allowed_row_ids is None:
            _, found = self._index.search(queries, k, params=self._parameters(k, how, 1.0))
            return np.asarray(found, np.int64)
        share = min(1.0, max(1, len(allowed_row_ids)) / self.record.num_rows)
        parameters = self._parameters(k, how, share)
        selector = faiss.IDSelectorBitmap(self._bitmap(allowed_row_ids))
        parameters.sel = selector
        _, found = self._index.search(queries, k, params=parameters)
        return np.asarray(found, np.int64)

    def _bitmap(self, row_ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """A bit for every id: one look-up answers for each row that a search visits.

        Kept for who gives the same array again, as all queries to one version do.
        """
        kept_for, bits = self._last_bitmap
        if kept_for is not row_ids:
            allowed = np.zeros(self.record.next_row_id, bool)
            allowed[row_ids] = True
            bits = np.packbits(allowed, bitorder="little")
            self._last_bitmap = row_ids, bits
        return bits

    def _parameters(self, k: int, how: Recipe, share: float) -> Any:
        """FAISS's parameters of a search for `k` rows of which a `share` may be found.

        The fewer may be, the wider they lie apart, and the more must be visited.
        """
        faiss = _faiss()
        inner = faiss.downcast_index(self._index.index)
        if isinstance(inner, faiss.IndexPreTransform):
            inner = faiss.downcast_index(inner.index)
        if isinstance(inner, faiss.IndexHNSW):
            # a search can only find what it visits, so it looks at least as wide as k
            width = max(how.search.get("efSearch", 16), 2 * k)
            return faiss.SearchParametersHNSW(efSearch=round(width / share))
        if isinstance(inner, faiss.IndexIVF):
            num_lists = round(how.search.get("nprobe", 1) / math.sqrt(share))
            return faiss.SearchParametersIVF(nprobe=min(num_lists, inner.nlist))
        return faiss.SearchParameters()


def open_index(folder: Path, rows: Rows) -> Index | None:
    """The collection's index, memory-mapped; None where there is none.

    Raises:
        QueryError: there is one, but it cannot be trusted: the sentence says why.
    """
    try:
        record = read_record(folder)
    except ValueError as error:
        raise QueryError(f"{folder / FOLDER / CURRENT} is damaged ({error})") from error
    if record is None:
        return None
    path = path_of(folder, record)
    faiss = _faiss()
    try:
        if path.stat().st_size != record.size_bytes:
            raise QueryError(f"{path} is not as long as it was written")
        if record.size_bytes <= HASH_LIMIT_BYTES and durable.sha256_of(path) != record.sha256:
            raise QueryError(f"{path} does not hold what was written to it")
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except (OSError, RuntimeError) as error:
        raise QueryError(f"{path} cannot be opened ({str(error).splitlines()[0]})") from error
    if (index.d, index.ntotal) != (record.dim, record.num_rows) or index.d != rows.dim:
        raise QueryError(f"{path} holds {index.ntotal} vectors of {index.d}, not what was written")
    opened = Index(record, index, path)
    ids = np.array([int(row_id) for row_id in record.known_answers], np.int64)
    positions = rows.positions(ids)
    if (positions < 0).any():
        raise QueryError(f"{path} knows rows that the collection does not")
    answers = opened.search(rows.embeddings(positions), _KNOWN_K)[:, :_KNOWN_K]
    for found, known in zip(answers, record.known_answers.values(), strict=True):
        if np.count_nonzero(np.isin(known, found)) < SAME_ANSWERS * len(known):
            raise QueryError(f"{path} does not give the answers it gave when it was built")
    if record.size_bytes > HASH_LIMIT_BYTES:
        opened.check_in_background()
    return opened
