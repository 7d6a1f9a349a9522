"""The rows of a version and the grids of its videos: columns, and embeddings as mapped matrices.

An embedding is compared with its checksum before it is used; a block of rows that is scanned as a
whole, once in a process. Knows no item and no manifest.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from perception_search import tables
from perception_search.errors import CollectionDamaged
from perception_search.half import as_float32

SCAN_BLOCK_ROWS = 8192


class Rows:
    """All rows of a version, column by column, and their embeddings as mapped matrices."""

    def __init__(self, table: pa.Table, matrices: Sequence[NDArray[np.float16]], dim: int) -> None:
        self.dim = dim
        self._table = table
        self.row_id: NDArray[np.int64] = table["row_id"].to_numpy()
        self.content_hash: pa.ChunkedArray = table["content_hash"]
        self.scope: NDArray[np.int8] = _codes(table["scope"])
        self.start_seconds: NDArray[np.float64] = table["start_seconds"].to_numpy()
        self.end_seconds: NDArray[np.float64] = table["end_seconds"].to_numpy()
        self.norm: NDArray[np.float32] = table["norm"].to_numpy()
        self.num_frames: NDArray[np.int32] = table["num_frames"].to_numpy()
        self._checksum: NDArray[np.uint64] = table["checksum"].to_numpy()
        self._matrices = list(matrices)
        self._starts = np.cumsum([0, *(len(matrix) for matrix in matrices)])
        self._whole_blocks: set[int] = set()  # where blocks start that were checked in this process

    def __len__(self) -> int:
        return len(self.row_id)

    def followed_by(
        self, parts: Sequence[pa.Table], matrices: Sequence[NDArray[np.float16]]
    ) -> "Rows":
        """These rows and later ones: their columns, and their embeddings as matrices."""
        some = [part for part in (self._table, *parts) if part.num_rows]
        table = pa.concat_tables(some) if some else self._table
        longer = Rows(table, [*self._matrices, *matrices], self.dim)
        longer._whole_blocks |= self._whole_blocks
        return longer

    def blocks(
        self, positions: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
        """Rows in the order they are on disk, as (positions (N,), embeddings (N, dim)), at most
        8,192 at once; embeddings are memory-mapped where all of a block are wanted, and compared
        with their checksums until all of a block were.

        Args:
            positions: the rows wanted, ascending; None for all.

        Raises:
            CollectionDamaged: one of them is not what was written.
        """
        for start, matrix in zip(self._starts.tolist(), self._matrices, strict=False):
            for first in range(0, len(matrix), SCAN_BLOCK_ROWS):
                block = matrix[first : first + SCAN_BLOCK_ROWS]
                begin, end = start + first, start + first + len(block)
                if positions is None:
                    here = np.arange(begin, end)
                else:
                    here = positions[slice(*np.searchsorted(positions, [begin, end]))]
                    block = block if len(here) == len(block) else block[here - begin]
                if begin not in self._whole_blocks:
                    check_written(block, self._checksum[here])
                if len(here) == end - begin:
                    self._whole_blocks.add(begin)
                if len(here):
                    yield here, block

    def embeddings(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """The embeddings (N, dim) float32 of the rows at `positions`, in that order.

        Raises:
            CollectionDamaged: one of them is not what was written.
        """
        found = np.empty((len(positions), self.dim), np.float16)
        which = np.searchsorted(self._starts, positions, side="right") - 1
        for number in np.unique(which):
            here = which == number
            found[here] = self._matrices[number][positions[here] - self._starts[number]]
        check_written(found, self._checksum[positions])
        return as_float32(found)

    def positions(self, row_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the rows with these ids are; an id that is not there gives -1."""
        order, ids = self._by_id
        if not len(ids):
            return np.full(len(row_ids), -1, np.int64)
        place = np.minimum(np.searchsorted(ids, row_ids), len(ids) - 1)
        return np.where(ids[place] == row_ids, order[place], -1)

    @functools.cached_property
    def _by_id(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order = np.argsort(self.row_id, kind="stable")
        return order, self.row_id[order]


def check_written(embeddings: NDArray[np.float16], checksums: NDArray[np.uint64]) -> None:
    """Raise CollectionDamaged unless stored embeddings (N, dim) have the checksums (N,) that were
    stored with them.
    """
    if np.any(tables.checksums(embeddings) != checksums):
        raise CollectionDamaged(
            "a stored embedding is not what was written, so a file has changed since. "
            "`perception-search verify` names it."
        )


def _codes(scope: pa.ChunkedArray) -> NDArray[np.int8]:
    codes = pc.index_in(scope, value_set=pa.array(tables.SCOPES)).to_numpy()
    return np.asarray(codes, np.int8)


class GridFrames(NamedTuple):
    """The frames of one video's time grid, in order.

    Attributes:
        embeddings: (T, dim) float16, unit length, memory-mapped where possible.
        norms: (T,) float32, their lengths before.
        pts_seconds: (T,) float64, ascending.
    """

    embeddings: NDArray[np.float16]
    norms: NDArray[np.float32]
    pts_seconds: NDArray[np.float64]


class Grids:
    """The time grids of all videos of a version; each lies in one piece in one file."""

    def __init__(self, parts: Sequence[tuple[pa.Table, Sequence[NDArray[np.float16]]]]) -> None:
        self._matrices = [matrices for _, matrices in parts]
        self._columns = [
            [table[name].to_numpy() for name in ("norm", "pts_seconds", "checksum")]
            for table, _ in parts
        ]
        self._places: dict[str, tuple[int, slice]] = {}
        for number, (table, _) in enumerate(parts):
            owners = table["content_hash"].unify_dictionaries().combine_chunks()
            codes = owners.indices.to_numpy()
            firsts = np.flatnonzero(np.diff(codes, prepend=-1))
            ends = np.append(firsts[1:], len(codes))
            names = owners.dictionary.take(owners.indices.take(firsts)).to_pylist()
            for content_hash, first, end in zip(names, firsts, ends, strict=True):
                self._places[content_hash] = number, slice(int(first), int(end))

    def __iter__(self) -> Iterator[str]:
        """The content hashes of the videos, in the order they were written."""
        return iter(self._places)

    def num_frames(self, content_hash: str) -> int:
        """How many frames the grid of one video has; KeyError where it has none."""
        _, place = self._places[content_hash]
        return int(place.stop - place.start)

    def of(self, content_hash: str) -> GridFrames:
        """The grid of one video.

        Raises:
            KeyError: it has none.
            CollectionDamaged: a frame's embedding is not what was written.
        """
        number, place = self._places[content_hash]
        norms, pts_seconds, checksums = (column[place] for column in self._columns[number])
        embeddings = _stretch(self._matrices[number], place)
        check_written(embeddings, checksums)
        return GridFrames(embeddings, norms, pts_seconds)


def _stretch(matrices: Sequence[NDArray[np.float16]], place: slice) -> NDArray[np.float16]:
    """The rows at `place` of the matrices as if they were one; copied only where it spans two."""
    starts = np.cumsum([0, *(len(matrix) for matrix in matrices)])
    pieces = [
        matrix[max(0, place.start - start) : place.stop - start]
        for matrix, start in zip(matrices, starts.tolist(), strict=False)
        if start < place.stop and start + len(matrix) > place.start
    ]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
