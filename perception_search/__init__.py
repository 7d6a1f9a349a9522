"""Search your pictures and videos in words: encoders, a store, an index, one search.

from perception_search import Collection

photos = Collection.create("photos.ps")
photos.ingest("~/Pictures")
photos.search("a dog catching a frisbee")
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perception_search.collection import Collection
    from perception_search.encoder import (
        Encoder,
        FeatureExtractor,
        Identity,
        PerceptionEncoder,
        StarterEncoder,
        load_encoder,
    )
    from perception_search.errors import PerceptionSearchError, PerceptionSearchWarning
    from perception_search.frames import FrameSpec, Sampling
    from perception_search.hits import Hit, Hits
    from perception_search.ingest import IngestReport
    from perception_search.plm import PerceptionLM
    from perception_search.reranking import Reranked, Reranker, rerank
    from perception_search.segments import Segmentation
    from perception_search.survey import FileReport

__version__ = "0.1.0"

_HOMES = {
    "Collection": "collection",
    "Encoder": "encoder",
    "FeatureExtractor": "encoder",
    "FileReport": "survey",
    "FrameSpec": "frames",
    "Hit": "hits",
    "Hits": "hits",
    "Identity": "encoder",
    "IngestReport": "ingest",
    "PerceptionEncoder": "encoder",
    "PerceptionLM": "plm",
    "PerceptionSearchError": "errors",
    "PerceptionSearchWarning": "errors",
    "Reranked": "reranking",
    "Reranker": "reranking",
    "Sampling": "frames",
    "Segmentation": "segments",
    "StarterEncoder": "encoder",
    "load_encoder": "encoder",
    "rerank": "reranking",
}

__all__ = [
    "Collection",
    "Encoder",
    "FeatureExtractor",
    "FileReport",
    "FrameSpec",
    "Hit",
    "Hits",
    "Identity",
    "IngestReport",
    "PerceptionEncoder",
    "PerceptionLM",
    "PerceptionSearchError",
    "PerceptionSearchWarning",
    "Reranked",
    "Reranker",
    "Sampling",
    "Segmentation",
    "StarterEncoder",
    "load_encoder",
    "rerank",
]


def __getattr__(name: str) -> object:
    """Each name is imported when it is first used, so that importing the package costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
