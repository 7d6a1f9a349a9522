"""The check by the reference's own examples: how probable three texts are for a cat and a dog."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception_search.decode import FrameSpec, MediaReader, Sampling
from perception_search.encoder.base import unit
from perception_search.errors import MediaError
from perception_search.media import display
from perception_search.verify_model.check import Check, judged, skipped
from perception_search.verify_model.released import NUM_FRAMES, TEXTS, Example
from perception_search.verify_model.subject import Network

_MAX_FRAMES = 500


@dataclass(frozen=True)
class Footage:
    """A picture, or the notebook's frames of a video.

    Attributes:
        frames: uint8 (T, 3, H, W).
        sha256: of the file, hexadecimal.
    """

    frames: NDArray[np.uint8]
    sha256: str


def read_footage(path: Path, spec: FrameSpec) -> Footage:
    """What a network is shown of a picture or a short video.

    Raises:
        MediaError: the file cannot be read, or is a long video.
    """
    every_frame = Sampling(num_uniform_frames=_MAX_FRAMES + 1, grid="none")
    try:
        with MediaReader() as reader:
            item, found = reader.decode(path, spec, every_frame)
    except MediaError as error:
        raise MediaError(error.outcome, f"{display(path)}: {error.reason}") from error
    frames = found.pixels
    if len(frames) > _MAX_FRAMES:
        raise MediaError(
            "too_large",
            f"{display(path)} has more than {_MAX_FRAMES} frames; name a shorter video, or a "
            "picture",
        )
    if item.kind == "video":
        frames = frames[demo_indices(len(frames))]
    return Footage(frames, hashlib.sha256(path.read_bytes()).hexdigest())


def demo_indices(num_frames: int) -> list[int]:
    """The numbers of the frames that the notebook takes; in a shorter video they repeat."""
    return [int(i * (num_frames / NUM_FRAMES)) for i in range(NUM_FRAMES)]


def example_check(network: Network, example: Example, footage: Footage | None) -> Check:
    """How probable the texts are; judged for the file and the models that it is published for."""
    name = example.animal
    if footage is None:
        return skipped(
            name,
            f"name the file: --{name} {example.file_name}, from apps/pe/docs/assets of "
            "facebookresearch/perception_models",
        )
    subject = network.subject
    if not (subject.embeds and subject.has_text):
        return skipped(name, "texts and pictures are not both embedded")
    embedding = unit(network.encoder.encode_frames(footage.frames).mean(axis=0))
    texts = network.encoder.encode_text(TEXTS).astype(np.float64)
    weights = np.exp(network.encoder.logit_scale * (texts @ embedding - 1))  # a cosine is <= 1
    got, expected = _shown(weights / weights.sum()), _shown(example.probabilities)
    is_that = footage.sha256.startswith(example.sha256_start)
    if is_that and subject.model.name in example.models:
        return judged(name, expected, got, holds=got == expected)
    published = f"published for {example.file_name} and {', '.join(example.models)}"
    return Check(name, expected, f"{got}; {published}", "info")


def _shown(values: Iterable[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)
