"""What the encoders of this package have in common: pictures, videos, labels, devices.

Knows no network: those who inherit it make embeddings of frames and of texts.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_search.encoder.device import (
    check_devices,
    choose_devices,
    choose_dtype,
    described,
    float_of,
)
from perception_search.encoder.protocol import POOLINGS, Pooling
from perception_search.errors import MediaError
from perception_search.frames import FrameSpec, prepare_image

if TYPE_CHECKING:
    import torch
    from PIL import Image

    Picture: TypeAlias = Image.Image | str | Path | NDArray[np.uint8]


class TorchEncoder(ABC):
    """An `Encoder` in torch, with the ways in that need no collection.

    Args:
        device: `cpu`, `cuda`, `cuda:<n>`, `mps`, or `auto`: the first there is of cuda, mps, cpu.
            Several have commas between, and `cuda:*` is every GPU.
        dtype: `auto`, `float32`, `bfloat16` or `int8`.
        batch_size: frames per step; None for what suits the device.
        pooling: how the frames of a video become one vector; see `pool_frames`.

    Raises:
        ValueError: no such device, dtype or pooling, or a batch of no frames.
    """

    def __init__(self, device: str, dtype: str, batch_size: int | None, pooling: Pooling) -> None:
        check_devices(device, dtype)
        check_pooling(pooling)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size={batch_size}; must be >= 1")
        self._device = device
        self._dtype = dtype
        self._batch_size = batch_size
        self.pooling = pooling

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of an embedding."""

    @cached_property
    def dtype(self) -> str:
        """What is computed in: `float32`, `bfloat16` or `int8`."""
        return choose_dtype(self._dtype, self.device)

    @property
    @abstractmethod
    def logit_scale(self) -> float:
        """The factor before the softmax over cosines."""

    @property
    @abstractmethod
    def frame_spec(self) -> FrameSpec:
        """The pixels that `encode_frames` wants."""

    @abstractmethod
    def encode_frames(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw image embeddings (N, dim) of frames (N, 3, H, W), in order."""

    @abstractmethod
    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit text embeddings (N, dim), in order."""

    @property
    @abstractmethod
    def _gpu_batch_size(self) -> int:
        """Frames that keep a GPU busy."""

    @cached_property
    def devices(self) -> "tuple[torch.device, ...]":
        """What frames are shared out to."""
        return choose_devices(self._device, self._dtype)

    @property
    def device(self) -> "torch.device":
        """Where the networks of this process are: the first of the devices."""
        return self.devices[0]

    @property
    def batch_size(self) -> int:
        """How many frames are computed at a time."""
        if self._batch_size is not None:
            return self._batch_size
        if self.device.type != "cpu":
            return self._gpu_batch_size
        import torch

        return max(4, torch.get_num_threads())  # more gains nothing and leaves the caches

    @property
    def provenance(self) -> Mapping[str, str]:
        """Devices, dtype and versions."""
        import torch

        devices = ", ".join(map(described, self.devices))
        return {"device": devices, "dtype": self.dtype, "torch": str(torch.__version__)}

    def encode_stream(
        self, batches: "Iterable[NDArray[np.uint8]]"
    ) -> Iterator[NDArray[np.float32]]:
        """`encode_frames` of every batch, in order; on a CPU several at once, one a core."""
        if self.device.type != "cpu":
            return map(self.encode_frames, batches)
        from perception_search.encoder.streams import encode_in_threads

        return encode_in_threads(self.encode_frames, batches)

    def encode_images(self, images: "Sequence[Picture]") -> NDArray[np.float32]:
        """Unit embeddings (N, dim) of pictures, in order. Only the image network is loaded.

        Args:
            images: pictures, paths of pictures, or uint8 arrays (H, W, 3) in RGB, of any size.
                They are turned upright as their EXIF says.

        Raises:
            MediaError: a file is not a picture that can be read.
        """
        if isinstance(images, str | Path):
            raise TypeError(f"images is one path, {str(images)!r}; pass a list")
        out = [np.zeros((0, self.dim), np.float32)]
        for start in range(0, len(images), self.batch_size):
            part = images[start : start + self.batch_size]
            out.append(
                self.encode_frames(
                    np.stack([picture_pixels(image, self.frame_spec) for image in part])
                )
            )
        return unit(np.concatenate(out))

    def encode_video(
        self, frames: NDArray[np.uint8], *, pooling: Pooling | None = None
    ) -> NDArray[np.float32]:
        """The embedding (dim,) of a video: see `pool_frames`.

        Args:
            frames: uint8 (T, 3, H, W), RGB, T >= 1.
            pooling: `unit-frames` or `raw-frames`; None for the encoder's own.
        """
        if not len(frames):
            raise ValueError("a video of 0 frames; at least 1 is needed")
        return pool_frames(self.encode_frames(frames), pooling or self.pooling)

    def __call__(
        self, images: "Sequence[Picture]", texts: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
        """Unit image embeddings (N, dim), unit text embeddings (M, dim) and the logit scale."""
        return self.encode_images(images), self.encode_text(texts), self.logit_scale

    def classify(self, image: "Picture", labels: Sequence[str]) -> dict[str, float]:
        """The probability of each label, in the order given; they sum to 1.

        Args:
            image: a picture, a path, or a uint8 array (H, W, 3).
            labels: what it may show, each as one text: `a photo of a cat` does better than `cat`.
        """
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(f"labels={list(labels)}; at least one is needed, and none twice")
        image_embedding, text_embeddings, logit_scale = self([image], labels)
        logits = logit_scale * (text_embeddings @ image_embedding[0]).astype(np.float64)
        weights = np.exp(logits - logits.max())
        return dict(zip(labels, (weights / weights.sum()).tolist(), strict=True))

    @property
    def _float(self) -> "torch.dtype":
        return float_of(self.dtype)


def picture_pixels(image: "Picture", spec: FrameSpec) -> NDArray[np.uint8]:
    """A picture, a path of one, or a uint8 array (H, W, 3) in RGB, as uint8 (3, H, W).

    Raises:
        MediaError: the file is not a picture that can be read.
        ValueError: an array of another shape or dtype.
    """
    from PIL import Image

    if isinstance(image, Image.Image):
        return prepare_image(image, spec)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"an image is {image.dtype} of shape {image.shape}; must be uint8 (H, W, 3)"
            )
        return prepare_image(Image.fromarray(image), spec)
    try:
        with Image.open(image) as opened:
            return prepare_image(opened, spec)
    except FileNotFoundError:
        raise
    except Exception as error:  # picture files raise anything
        raise MediaError("unreadable", f"{image} cannot be read: {error}") from error


def check_pixels(pixels: NDArray[np.uint8]) -> None:
    """Raise ValueError unless these are frames: uint8 (N, 3, H, W)."""
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(
            f"pixels are {pixels.dtype} of shape {pixels.shape}; must be uint8 (N, 3, H, W)"
        )


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors (..., dim) at length 1."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    out: NDArray[np.float32] = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return out


def pool_frames(embeddings: NDArray[np.float32], pooling: Pooling) -> NDArray[np.float32]:
    """One vector (..., dim) from raw frame embeddings (..., T, dim).

    Both are means, as the reference's `encode_video` takes them (its `pe.py`).

    Args:
        embeddings: of the frames, of any length.
        pooling: `unit-frames` is the mean of the frames at unit length; it is shorter than 1,
            and the reference's retrieval benchmark keeps it so. `raw-frames` is the mean of the
            frames as they are, then made unit, as the reference's classification benchmark does.

    Raises:
        ValueError: no such pooling.
    """
    check_pooling(pooling)
    if pooling == "unit-frames":
        mean: NDArray[np.float32] = unit(embeddings).mean(axis=-2)
        return mean
    return unit(embeddings.mean(axis=-2))


def check_pooling(pooling: str) -> None:
    """Raise ValueError unless there is such a pooling."""
    if pooling not in POOLINGS:
        raise ValueError(f"pooling={pooling!r}; one of {', '.join(POOLINGS)}")
