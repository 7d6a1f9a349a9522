"""Checks of what the networks give in float32: its shape, and that it depends on nothing else."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_search.encoder.base import unit
from perception_search.verify_model.check import Check, judged
from perception_search.verify_model.released import RELEASED
from perception_search.verify_model.samples import TEXTS
from perception_search.verify_model.subject import Network

OnProgress: TypeAlias = Callable[[str, int, int], None]
EncodePictures: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

TOLERANCE = 1e-4
"""How far two float32 results may lie apart, at unit length."""

_BATCH = 4


@dataclass(frozen=True)
class Outputs:
    """What the network made of the samples.

    Attributes:
        pictures: raw, of each picture computed alone; see `Network.encode_pictures`.
        texts: (M, dim), unit; None where there is no text tower.
    """

    pictures: NDArray[np.float32]
    texts: NDArray[np.float32] | None


def pictures_of(
    encode: EncodePictures, pixels: NDArray[np.uint8], what: str, on_progress: OnProgress
) -> NDArray[np.float32]:
    """What comes of pictures (N, 3, H, W), each encoded alone; tells of each, as `what`."""
    out = []
    on_progress(what, 0, len(pixels))
    for picture in pixels:
        out.append(encode(picture[None]))
        on_progress(what, len(out), len(pixels))
    return np.concatenate(out)


def texts_of(network: Network) -> NDArray[np.float32] | None:
    """The embeddings of the sample texts, where there is a text tower."""
    return network.encoder.encode_text(TEXTS) if network.subject.has_text else None


def shape_checks(network: Network, outputs: Outputs, picture: NDArray[np.uint8]) -> Iterator[Check]:
    """What one picture (3, H, W) and one text give, as embeddings and as features."""
    model = network.subject.model
    released = RELEASED[model.name]
    num_tokens, width = released.tokens
    side = round(num_tokens**0.5)
    extractor = network.extractor
    pictures = [picture.transpose(1, 2, 0)]  # (H, W, 3)
    if network.subject.embeds:
        yield _shape("embedding", (1, released.dim), outputs.pictures[:1])
    if outputs.texts is not None:
        yield _shape("text embedding", (1, released.dim), outputs.texts[:1])
    if model.vision.pool != "none":
        yield _shape("pooled", (1, width), extractor.encode_pooled(pictures))
    tokens = extractor.encode_tokens(pictures, class_token=False)
    yield _shape("tokens", (1, num_tokens, width), tokens)
    yield _shape("map", (1, width, side, side), extractor.encode_map(pictures))


def _shape(what: str, expected: tuple[int | None, ...], got: NDArray[np.float32]) -> Check:
    return judged(f"{what} shape", str(expected), str(got.shape), holds=got.shape == expected)


def stability_checks(
    network: Network, outputs: Outputs, pixels: NDArray[np.uint8]
) -> Iterator[Check]:
    """The same input gives the same output, whatever it is computed with."""
    alone = outputs.pictures[:_BATCH]
    lengths = np.linalg.norm(outputs.pictures, axis=-1)
    got = f"{lengths.min():.4g} to {lengths.max():.4g}"
    holds = bool(np.isfinite(lengths).all() and lengths.min() > 0)
    yield judged("raw lengths", "finite, above 0", got, holds=holds)
    again = network.encode_pictures(pixels[:1])
    yield alike("same picture twice", unit(again), unit(alone[:1]))
    batch = network.encode_pictures(pixels[:_BATCH])
    yield alike("pictures alone, together", unit(batch), unit(alone))
    together = np.linalg.norm(batch, axis=-1)
    yield alike("their raw lengths", together / lengths[:_BATCH], np.ones_like(together))
    text = network.subject.model.text
    if outputs.texts is not None and text is not None:
        few = TEXTS[:_BATCH]
        filling = " ".join(["dog"] * (text.context_length - 2))
        own = [network.encoder.encode_text([text]) for text in few]
        padded = network.encoder.encode_text([*few, filling])[:-1]
        yield alike("texts alone, padded", np.concatenate(own), padded)


def alike(name: str, got: NDArray[np.float32], expected: NDArray[np.float32]) -> Check:
    """Whether two results are equal but for rounding."""
    difference = float(np.abs(got - expected).max())
    return judged(
        name, f"differ by <= {TOLERANCE:g}", f"{difference:.1e}", holds=difference <= TOLERANCE
    )
