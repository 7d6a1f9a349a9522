"""Checks against another library: given the same weights, it computes the same.

Embeddings are compared with open_clip, features with timm, which open_clip brings. Both must be
installed by the user, and what goes wrong with that is said and costs no other check.
"""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perception_search.encoder.base import unit
from perception_search.encoder.layouts import Part, recognise
from perception_search.encoder.names import names_elsewhere
from perception_search.encoder.peer_library import import_library
from perception_search.encoder.tokenizer import tokenize
from perception_search.encoder.weights import tower_tensors
from perception_search.errors import WeightsMismatch
from perception_search.verify_model.check import Check, skipped
from perception_search.verify_model.outputs import (
    EncodePictures,
    OnProgress,
    Outputs,
    alike,
    pictures_of,
)
from perception_search.verify_model.samples import TEXTS
from perception_search.verify_model.subject import Subject

if TYPE_CHECKING:
    from torch import Tensor


def peer_checks(
    subject: Subject, outputs: Outputs, pixels: NDArray[np.uint8], on_progress: OnProgress
) -> Iterator[Check]:
    """What another library makes of the same pixels (N, 3, H, W) and texts, in float32.

    Args:
        subject: its weights are given to the other library.
        outputs: ours, to compare with.
        pixels: uint8 (N, 3, H, W).
        on_progress: is told of each picture.
    """
    import torch

    library = "open_clip" if subject.embeds else "timm"
    try:
        peer = _created(subject, library)
        _give(subject, peer)
    except Exception as error:  # somebody else's installation fails as it likes
        yield skipped(library, _reason(library, error))
        return
    what = f"{library} pictures"
    encode = _encode_pictures(subject, peer)
    pictures = pictures_of(encode, pixels, what, on_progress)
    yield alike(what, unit(pictures), unit(outputs.pictures))
    text = subject.model.text
    if library == "open_clip" and outputs.texts is not None and text is not None:
        rows = torch.from_numpy(tokenize(TEXTS, text.context_length))
        with torch.inference_mode():
            texts = peer.encode_text(rows).numpy()
        yield alike("open_clip texts", unit(texts), outputs.texts)


def _encode_pictures(subject: Subject, peer: Any) -> EncodePictures:
    """What makes of pixels there what `Network.encode_pictures` makes here."""
    import torch

    from perception_search.encoder.towers import to_unit_range

    encode = peer.encode_image if subject.embeds else peer
    if subject.model.vision.pool == "none":
        encode = peer.forward_features

    def encode_pictures(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            batch = to_unit_range(torch.from_numpy(pixels), torch.float32)
            out: NDArray[np.float32] = encode(batch).numpy()
        return out

    return encode_pictures


def _created(subject: Subject, library: str) -> Any:
    """The other library's model, with random weights, on the CPU."""
    names = names_elsewhere(subject.model.name)
    module = import_library(library)
    logging.disable(logging.WARNING)  # that no weights were loaded is as it should be
    try:
        if library == "open_clip":
            name = next(name for name in names if name.startswith("PE-Core-"))
            return module.create_model(name, pretrained=None).float().eval()
        name = next(name for name in names if name.startswith("vit_pe_"))
        return module.create_model(name, pretrained=False, num_classes=0).float().eval()
    finally:
        logging.disable(logging.NOTSET)


def _reason(library: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == library:
        package = "open_clip_torch" if library == "open_clip" else library
        return f"not installed; to compare with it: pip install {package}"
    sentence = " ".join(str(error).split()) or type(error).__name__
    return f"cannot be used here: {sentence}"


def _give(subject: Subject, peer: Any) -> None:
    """Write the subject's tensors into the other model, where its layout says they are read.

    Raises:
        WeightsMismatch: the other model has other tensors.
    """
    theirs = peer.state_dict()  # the model's own memory
    layout = recognise(theirs)
    for key in layout.zeros:
        theirs[key].zero_()
    for tower in subject.towers:
        parts = dict(layout.towers[tower])
        for name, tensor in tower_tensors(
            subject.path, subject.config, tower, projection=subject.projection
        ):
            if name not in parts:
                raise WeightsMismatch(f"its model has no {name}")
            part = parts.pop(name)
            _write(tensor, part, [theirs[key] for key in part.keys])
        if parts:
            raise WeightsMismatch(f"its model has {next(iter(parts))}, which the release has not")


def _write(tensor: "Tensor", part: Part, targets: "list[Tensor]") -> None:
    import torch

    if len(targets) == 1:
        part.make(targets[0]).copy_(tensor)  # a view of the target, in the shape of the release
        return
    for target, rows in zip(targets, torch.split(tensor, [len(t) for t in targets]), strict=True):
        target.copy_(rows)  # they are joined when they are read
