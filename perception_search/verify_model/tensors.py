"""Checks of the tensors themselves: how many, of what type, sound or not; computes no network."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from perception_search.encoder.layouts import TowerName
from perception_search.encoder.weights import tower_sha256, tower_tensors
from perception_search.errors import WeightsMismatch
from perception_search.media import display
from perception_search.verify_model.check import Check, judged, skipped
from perception_search.verify_model.released import RELEASED
from perception_search.verify_model.subject import Subject

if TYPE_CHECKING:
    from torch import Tensor

_SOUND = "finite, no weight all zero"


def tensor_checks(subject: Subject) -> Iterator[Check]:
    """Checks of the files and of what is in them, the cheap ones first.

    A tower whose tensors are not the model's is looked at no further.
    """
    yield from _file_checks(subject)
    right: list[TowerName] = []
    for tower in subject.towers:
        counted = _counted(subject, tower)
        if counted.verdict == "pass":
            right.append(tower)
        yield counted
    if subject.model.text is not None and "text" not in subject.towers:
        yield skipped("text tensors", "the file holds no text tower; give one: --projection FILE")
    for tower in right:
        yield Check(f"{tower} dtype", "", _dtypes(subject, tower), "info")
    if "text" in right:
        yield _logit_scale(subject)
    for tower in right:
        yield _values(subject, tower)
    for tower in right:
        sha256 = tower_sha256(subject.path, subject.config, tower, projection=subject.projection)
        yield Check(f"{tower} SHA-256", "", sha256, "info")


def _file_checks(subject: Subject) -> Iterator[Check]:
    files = [path for path in (subject.path, subject.projection) if path is not None]
    for prefix, path, layout in zip(("", "projection "), files, subject.layouts, strict=False):
        size = f"{path.stat().st_size:,} bytes"
        yield Check(f"{prefix}file", "", f"{display(path)}, {size}", "info")
        yield Check(f"{prefix}container", "safetensors or torch", _container(path), "pass")
        yield Check(f"{prefix}layout", "one of five", layout.name, "pass")


def _container(path: Path) -> str:
    """Of a file that was read as one of the two: JSON follows the first 8 bytes, or not."""
    with path.open("rb") as file:
        return "safetensors" if file.read(9)[8:] == b"{" else "torch"


def _tensors(subject: Subject, tower: TowerName) -> "Iterator[tuple[str, Tensor]]":
    return tower_tensors(subject.path, subject.config, tower, projection=subject.projection)


def _counted(subject: Subject, tower: TowerName) -> Check:
    released = RELEASED[subject.model.name]
    expected = released.vision if tower == "vision" else released.text
    assert expected is not None  # a tower of the model
    remark = ""
    if tower == "vision" and released.dim is not None and not subject.has_projection:
        expected = expected[0] - 1, expected[1] - released.tokens[1] * released.dim
        remark = ", without the projection"
    try:
        sizes = [tensor.numel() for _, tensor in _tensors(subject, tower)]
    except WeightsMismatch as error:
        got, holds = str(error), False
    else:
        counts = len(sizes), sum(sizes)
        got, holds = _of(counts) + remark, counts == expected
    return judged(f"{tower} tensors", _of(expected), got, holds=holds)


def _of(counts: tuple[int, int]) -> str:
    return f"{counts[0]}, {counts[1]:,} parameters"


def _dtypes(subject: Subject, tower: TowerName) -> str:
    dtypes = {str(tensor.dtype).removeprefix("torch.") for _, tensor in _tensors(subject, tower)}
    return ", ".join(sorted(dtypes))


def _logit_scale(subject: Subject) -> Check:
    """The factor that cosines are multiplied by; training keeps it at 100 at most."""
    import torch

    log = next(tensor for name, tensor in _tensors(subject, "text") if name == "logit_scale")
    most = torch.tensor(math.log(100), dtype=log.dtype)  # rounded as the file's own
    scale = math.exp(min(float(log), 700.0))
    holds = 0 < float(log) <= float(most)
    return judged("logit scale", "above 1, at most 100", f"{scale:.4g}", holds=holds)


def _values(subject: Subject, tower: TowerName) -> Check:
    """Biases may be zero; training leaves no weight so. The scale of the logits has its check."""
    unsound = []
    for name, tensor in _tensors(subject, tower):
        if name == "logit_scale":
            continue
        largest = float(tensor.float().abs().amax())
        if not math.isfinite(largest):
            unsound.append(f"{name} holds NaN or infinity")
        elif largest == 0 and not name.endswith("bias"):
            unsound.append(f"{name} is all zero")
    got = _SOUND
    if unsound:
        others = f", and {len(unsound) - 1} more are unsound" if unsound[1:] else ""
        got = unsound[0] + others
    return judged(f"{tower} values", _SOUND, got, holds=not unsound)
