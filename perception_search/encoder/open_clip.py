"""OpenClipEncoder: any model of open_clip as an `Encoder`, to be measured by the same protocol."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_search.encoder.base import TorchEncoder, check_pixels, unit
from perception_search.encoder.peer_library import import_library
from perception_search.encoder.protocol import POOLINGS, Identity, Pooling
from perception_search.errors import MissingExtra, ModelNotFound, WeightsNotFound
from perception_search.frames import FrameSpec

PREFIX = "open_clip:"
_RESIZES = {"shortest": "centre_crop", "squash": "squash"}
_TEXTS_AT_ONCE = 64


class OpenClipEncoder(TorchEncoder):
    """A model of open_clip with its own preprocessing and tokenizer, on one device.

    Args:
        model: `open_clip:ViT-B-32/openai`, a model and one of its tags, whose weights open_clip
            fetches; `open_clip:ViT-B-32` with `weights`; or `open_clip:hf-hub:...`.
        weights: a file that open_clip can load.
        device: as for `PerceptionEncoder`, one.
        dtype: `auto`, `float32` or `bfloat16`.
        batch_size: frames per step; without it, what suits the device.
        pooling: how the frames of a video become one vector.

    Raises:
        MissingExtra: open_clip is not installed.
        ModelNotFound: open_clip has no such model or tag.
        WeightsNotFound: neither a tag nor `weights` is given.
        ValueError: the dtype is int8, or the preprocessing one that is not known here.
    """

    def __init__(
        self,
        model: str,
        *,
        weights: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | None = None,
        pooling: Pooling = "unit-frames",
    ) -> None:
        super().__init__(device, dtype, batch_size, pooling)
        if self._dtype == "int8":
            raise ValueError("dtype='int8' is for PE; open_clip's models take float32 or bfloat16")
        self._name = model
        made, self._tokenizer = _loaded(model.removeprefix(PREFIX), weights)
        self._config = made.visual.preprocess_cfg
        if self._config["resize_mode"] not in _RESIZES:
            raise ValueError(
                f"{model} resizes by {self._config['resize_mode']!r}; known here are "
                f"{', '.join(_RESIZES)}"
            )
        self._sha256 = _tower_sha256(made)  # before the tensors are rounded
        self._model = made.to(self.device, self._float)

    @cached_property
    def identity(self) -> Identity:
        """Its name, a hash of each tower's tensors, and its own preprocessing."""
        spec, config = self.frame_spec, self._config
        return Identity(
            model=self._name,
            dim=self.dim,
            vision_sha256=self._sha256["vision"],
            text_sha256=self._sha256["text"],
            preprocessing=f"{spec.resize.replace('_', ' ')} to {spec.height}x{spec.width}, "
            f"{spec.interpolation}, mean {config['mean']}, deviation {config['std']}",
            pooling=POOLINGS[self.pooling],
        )

    @cached_property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self.encode_text(["a"]).shape[1])

    @property
    def logit_scale(self) -> float:
        """The factor before the softmax over cosines."""
        return float(self._model.logit_scale.float().exp())

    @property
    def frame_spec(self) -> FrameSpec:
        """The pixels that `encode_frames` wants."""
        size = self._config["size"]
        height, width = (size, size) if isinstance(size, int) else size
        return FrameSpec(
            height,
            width,
            resize=_RESIZES[self._config["resize_mode"]],  # type: ignore[arg-type]
            interpolation=self._config["interpolation"],
        )

    @property
    def _gpu_batch_size(self) -> int:
        return 64

    def encode_frames(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw image embeddings (N, dim) of frames (N, 3, H, W), in order."""
        import torch

        check_pixels(pixels)
        out = [np.zeros((0, self.dim), np.float32)]
        mean, deviation = (
            torch.tensor(self._config[name], device=self.device)[:, None, None]
            for name in ("mean", "std")
        )
        with torch.inference_mode():
            for start in range(0, len(pixels), self.batch_size):
                part = np.array(pixels[start : start + self.batch_size])
                batch = torch.from_numpy(part).to(self.device).float() / 255
                batch = ((batch - mean) / deviation).to(self._float)
                out.append(self._model.encode_image(batch).float().cpu().numpy())
        return np.concatenate(out)

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit text embeddings (N, dim), in order."""
        import torch

        out = []
        with torch.inference_mode():
            for start in range(0, len(texts), _TEXTS_AT_ONCE):
                rows = self._tokenizer(list(texts[start : start + _TEXTS_AT_ONCE])).to(self.device)
                out.append(self._model.encode_text(rows).float().cpu().numpy())
        return unit(np.concatenate(out))


def _loaded(name: str, weights: str | Path | None) -> tuple[Any, Any]:
    """The model in float32, ready for inference, and its tokenizer."""
    try:
        library = import_library("open_clip")
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "models of open_clip need its package: pip install open_clip_torch"
        ) from error
    from_hub = name.startswith("hf-hub:")
    model, _, tag = (name, "", "") if from_hub else name.partition("/")
    if not from_hub and model not in library.list_models():
        raise ModelNotFound(f"open_clip has no model {model!r}; open_clip.list_models() names all")
    if weights is not None and not Path(weights).is_file():
        raise WeightsNotFound(f"{weights} is no file; open_clip's weights are one file")
    if not from_hub and not tag and weights is None:
        tags = ", ".join(library.list_pretrained_tags_by_model(model)) or "none"
        raise WeightsNotFound(
            f"{PREFIX}{model} has no weights: write {PREFIX}{model}/TAG with one of open_clip's "
            f"tags ({tags}), or give a file with --weights"
        )
    try:
        made = library.create_model(model, pretrained=str(weights) if weights else tag or None)
    except (RuntimeError, OSError) as error:
        raise WeightsNotFound(f"open_clip cannot load {name}: {error}") from error
    return made.float().eval(), library.get_tokenizer(model)


def _tower_sha256(model: Any) -> dict[str, str]:
    """A hash of the tensors below `visual.`, and one of all others."""
    towers = {"vision": hashlib.sha256(), "text": hashlib.sha256()}
    for key, tensor in sorted(model.state_dict().items()):
        tower = towers["vision" if key.startswith("visual.") else "text"]
        tower.update(key.encode() + tensor.float().cpu().numpy().tobytes())
    return {name: tower.hexdigest() for name, tower in towers.items()}
