"""Checks of what is faster and less exact: its results beside those in float32."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from perception_search.verify_model.check import Check, judged, skipped
from perception_search.verify_model.outputs import OnProgress, Outputs, pictures_of, texts_of
from perception_search.verify_model.samples import Pictures
from perception_search.verify_model.subject import Network, Subject

_MIN_COSINE_BFLOAT16 = 0.9995
_MIN_COSINE_FAST_JPEG = 0.999


def fast_jpeg_check(
    network: Network, exact: Outputs, pictures: Pictures, on_progress: OnProgress
) -> Check:
    """Of JPEGs that are decoded small, with the network in float32."""
    scaled = (pictures.exact != pictures.fast).any(axis=(1, 2, 3))  # (N,)
    if not scaled.any():
        size = 4 * network.subject.model.vision.image_size
        return skipped(
            "fast JPEG", f"none is a JPEG of {size} x {size} pixels or more, where it begins"
        )
    fast = pictures_of(network.encode_pictures, pictures.fast[scaled], "fast JPEGs", on_progress)
    return _judged("fast JPEG", _cosines(fast, exact.pictures[scaled]), _MIN_COSINE_FAST_JPEG)


def dtype_checks(
    subject: Subject, exact: Outputs, pictures: Pictures, on_progress: OnProgress
) -> Iterator[Check]:
    """Of the dtypes below float32; int8 has no proven limit."""
    limits = {"bfloat16": _MIN_COSINE_BFLOAT16} | ({"int8": None} if subject.embeds else {})
    for dtype, limit in limits.items():
        network = Network(subject, dtype)
        what = f"{dtype} pictures"
        made = pictures_of(network.encode_pictures, pictures.exact, what, on_progress)
        yield _judged(what, _cosines(made, exact.pictures), limit)
        texts = texts_of(network)
        if texts is not None and exact.texts is not None:
            yield _judged(f"{dtype} texts", _cosines(texts, exact.texts), limit)


def _cosines(got: NDArray[np.float32], exact: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of each picture or text; all its tokens count as one vector."""
    a, b = (each.reshape(len(each), -1).astype(np.float64) for each in (got, exact))
    products = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return np.asarray(products)


def _judged(name: str, cosines: NDArray[np.float64], limit: float | None) -> Check:
    lowest = float(cosines.min())
    got = f"{lowest:.6f}, the lowest of {len(cosines)}"
    if limit is None:
        return Check(name, "unproven", got, "info")
    return judged(name, f"cosine >= {limit}", got, holds=lowest >= limit)
