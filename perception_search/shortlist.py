"""A few rows among which the best for a query are sure to be, for many queries at once.

Every row is looked at, by products of matrices in the numbers that the processor multiplies
fastest. How far such a product can be off is bounded, and whatever the bound leaves in doubt is on
the list: who scores the rows on it exactly finds what a full scan finds. Knows no collection.

Rounding to bfloat16 changes a number by u = 2^-8 of itself at most, and so (Cauchy-Schwarz) the
product of a unit row x and a unit query q by no more than

    |x - round(x)| + |q - round(q)|  <=  u + |q - round(q)|

to which comes what sums and results are rounded by. The k-th best may be that much lower than it
seems, and another row that much higher: what is nearer to it than twice the bound is on the list.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_search.encoder.device import computes_in_bfloat16
from perception_search.half import as_tensor

if TYPE_CHECKING:
    import torch

Block: TypeAlias = tuple[NDArray[np.int64], NDArray[np.float16]]
Blocks: TypeAlias = Callable[[NDArray[np.int64] | None], Iterable[Block]]

QUERIES_AT_ONCE = 256
GPU_BLOCK_ROWS = 1 << 18
_LONGEST = 1.01  # what a stored unit vector may have, rounded to float16
_FLOAT32_UNIT = 2.0**-24


class Shortlister:
    """Rows of unit embeddings, asked for the best of them."""

    def __init__(self, blocks: Blocks, dim: int, device: "torch.device") -> None:
        """On a GPU the rows are copied there now; elsewhere they are read at every call.

        Args:
            blocks: gives the rows at some ascending positions, or all of them, in that order, as
                (positions, float16 (N, dim)): `Rows.blocks`.
            dim: of the embeddings.
            device: a GPU of CUDA; for any other the CPU is taken.

        Raises:
            torch.OutOfMemoryError: the rows do not fit on the GPU.
        """
        import torch

        self.device = device if device.type == "cuda" else torch.device("cpu")
        self._blocks = blocks
        self._dim = dim
        self._on_gpu: list[tuple[slice, torch.Tensor]] = []
        if self.device.type == "cuda":
            self._on_gpu = list(_joined(blocks(None), self.device))

    def shortlist(
        self,
        queries: NDArray[np.float32],
        k: int,
        positions: NDArray[np.int64] | None = None,
    ) -> list[NDArray[np.int64]]:
        """For each query the positions of its best `k` rows and of what may be as good, ascending.

        Args:
            queries: (Q, dim), unit length.
            k: rows wanted, at least 1; all of them where there are fewer.
            positions: the only rows that count, ascending; None for all.
        """
        import torch

        found: list[NDArray[np.int64]] = []
        with torch.inference_mode():
            for first in range(0, len(queries), QUERIES_AT_ONCE):
                some = torch.from_numpy(queries[first : first + QUERIES_AT_ONCE])
                found += self._shortlist(some.to(self.device), k, positions)
        return found

    def _shortlist(
        self, queries: "torch.Tensor", k: int, positions: NDArray[np.int64] | None
    ) -> list[NDArray[np.int64]]:
        import torch

        rounded = queries.to(self._dtype)
        error = self._largest_error(queries, rounded)
        best = torch.full((len(queries), k), -torch.inf, device=self.device)
        kept = []
        for places, rows in self._parts(positions):
            scores = self._products(rounded, rows)  # (Q, N) float32
            top = scores.topk(min(k, scores.shape[1])).values
            best = torch.cat([best, top], dim=1).topk(k).values
            which, column = (scores >= self._least(best, error)).nonzero(as_tuple=True)
            kept.append((which, places[column], scores[which, column]))
        if not kept:
            return [np.zeros(0, np.int64)] * len(queries)
        which, places, scores = map(torch.cat, zip(*kept, strict=True))
        still = scores >= self._least(best, error)[which, 0]  # the best have risen since
        owners, found = which[still].cpu().numpy(), places[still].cpu().numpy()
        order = np.argsort(owners, kind="stable")
        ends = np.cumsum(np.bincount(owners, minlength=len(queries)))
        return np.split(found[order], ends[:-1])

    def _parts(
        self, positions: NDArray[np.int64] | None
    ) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        """The rows that count, part by part: their positions (N,), and they themselves (N, dim)."""
        import torch

        for place, rows in self._on_gpu:
            wanted = np.arange(place.start, place.stop)
            if positions is not None:
                wanted = positions[slice(*np.searchsorted(positions, [place.start, place.stop]))]
            if len(wanted):
                places = torch.from_numpy(wanted).to(self.device)
                yield places, rows if len(places) == len(rows) else rows[places - place.start]
        if not self._on_gpu:
            for wanted, block in self._blocks(positions):
                yield torch.from_numpy(wanted), as_tensor(block).to(self._dtype)

    @property
    def _dtype(self) -> "torch.dtype":
        """What products are computed in: as the rows are stored on a GPU, as is fast on a CPU."""
        import torch

        if self.device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if computes_in_bfloat16() else torch.float32

    def _products(self, queries: "torch.Tensor", rows: "torch.Tensor") -> "torch.Tensor":
        import torch

        if self.device.type == "cuda":
            return torch.mm(queries, rows.T, out_dtype=torch.float32)
        return (queries @ rows.T).float()

    def _least(self, best: "torch.Tensor", error: float) -> "torch.Tensor":
        """The scores (Q, 1) from which on a row is kept, of the best scores (Q, k) until now."""
        kth = best[:, -1:]  # -inf until there are k
        of_results = self._unit * (kth.abs().clamp(max=_LONGEST) + 2 * error)
        return kth - 2 * (error + of_results)

    def _largest_error(self, queries: "torch.Tensor", rounded: "torch.Tensor") -> float:
        """How far a product can be from the exact one before it is rounded itself."""
        of_queries = float((queries - rounded.float()).norm(dim=1).max())
        of_sums = 2 * self._dim * _FLOAT32_UNIT
        return _LONGEST * (self._unit + of_queries + of_sums)

    @property
    def _unit(self) -> float:
        """The most that rounding a row or a result changes a number by, relatively.

        None in float16, as rows are stored, with results in float32.
        """
        import torch

        return torch.finfo(torch.bfloat16).eps / 2 if self._dtype == torch.bfloat16 else 0.0


def _joined(
    blocks: Iterable[Block], device: "torch.device"
) -> "Iterator[tuple[slice, torch.Tensor]]":
    """The same rows on a GPU, in larger blocks: each costs some calls, however small it is."""
    import torch

    parts: list[torch.Tensor] = []
    start = stop = 0
    for _, rows in blocks:
        if stop - start + len(rows) > GPU_BLOCK_ROWS and parts:
            yield slice(start, stop), torch.cat(parts)
            parts, start = [], stop
        parts.append(as_tensor(rows).to(device))
        stop += len(rows)
    if parts:
        yield slice(start, stop), torch.cat(parts)
