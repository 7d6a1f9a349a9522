"""Pixels and words become vectors of one space; the models are imported when first asked for."""

from pathlib import Path
from typing import TYPE_CHECKING

from perception_search.encoder.protocol import Encoder, Identity

if TYPE_CHECKING:
    from perception_search.encoder.features import FeatureExtractor
    from perception_search.encoder.perception import PerceptionEncoder
    from perception_search.encoder.starter import StarterEncoder

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
) -> Encoder:
    """The encoder of a name: `starter`, or a released PE-Core model.

    Args:
        model: `starter`, or a name that `PerceptionEncoder` takes.
        weights: a file or a folder; see `PerceptionEncoder`.
        projection: a file that has what `weights` lacks; see `PerceptionEncoder`.
        device: `auto`, `cpu`, `cuda`, `cuda:<n>` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `int8`.

    Raises:
        ModelNotFound: for any other name.
    """
    if model == "starter":
        from perception_search.encoder.starter import StarterEncoder

        return StarterEncoder(device=device, dtype=dtype)
    from perception_search.encoder.perception import PerceptionEncoder

    return PerceptionEncoder(
        model, weights=weights, projection=projection, device=device, dtype=dtype
    )
