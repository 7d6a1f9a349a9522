"""Which files show the same: copies byte for byte, and pictures and videos that look alike.

Every item is compared with every other of its kind, by products of matrices in the numbers that
the processor multiplies fastest; what their rounding leaves in doubt is computed exactly. Files
that look alike in a chain are one group.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perception_search import tables
from perception_search.encoder.device import computes_in_bfloat16
from perception_search.rows import Rows
from perception_search.snapshot import Snapshot
from perception_search.where import matching

if TYPE_CHECKING:
    import torch

NEAR = 0.05
"""Cosine distance up to which two items look alike."""
_ROWS_AT_ONCE = 2048
_COLUMNS_AT_ONCE = 4096
_PAIRS_AT_ONCE = 8192
_MARGIN = 2.0**-6
"""More than products in bfloat16 can be off: both factors and the result by 2^-8 each."""


@dataclass(frozen=True)
class Duplicate:
    """One file of a group.

    Attributes:
        path: the file.
        distance: cosine distance of what it shows to the group's best file, 0 for a copy.
        content_hash: the same for copies.
        width: in pixels, as of the next ones None where it is not known.
        height: in pixels.
        size_bytes: of the file.
    """

    path: Path
    distance: float
    content_hash: str
    width: int | None
    height: int | None
    size_bytes: int | None


@dataclass(frozen=True)
class Group:
    """Files that show the same, the best first: most pixels, then most bytes, then by name.

    Attributes:
        kind: `image` or `video`.
        files: two at least.
    """

    kind: str
    files: tuple[Duplicate, ...]

    @property
    def distance(self) -> float:
        """The largest distance of a file to the best."""
        return max(file.distance for file in self.files)


def duplicates(
    snapshot: Snapshot,
    *,
    near: float = NEAR,
    where: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Group]:
    """All groups, the closest first: copies, then what looks alike.

    Args:
        snapshot: the version.
        near: cosine distance up to which two items look alike; 0 for copies only. Groups are
            chains: two files of one may be further from each other.
        where: a filter over the item columns; other items are left out.
        on_progress: called with (items compared, items in all).

    Raises:
        ValueError: `near` is not from 0 to 1.
        QueryError: `where` cannot be used.
        CollectionDamaged: a stored embedding is not what was written.
    """
    if not 0 <= near <= 1:
        raise ValueError(f"near={near}; a cosine distance from 0 to 1, such as {NEAR}")
    items = snapshot.live_items
    wanted = np.ones(items.num_rows, bool)
    if where is not None:
        wanted = matching(snapshot.shown_items, where)
    by_scope = {
        scope: np.flatnonzero((snapshot.rows.scope == scope) & (snapshot.item_of_row >= 0))
        for scope in (tables.IMAGE, tables.VIDEO)  # a picture's one row, or a whole video's
    }
    row_of_item = np.full(items.num_rows, -1, np.int64)
    owner = np.arange(items.num_rows)
    by_scope = {s: found[wanted[snapshot.item_of_row[found]]] for s, found in by_scope.items()}
    total = sum(map(len, by_scope.values()))
    done = 0
    for positions in by_scope.values():
        mine = snapshot.item_of_row[positions]
        row_of_item[mine] = positions
        if near > 0:
            groups = _Groups(len(positions))
            for num_done in _joined(groups, snapshot.rows, positions, near):
                if on_progress is not None:
                    on_progress(done + num_done, total)
            owner[mine] = mine[groups.owners()]
        done += len(positions)
    return _described(snapshot, np.where(wanted, owner, -1), row_of_item)


class _Groups:
    """Items joined to groups: each knows another of its group with a lower number, or itself."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count)

    def owners(self) -> NDArray[np.int64]:
        """The lowest number of every item's group."""
        while True:
            next_up = self._parent[self._parent]
            if np.array_equal(next_up, self._parent):
                return self._parent
            self._parent = next_up

    def join(self, ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> None:
        """Make one group of the groups of every pair."""
        while len(ours):
            owners = self.owners()
            ours, theirs = owners[ours], owners[theirs]
            differ = ours != theirs
            ours, theirs = ours[differ], theirs[differ]
            np.minimum.at(self._parent, np.maximum(ours, theirs), np.minimum(ours, theirs))


def _joined(
    groups: _Groups, rows: Rows, positions: NDArray[np.int64], near: float
) -> Iterator[int]:
    """Join every two of the rows at `positions` that are near; gives how many are compared."""
    least = 1 - near
    rounded = _rounded(rows, positions)
    for first in range(0, len(positions), _ROWS_AT_ONCE):
        ours = rounded[first : first + _ROWS_AT_ONCE]
        for start in range(first, len(positions), _COLUMNS_AT_ONCE):
            products = (ours @ rounded[start : start + _COLUMNS_AT_ONCE].T).float()
            found = (products >= least - _MARGIN).nonzero(as_tuple=True)
            scores = products[found].numpy()
            i, j = found[0].numpy() + first, found[1].numpy() + start
            owners = groups.owners()
            is_new = (i < j) & (owners[i] != owners[j])
            i, j, scores = i[is_new], j[is_new], scores[is_new]
            is_sure = scores >= least + _MARGIN
            groups.join(i[is_sure], j[is_sure])
            for some, others in _in_parts(groups, i[~is_sure], j[~is_sure]):
                pairs = (_exact(rows, positions[of]) for of in (some, others))
                is_near = np.einsum("nd,nd->n", *pairs) >= least
                groups.join(some[is_near], others[is_near])
        yield min(first + _ROWS_AT_ONCE, len(positions))


def _in_parts(
    groups: _Groups, i: NDArray[np.int64], j: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs a part at a time, without those that are of one group by now."""
    for at in range(0, len(i), _PAIRS_AT_ONCE):
        some = slice(at, at + _PAIRS_AT_ONCE)
        owners = groups.owners()
        differ = owners[i[some]] != owners[j[some]]
        yield i[some][differ], j[some][differ]


def _exact(rows: Rows, positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """Unit embeddings (N, dim): float16 has kept their length but roughly."""
    found = rows.embeddings(positions)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def _rounded(rows: Rows, positions: NDArray[np.int64]) -> "torch.Tensor":
    """The same (N, dim) all at once, in what products are fast in: 2 bytes a number, or 4."""
    import torch

    dtype = torch.bfloat16 if computes_in_bfloat16() else torch.float32
    rounded = torch.empty((len(positions), rows.dim), dtype=dtype)
    for first in range(0, len(positions), _COLUMNS_AT_ONCE):
        some = slice(first, first + _COLUMNS_AT_ONCE)
        rounded[some] = torch.from_numpy(_exact(rows, positions[some]))
    return rounded


def _described(
    snapshot: Snapshot, owner: NDArray[np.int64], row_of_item: NDArray[np.int64]
) -> list[Group]:
    """The groups of two files or more.

    Args:
        snapshot: the version.
        owner: for every live item the lowest item of its group; -1 where it is left out.
        row_of_item: where its embedding is; -1 where it has none.
    """
    items = snapshot.live_items
    names = ("content_hash", "kind", "width", "height", "size_bytes")
    columns = {name: items[name].to_pylist() for name in names}
    order = np.argsort(owner, kind="stable")
    order = order[owner[order] >= 0]
    found = []
    for members in np.split(order, np.flatnonzero(np.diff(owner[order])) + 1):
        hashes = [columns["content_hash"][item] for item in members]
        if sum(len(snapshot.live_paths[content_hash]) for content_hash in hashes) < 2:
            continue
        ranked = sorted(members.tolist(), key=lambda item: _worth(snapshot, columns, item))
        distances = np.zeros(len(ranked))
        if len(ranked) > 1:
            vectors = _exact(snapshot.rows, row_of_item[ranked])
            distances = np.maximum(0.0, 1 - vectors @ vectors[0])
            distances[0] = 0.0
        files = tuple(
            Duplicate(
                path,
                float(distance),
                columns["content_hash"][item],
                columns["width"][item],
                columns["height"][item],
                columns["size_bytes"][item],
            )
            for item, distance in zip(ranked, distances, strict=True)
            for path in sorted(snapshot.live_paths[columns["content_hash"][item]])
        )
        found.append(Group(columns["kind"][ranked[0]], files))
    return sorted(found, key=lambda group: (group.distance, group.files[0].path))


def _worth(
    snapshot: Snapshot, columns: dict[str, list[object]], item: int
) -> tuple[int, int, Path]:
    """By what the files of a group are ranked, the best lowest."""
    width, height, size = (columns[name][item] or 0 for name in ("width", "height", "size_bytes"))
    assert isinstance(width, int)
    assert isinstance(height, int)
    assert isinstance(size, int)
    first = min(snapshot.live_paths[str(columns["content_hash"][item])])
    return -width * height, -size, first
