"""PerceptionEncoder: pictures, frames and texts become vectors; knows no collection.

Each tower is loaded when it is first needed, and torch with it.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from perception_search.decode_limits import num_cores
from perception_search.encoder.base import TorchEncoder, check_pixels, unit
from perception_search.encoder.config import MODELS, ModelConfig
from perception_search.encoder.names import resolve_name
from perception_search.encoder.protocol import POOLINGS, Identity, Pooling
from perception_search.encoder.tokenizer import LongTexts, split, tokenize
from perception_search.encoder.weights import find_weights, load_tower, tower_sha256
from perception_search.errors import ModelNotFound
from perception_search.frames import FrameSpec

if TYPE_CHECKING:
    import torch

    from perception_search.encoder.towers import TextTower, VisionTower

_GPU_TOKENS_PER_BATCH = 65536


class PerceptionEncoder(TorchEncoder):
    """A released PE-Core model, on one device. An `Encoder`, and useful without a collection.

    >>> encoder = PerceptionEncoder("PE-Core-B16-224")
    >>> images, texts, logit_scale = encoder([picture], ["a dog", "a cat"])

    Args:
        model: a name as released, with or without `facebook/`, or as open_clip, timm or birder
            have it.
        weights: a file in any of their layouts, or a folder that holds `<name>.safetensors` or
            `<name>.pt`. Without it the folder in PERCEPTION_SEARCH_WEIGHTS is looked into, then
            the hub.
        projection: a file that has what `weights` lacks: birder's have no projection, timm's and
            birder's no text tower.
        device: `cpu`, `cuda`, `cuda:<n>`, `mps`, or `auto`: the first there is of cuda, mps, cpu.
            Several, `cuda:0,cuda:1` or `cuda:*` for every GPU, share the batches of
            `encode_stream`, a process each; all else is computed on the first.
        dtype: of the computation. `auto` is bfloat16 where the device computes in it (a CPU needs
            avx512_bf16 or amx_bf16), else float32. `int8` is for a CPU, and an approximation.
        batch_size: frames per step; without it, what suits the device.
        pooling: how the frames of a video become one vector; see `pool_frames`.
        long_texts: `cut` drops what a text has beyond the context, with a warning. `split` embeds
            such a text in pieces, and its embedding is their mean, weighted by their tokens.
        compile: compute frames by `torch.compile`, always `batch_size` at a time. It takes some
            seconds before the first frame, and is for many frames on a GPU.
        attention: of texts: `sdpa` is torch's own; `xformers` computes texts of different lengths
            as one row, on CUDA.

    Raises:
        ModelNotFound: for a name that is not known, or of a model without text tower.
        WeightsNotFound: `weights` or `projection` is given and holds none.
    """

    def __init__(
        self,
        model: str,
        *,
        weights: str | Path | None = None,
        projection: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | None = None,
        pooling: Pooling = "unit-frames",
        long_texts: LongTexts = "cut",
        compile: bool = False,  # noqa: A002
        attention: Literal["sdpa", "xformers"] = "sdpa",
    ) -> None:
        super().__init__(device, dtype, batch_size, pooling)
        if long_texts not in ("cut", "split"):
            raise ValueError(f"long_texts={long_texts!r}; 'cut' or 'split'")
        self._long_texts = long_texts
        if attention not in ("sdpa", "xformers"):
            raise ValueError(f"attention={attention!r}; 'sdpa' or 'xformers'")
        if compile and dtype == "int8":
            raise ValueError("compile=True with dtype='int8'; int8 is not compiled")
        self._attention = attention
        self._compile = compile
        self.config = MODELS[resolve_name(model)]
        if self.config.text is None:
            raise ModelNotFound(
                f"{self.config.name} has no text tower: it gives features of pictures, by "
                "FeatureExtractor or `perception-search features`; for embeddings take a PE-Core "
                "model"
            )
        self._text_config = self.config.text
        self._weights = None if weights is None else find_weights(self.config.name, weights)
        self._projection = (
            None if projection is None else find_weights(self.config.name, projection)
        )
        self._loading = threading.RLock()
        self._vision: VisionTower | None = None
        self._text: TextTower | None = None
        self._num_text_calls = 0

    @staticmethod
    def available() -> tuple[ModelConfig, ...]:
        """The models there are, family by family, smallest first."""
        return tuple(MODELS.values())

    @cached_property
    def identity(self) -> Identity:
        """What the embeddings are. Reads both towers' bytes once, then remembers their hashes.

        Raises:
            WeightsNotFound: the weights are nowhere.
            WeightsMismatch: the weights are not this model's.
        """
        path = self._weights_path
        return Identity(
            model=self.config.name,
            dim=self.dim,
            vision_sha256=tower_sha256(path, self.config, "vision", projection=self._projection),
            text_sha256=tower_sha256(path, self.config, "text", projection=self._projection),
            preprocessing=self.config.vision.preprocessing,
            pooling=POOLINGS[self.pooling],
        )

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._text_config.output_dim

    @property
    def frame_spec(self) -> FrameSpec:
        """The pixels that `encode_frames` wants."""
        size = self.config.vision.image_size
        return FrameSpec(height=size, width=size)

    @property
    def _gpu_batch_size(self) -> int:
        fitting = _GPU_TOKENS_PER_BATCH // self.config.vision.num_tokens
        return int(2 ** (fitting.bit_length() - 1))

    @property
    def vision(self) -> "VisionTower":
        """The vision tower; its `features` gives tokens. Loaded at the first call."""
        with self._loading:
            if self._vision is None:
                self._vision = load_tower(
                    self._weights_path,
                    self.config,
                    "vision",
                    device=self.device,
                    dtype=self._float,
                    projection=self._projection,
                )
                self._quicken(self._vision)
            return self._vision

    @property
    def text(self) -> "TextTower":
        """The text tower. Loaded at the first call."""
        with self._loading:
            if self._text is None:
                self._text = load_tower(
                    self._weights_path,
                    self.config,
                    "text",
                    device=self.device,
                    dtype=self._float,
                    projection=self._projection,
                )
                if self.dtype == "int8":
                    self._quicken(self._text)
            return self._text

    @property
    def logit_scale(self) -> float:
        """The factor before the softmax over cosines."""
        return float(self.text.logit_scale.float().exp())

    def encode_frames(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw image embeddings (N, dim) of frames, in order. The text tower is not loaded.

        Args:
            pixels: uint8 (N, 3, H, W), RGB. H and W are those of `frame_spec`, or other multiples
                of the patch size.
        """
        import torch

        check_pixels(pixels)
        if not len(pixels):
            return np.zeros((0, self.dim), np.float32)
        compute = self._compute
        out = []
        with torch.inference_mode():
            for start in range(0, len(pixels), self.batch_size):
                part = np.require(pixels[start : start + self.batch_size], requirements=["C", "W"])
                batch = torch.from_numpy(part).to(self.device)
                out.append(compute(batch))
            return _numpy(torch.cat(out))

    def encode_stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        """`encode_frames` of every batch, in order, on all devices.

        Raises:
            EncoderError: the process of one of several devices failed.
        """
        if len(self.devices) > 1:
            from perception_search.encoder.device_process import encode_on_devices

            return encode_on_devices(self._process_starts(), batches, self.dim)
        if self.device.type == "cuda":
            return self.encode_overlapped(batches)
        return super().encode_stream(batches)

    def encode_overlapped(
        self, batches: Iterable[NDArray[np.uint8] | None]
    ) -> Iterator[NDArray[np.float32]]:
        """`encode_frames` of every batch, in order, while the next is copied to the GPU.

        None among the batches asks for those that are still on their way.
        """
        from perception_search.encoder.overlap import encode_overlapped

        return encode_overlapped(
            self._compute, batches, device=self.device, batch_size=self.batch_size, dim=self.dim
        )

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit text embeddings (N, dim), in order. The vision tower is not loaded.

        A text that is longer than the model reads gives a TruncatedTextWarning, unless it is split.

        Raises:
            MissingExtra: the attention is xformers', which is not installed.
            ValueError: the attention is xformers', and the device is not CUDA.
        """
        if self._long_texts == "cut":
            return unit(self._encode_rows(tokenize(texts, self._text_config.context_length)))
        return self._encode_split(texts)

    def _encode_split(self, texts: Sequence[str]) -> NDArray[np.float32]:
        context_length = self._text_config.context_length
        pieces = [split(text, context_length) for text in texts]
        rows = tokenize([piece for own in pieces for piece in own], context_length)
        num_tokens = rows.argmax(axis=1) - 1  # start and end do not count, an empty text does
        embeddings = unit(self._encode_rows(rows)) * np.maximum(num_tokens, 1)[:, None]
        owners = np.repeat(np.arange(len(texts)), [len(own) for own in pieces])
        sums = np.zeros((len(texts), self.dim), np.float32)
        np.add.at(sums, owners, embeddings)
        return unit(sums)

    def _encode_rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Raw embeddings (N, dim) of rows of tokens (N, context_length), in order."""
        import torch

        by_length = np.argsort(rows.argmax(axis=1), kind="stable")  # short with short: less padding
        size = 64 if self.device.type == "cpu" else 1024
        out = np.zeros((len(rows), self.dim), np.float32)
        tower = self._text_tower()
        with torch.inference_mode():
            for start in range(0, len(rows), size):
                part = by_length[start : start + size]
                out[part] = _numpy(self._texts(tower, rows[part]))
        return out

    def _texts(self, tower: "TextTower", rows: NDArray[np.int64]) -> "torch.Tensor":
        """Raw embeddings (N, dim) of rows of tokens (N, L), on the device."""
        import torch

        if self._attention == "sdpa":
            out: torch.Tensor = tower(torch.from_numpy(rows).to(self.device))
            return out
        from perception_search.encoder.packing import (
            check_xformers,
            encode_packed,
            xformers_attention,
        )

        check_xformers(self.device)
        return encode_packed(tower, rows, xformers_attention)

    @cached_property
    def _compute(self) -> "Callable[[torch.Tensor], torch.Tensor]":
        """Frames (B, 3, H, W) on the device -> raw embeddings (B, dim) there, B <= batch_size."""
        from perception_search.encoder.towers import to_unit_range

        tower, dtype = self.vision, self._float

        def compute(pixels: "torch.Tensor") -> "torch.Tensor":
            out: torch.Tensor = tower(to_unit_range(pixels, dtype))
            return out

        if not self._compile:
            return compute
        from perception_search.encoder.compiled import compile_blocks, in_full_batches

        compile_blocks(tower.transformer)
        return in_full_batches(compute, self.batch_size)

    def _process_starts(self) -> "list[dict[str, Any]]":
        """What the processes of several devices are told first; see `device_worker`."""
        encoder = {
            "model": self.config.name,
            "weights": str(self._weights_path),
            "projection": self._projection and str(self._projection),
            "dtype": self.dtype,
            "batch_size": self.batch_size,
            "compile": self._compile,
        }
        num_threads = max(1, num_cores() // len(self.devices))
        return [
            {"num_threads": num_threads, "encoder": {**encoder, "device": str(device)}}
            for device in self.devices
        ]

    def _text_tower(self) -> "TextTower":
        """The text tower; quickened at the second call, since that takes longer than one query."""
        tower = self.text
        with self._loading:
            self._num_text_calls += 1
            if self._num_text_calls == 2 and self.dtype != "int8":
                self._quicken(tower)
        return tower

    @cached_property
    def _weights_path(self) -> Path:
        return self._weights or find_weights(self.config.name)

    def _quicken(self, tower: "VisionTower | TextTower") -> None:
        """Give a tower the fastest linear layers that its dtype has on a CPU."""
        if self.device.type != "cpu" or self._compile:
            return
        from perception_search.encoder.cpu_linear import can_pack, to_int8, to_packed

        if self.dtype == "int8":
            to_int8(tower)
        elif can_pack(self._float):
            to_packed(tower)


def _numpy(tensor: "torch.Tensor") -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.cpu().numpy()
    return array
