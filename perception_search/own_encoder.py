"""A collection's own encoder: loaded when it is needed, refused where it is another's."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perception_search import text_cache
from perception_search.encoder import Encoder, Identity, load_encoder
from perception_search.errors import CollectionMismatch, QueryError
from perception_search.query import QueryEncoder
from perception_search.snapshot import Snapshot
from perception_search.text_cache import TextCache

if TYPE_CHECKING:
    from perception_search.encoder.tokenizer import LongTexts

_COMPARED = {
    "text": ("model", "dim", "text_sha256"),
    "vision": ("model", "dim", "vision_sha256", "preprocessing", "pooling"),
}


@dataclass
class OwnEncoder:
    """How a collection's encoder is loaded this time, and the encoder once it is.

    Attributes:
        path: of the collection.
        encoder: the user's own, or the loaded one.
        weights: a file or folder; None for where they were when the collection was made.
        projection: likewise, a file that has what `weights` lacks.
        device: `auto`, `cpu`, `cuda` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `int8`.
        long_texts: `cut` or `split`.
    """

    path: Path
    encoder: Encoder | None = None
    weights: str | Path | None = None
    projection: str | Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    long_texts: "LongTexts" = "cut"
    _is_loaded: bool = field(default=False, init=False)
    _loading: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def for_tower(self, tower: str, described: Mapping[str, Any]) -> Encoder:
        """The encoder, after what `tower` needs of it was compared with the collection.

        Args:
            tower: `vision` or `text`.
            described: what `collection.json` says.

        Raises:
            CollectionMismatch: the weights or the preprocessing are others.
            WeightsNotFound: there are no weights.
            QueryError: the collection was made without a text tower.
        """
        ours = Identity(**described["identity"])
        with self._loading:  # threads that ask at once share one
            encoder = self._loaded(ours, described)
        if tower == "text" and not ours.text_sha256:
            raise QueryError(
                f"{self.path} was made with weights that have no text tower, so it is searched by "
                "pictures; for words create it again with a projection file that has one."
            )
        theirs = encoder.identity
        for name in _COMPARED[tower]:
            stored, offered = getattr(ours, name), getattr(theirs, name)
            if stored != offered:
                raise CollectionMismatch(
                    f"{self.path} holds {ours.model} rows (dim {ours.dim}) with {name} {stored}; "
                    f"opened with {theirs.model} (dim {theirs.dim}) and {name} {offered}. "
                    f"Open it with what made it, or create another collection."
                )
        return encoder

    def _loaded(self, ours: Identity, described: Mapping[str, Any]) -> Encoder:
        if self.encoder is None or self._is_outdated(ours):
            if self.encoder is not None:
                self.weights = self.projection = None  # they were the other model's
            self._is_loaded = True
            self.encoder = load_encoder(
                ours.model,
                weights=self.weights or _still_there(described, "weights"),
                projection=self.projection or _still_there(described, "projection"),
                device=self.device,
                dtype=self.dtype,
                pooling="raw-frames" if ours.pools_raw_frames else "unit-frames",
                long_texts=self.long_texts,
            )
        return self.encoder

    def for_queries(self, snapshot: Snapshot) -> QueryEncoder:
        """What embeds queries to one version: words, through the collection's cache, pictures and
        videos.
        """
        described = snapshot.manifest.collection
        return QueryEncoder(
            self._cache(snapshot, text_cache.FILE),
            snapshot.sampling,
            lambda tower: self.for_tower(tower, described),
        )

    def embed_captions(self, snapshot: Snapshot, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit embeddings (N, dim) of captions by the text tower, through a cache of their own."""
        described = snapshot.manifest.collection
        return self._cache(snapshot, text_cache.CAPTIONS_FILE).encode(
            texts, lambda new: self.for_tower("text", described).encode_text(new)
        )

    def _cache(self, snapshot: Snapshot, name: str) -> TextCache:
        ours = Identity(**snapshot.manifest.collection["identity"])
        how_read = ours.text_sha256 + (" split" if self.long_texts == "split" else "")
        return TextCache(self.path / name, how_read, ours.dim)

    def _is_outdated(self, ours: Identity) -> bool:
        """Whether the collection has moved to another model since its encoder was loaded."""
        loaded = self.encoder if self._is_loaded else None
        return loaded is not None and loaded.identity.model != ours.model


def check_same_model(before: Snapshot, after: Snapshot) -> None:
    """Raise CollectionMismatch where a collection has moved to another model between two versions:
    a query that was embedded for one cannot be compared with the other.
    """
    old, new = (snapshot.manifest.collection["identity"] for snapshot in (before, after))
    if old != new:
        raise CollectionMismatch(
            f"{after.folder} has moved from {old['model']} to {new['model']} while it was asked; "
            "ask again."
        )


def _still_there(described: Mapping[str, Any], name: str) -> str | None:
    recorded: str | None = described.get(name)
    return recorded if recorded and Path(recorded).exists() else None
