"""Pixels and words become vectors of one space; the models are imported when first asked for."""

from pathlib import Path
from typing import TYPE_CHECKING

from perception_search.encoder.protocol import Encoder, Identity, Pooling

if TYPE_CHECKING:
    from perception_search.encoder.features import FeatureExtractor
    from perception_search.encoder.perception import PerceptionEncoder
    from perception_search.encoder.starter import StarterEncoder
    from perception_search.encoder.tokenizer import LongTexts

__all__ = [
    "Encoder",
    "FeatureExtractor",
    "Identity",
    "PerceptionEncoder",
    "StarterEncoder",
    "load_encoder",
]


def __getattr__(name: str) -> object:
    if name == "PerceptionEncoder":
        from perception_search.encoder.perception import PerceptionEncoder

        return PerceptionEncoder
    if name == "FeatureExtractor":
        from perception_search.encoder.features import FeatureExtractor

        return FeatureExtractor
    if name == "StarterEncoder":
        from perception_search.encoder.starter import StarterEncoder

        return StarterEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_encoder(
    model: str,
    *,
    weights: str | Path | None = None,
    projection: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    pooling: Pooling = "unit-frames",
    long_texts: "LongTexts" = "cut",
) -> Encoder:
    """The encoder of a name: `starter`, a released PE-Core model, or one of open_clip's.

    Args:
        model: `starter`, a name that `PerceptionEncoder` takes, or `open_clip:NAME/TAG` (see
            `OpenClipEncoder`).
        weights: a file or a folder; see `PerceptionEncoder`.
        projection: a file that has what `weights` lacks; see `PerceptionEncoder`.
        device: `auto`, `cpu`, `cuda`, `cuda:<n>` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `int8`.
        pooling: how the frames of a video become one vector: `unit-frames` or `raw-frames`.
        long_texts: `cut` or `split`; see `PerceptionEncoder`. The starter cuts.

    Raises:
        ModelNotFound: for any other name.
        ValueError: an option that the model does not have.
    """
    if model == "starter":
        from perception_search.encoder.starter import StarterEncoder

        if long_texts != "cut":
            raise ValueError(f"long_texts={long_texts!r}; the starter cuts")
        return StarterEncoder(device=device, dtype=dtype, pooling=pooling)
    if model.startswith("open_clip:"):
        from perception_search.encoder.open_clip import OpenClipEncoder

        if long_texts != "cut":
            raise ValueError(f"long_texts={long_texts!r}; open_clip's tokenizers cut")
        return OpenClipEncoder(model, weights=weights, device=device, dtype=dtype, pooling=pooling)
    from perception_search.encoder.perception import PerceptionEncoder

    return PerceptionEncoder(
        model,
        weights=weights,
        projection=projection,
        device=device,
        dtype=dtype,
        pooling=pooling,
        long_texts=long_texts,
    )
