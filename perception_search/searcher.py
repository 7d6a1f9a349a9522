"""What is kept open between the queries to one collection: its index, its rows on a GPU."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_search import manifest, relevance
from perception_search import search as searching
from perception_search.caption_search import By, CaptionSearcher, Embed
from perception_search.current_index import CurrentIndex
from perception_search.errors import PerceptionSearchWarning
from perception_search.hits import Hits
from perception_search.relevance import Judge
from perception_search.scoring import Target
from perception_search.snapshot import Snapshot

if TYPE_CHECKING:
    from perception_search.shortlist import Shortlister


class Searcher:
    """Searches versions of the collection in `folder`.

    Args:
        folder: the collection.
        devices: names, as encoders take them; many queries at once are scored on the first.
        encode_text: gives unit embeddings of texts; without it relevance cannot be asked for.
        embed_captions: the same through a cache; without it captions are searched by words alone.
    """

    def __init__(
        self,
        folder: Path,
        devices: str,
        encode_text: Embed | None = None,
        embed_captions: Embed | None = None,
    ) -> None:
        self._folder = folder
        self._captions = CaptionSearcher(embed_captions)
        self._index = CurrentIndex(folder)
        self._devices = devices
        self._encode_text = encode_text
        self._judge: Judge | None = None
        self._shortlister: Shortlister | None = None
        self._version = -1

    def search(
        self, snapshot: Snapshot, targets: Sequence[Target], *, by: By = "vectors", **how: Any
    ) -> list[Hits]:
        """What is found by vectors, by captions or by both; see `caption_search`."""
        if by == "vectors":
            return self._by_vectors(snapshot, targets, **how)
        return self._captions.search(snapshot, targets, by, self._by_vectors, **how)

    def _by_vectors(
        self,
        snapshot: Snapshot,
        targets: Sequence[Target],
        *,
        k: int,
        use_index: bool | None = None,
        relevant: float | None = None,
        normalised: bool = False,
        **how: Any,
    ) -> list[Hits]:
        """`search.search_many` with the collection's index, or else by a shortlister.

        For one target on a CPU neither is needed: importing torch can take longer than scanning.

        Args:
            snapshot: what to search.
            targets: what to look for.
            k: hits wanted of each.
            use_index: False for no index, True for the index however few rows there are.
            relevant: leave out hits that are not relevant, at this rate; see `relevance`.
            normalised: rank by cosine less what everyday captions get, among the best by cosine.
            how: see `search.search_many`.

        Raises:
            ValueError: `relevant` is no share.
        """
        if relevant is not None and not 0 < relevant <= 1:
            raise ValueError(f"relevant={relevant:g}; it must be above 0 and at most 1")
        depth = max(relevance.NORMALISED_DEPTH, 20 * k) if normalised else k
        if snapshot.version != self._version:
            self._shortlister = None
            self._version = snapshot.version
        index = self._index.opened(snapshot.rows) if use_index is not False else None
        if use_index:
            how = {**how, "scan_if_fewer": 0}
        shortlister = None
        if len(targets) > 1 or (index is None and self._has_gpu()):
            shortlister = self._shortlister = self._shortlister or self._made(snapshot)
        many = searching.search_many(
            snapshot, targets, k=depth, index=index, shortlister=shortlister, **how
        )
        judge = None
        if relevant is not None or normalised:
            judge = self.judge(snapshot)
        if judge is None:
            return many
        rate = 1.0 if relevant is None else relevant
        return [
            judge.chosen(target.embedding, hits, k, rate, by_n=normalised)
            for target, hits in zip(targets, many, strict=True)
        ]

    def judge(
        self, snapshot: Snapshot, on_progress: relevance.OnProgress | None = None
    ) -> Judge | None:
        """What tells how relevant hits are; see `relevance.judge`."""
        if self._encode_text is None:
            raise ValueError("relevance is told by texts; give what embeds them")
        if self._judge is None or self._judge.version != snapshot.version:
            self._judge = relevance.judge(
                self._folder / manifest.CACHE, snapshot, self._encode_text, on_progress
            )
        return self._judge

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
