"""What is kept open between the queries to one collection: its index, its rows on a GPU."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_search import search as searching
from perception_search.current_index import CurrentIndex
from perception_search.errors import PerceptionSearchWarning
from perception_search.hits import Hits
from perception_search.scoring import Target
from perception_search.snapshot import Snapshot

if TYPE_CHECKING:
    from perception_search.shortlist import Shortlister


class Searcher:
    """Searches versions of the collection in `folder`.

    Args:
        folder: the collection.
        devices: names, as encoders take them; many queries at once are scored on the first.
    """

    def __init__(self, folder: Path, devices: str) -> None:
        self._index = CurrentIndex(folder)
        self._devices = devices
        self._shortlister: Shortlister | None = None
        self._version = -1

    def search(
        self,
        snapshot: Snapshot,
        targets: Sequence[Target],
        *,
        use_index: bool | None = None,
        **how: Any,
    ) -> list[Hits]:
        """`search.search_many` with the collection's index, or else by a shortlister.

        For one target on a CPU neither is needed: importing torch can take longer than scanning.

        Args:
            snapshot: what to search.
            targets: what to look for.
            use_index: False for no index, True for the index however few rows there are.
            how: see `search.search_many`.
        """
        if snapshot.version != self._version:
            self._shortlister = None
            self._version = snapshot.version
        index = self._index.opened(snapshot.rows) if use_index is not False else None
        if use_index:
            how = {**how, "scan_if_fewer": 0}
        shortlister = None
        if len(targets) > 1 or (index is None and self._has_gpu()):
            shortlister = self._shortlister = self._shortlister or self._made(snapshot)
        return searching.search_many(snapshot, targets, index=index, shortlister=shortlister, **how)

    def _has_gpu(self) -> bool:
        """Whether torch computes on a GPU here; False also where it has not been needed yet."""
        if "torch" not in sys.modules:
            return False
        from perception_search.encoder.device import choose_devices

        return choose_devices(self._devices)[0].type == "cuda"

    def _made(self, snapshot: Snapshot) -> "Shortlister":
        import torch

        from perception_search.encoder.device import choose_devices
        from perception_search.shortlist import Shortlister

        rows = snapshot.rows
        device = choose_devices(self._devices)[0]
        try:
            return Shortlister(rows.blocks, rows.dim, device)
        except torch.OutOfMemoryError:
            warnings.warn(
                f"{len(rows)} rows do not fit in the memory of {device}: scoring them on the CPU.",
                PerceptionSearchWarning,
                stacklevel=5,
            )
            return Shortlister(rows.blocks, rows.dim, torch.device("cpu"))
