"""StarterEncoder: text-to-image search from two small models of the package index; knows no hub.

Not Perception Encoder, and no match for it: it knows ImageNet's 1,000 classes and little else, so
words for people, places and deeds find little. Its two models were never trained together. The
image model, EfficientNet-lite0 (Tan & Le 2019, arXiv:1905.11946), says how likely each class is;
the text model, all-MiniLM-L6-v2 (Reimers & Gurevych 2019, arXiv:1908.10084), how near each class
name is to a text. Both are distributions over the same classes, and the score, the cosine of their
square roots, is the Bhattacharyya coefficient (1943). That images and words can meet in the space
of class names is ConSE's idea (Norouzi et al. 2014, arXiv:1312.5650).

- Two such spaces are joined, 3 to 1: the classes, and 184 plain kinds (`dog`, `boat`), each the
  sum of its classes. Without the kinds "a dog" finds no breed.
- Image: softmax(logits / T), T = 2 over classes and 1 over kinds, half of the whole picture, half
  the mean of 3 x 3 overlapping windows of the last feature map, which see small things.
- Text: softmax(cosines / 0.04) to "a photo of a <name>".

Nothing was trained; five numbers and the list of kinds were chosen. T and 0.04 began as those of
an earlier comparison on COCO pictures, and were kept because one ImageNet photograph per class,
with a fifth of the classes held out at a time, liked them too. The 3 to 1 and the windows were
chosen on those photographs and on the demo's queries. The kinds were written from the class names
alone. Figures on COCO and on videos were in sight while joins were compared (the last forty were
within 3 points of recall@10), so they flatter it a little; MiniLM itself was trained on COCO's
captions, though not on its pictures.
"""

import contextlib
import hashlib
import io
import threading
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from perception_search import durable
from perception_search.assets import cache_folder, starter_files, starter_sha256
from perception_search.encoder.base import TorchEncoder, unit
from perception_search.encoder.device import check_device
from perception_search.encoder.protocol import POOLINGS, Identity, Pooling
from perception_search.errors import DownloadError, MissingExtra
from perception_search.frames import FrameSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_JOIN = "square roots of class and kind distributions, 3 to 1, windows"  # part of the hashes
_SIZE = 224
_CLASS_TEMPERATURE, _KIND_TEMPERATURE = 2.0, 1.0
_CLASS_SHARE = 0.75
_TEXT_TEMPERATURE = 0.04
_LOGIT_SCALE = 20.0
_MAX_TOKENS = 256
_TEXTS_PER_BATCH = 64
_GPU_BATCH_SIZE = 256


@cache
def classes() -> tuple[tuple[str, ...], tuple[str, ...], NDArray[np.int64]]:
    """The class names (1000), the kinds there are, sorted, and each class's kind (1000,)."""
    lines = _class_table().decode().splitlines()
    table = [line.split("\t") for line in lines if not line.startswith("#")]
    kinds = sorted({kind for _, kind in table})
    kind_of_class = np.array([kinds.index(kind) for _, kind in table])
    return tuple(name for name, _ in table), tuple(kinds), kind_of_class


class StarterEncoder(TorchEncoder):
    """A small `Encoder` that works with no hub; what it knows is said at the top of its module.

    >>> encoder = StarterEncoder()
    >>> encoder.classify("chelsea.png", ["a cat", "a dog"])

    Args:
        device: `cpu`, `cuda`, `cuda:<n>`, `mps`, or `auto`: the first there is of the three.
        dtype: of the image model; `auto` is float32. On a CPU bfloat16 is far slower.
        batch_size: frames per step; without it, what suits the device.
        pooling: how the frames of a video become one vector; see `pool_frames`.
    """

    def __init__(
        self,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | None = None,
        pooling: Pooling = "unit-frames",
    ) -> None:
        if dtype not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"dtype={dtype!r}; the starter takes auto, float32 or bfloat16")
        check_device(device, dtype)  # one, not several
        super().__init__(device, "float32" if dtype == "auto" else dtype, batch_size, pooling)
        self._loading = threading.RLock()
        self._vision: tuple[nn.Module, nn.Module] | None = None
        self._text: _MiniLM | None = None

    @cached_property
    def identity(self) -> Identity:
        """What the embeddings are. The hashes are of the pinned files: none is read."""
        return Identity(
            model="starter",
            dim=self.dim,
            vision_sha256=_tower_sha256("vision"),
            text_sha256=_tower_sha256("text"),
            preprocessing=f"squash to {_SIZE}x{_SIZE}, bicubic, then (RGB - 127) / 128",
            pooling=POOLINGS[self.pooling],
        )

    @cached_property
    def dim(self) -> int:
        """Length of an embedding: one number a class and one a kind."""
        names, kinds, _ = classes()
        return len(names) + len(kinds)

    @property
    def logit_scale(self) -> float:
        """The factor before the softmax over cosines."""
        return _LOGIT_SCALE

    @property
    def frame_spec(self) -> FrameSpec:
        """The pixels that `encode_frames` wants."""
        return FrameSpec(height=_SIZE, width=_SIZE, resize="squash", interpolation="bicubic")

    @property
    def _gpu_batch_size(self) -> int:
        return _GPU_BATCH_SIZE

    def encode_frames(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Image embeddings (N, dim) of frames, in order; of length 1 as they are made.

        Args:
            pixels: uint8 (N, 3, 224, 224), RGB.

        Raises:
            MissingExtra: `perception-search[starter]` is not installed.
            DownloadError: the weights cannot be fetched.
        """
        import torch

        if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, _SIZE, _SIZE):
            raise ValueError(
                f"pixels are {pixels.dtype} of shape {pixels.shape}; "
                f"must be uint8 (N, 3, {_SIZE}, {_SIZE})"
            )
        out = np.zeros((len(pixels), self.dim), np.float32)
        if not len(pixels):
            return out
        features, classifier = self._vision_tower()
        kind_of_class = torch.from_numpy(classes()[2]).to(self.device)
        with torch.inference_mode():
            for start in range(0, len(pixels), self.batch_size):
                part = np.require(pixels[start : start + self.batch_size], requirements=["C", "W"])
                batch = torch.from_numpy(part).to(self.device, self._float)
                batch = batch.sub_(127).div_(128).contiguous(memory_format=torch.channels_last)
                logits = _window_logits(features(batch), classifier)  # (N, 1 + 9, 1000)
                by_class = _class_distribution(logits, _CLASS_TEMPERATURE)
                by_kind = torch.zeros(len(part), len(classes()[1]), device=self.device)
                by_kind.index_add_(1, kind_of_class, _class_distribution(logits, _KIND_TEMPERATURE))
                out[start : start + len(part)] = _join(by_class, by_kind)
        return out

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit text embeddings (N, dim), in order. The image model is not loaded.

        Raises:
            DownloadError: the weights cannot be fetched.
        """
        import torch

        if isinstance(texts, str):
            raise TypeError(f"texts is one text, {texts!r}; pass a list")
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        sentences = torch.from_numpy(self._text_tower().encode(texts))  # (N, 384)
        cosines = sentences @ torch.from_numpy(self._name_vectors).T  # (N, dim)
        num_classes = len(classes()[0])
        by_class = (cosines[:, :num_classes] / _TEXT_TEMPERATURE).softmax(dim=1)
        by_kind = (cosines[:, num_classes:] / _TEXT_TEMPERATURE).softmax(dim=1)
        return unit(_join(by_class, by_kind))

    def _vision_tower(self) -> "tuple[nn.Module, nn.Module]":
        with self._loading:
            if self._vision is None:
                features, classifier = _efficientnet_lite0()
                self._vision = (
                    features.to(self.device, self._float),
                    classifier.to(self.device, self._float),
                )
            return self._vision

    def _text_tower(self) -> "_MiniLM":
        with self._loading:
            if self._text is None:
                self._text = _MiniLM(self.device)
            return self._text

    @cached_property
    def _name_vectors(self) -> NDArray[np.float32]:
        """Sentence vectors (dim, 384) of all class and kind names; kept in the cache folder."""
        path = cache_folder() / f"starter-names-{self.identity.text_sha256[:16]}.bin"
        shape = (self.dim, _MiniLM.width)
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                return np.frombuffer(content[32:], np.float32).reshape(shape).copy()
        names, kinds, _ = classes()
        vectors = self._text_tower().encode([f"a photo of a {name}" for name in names + kinds])
        with contextlib.suppress(OSError):  # a cache that cannot be written is done without
            content = vectors.tobytes()
            durable.write(path, hashlib.sha256(content).digest() + content)
        return vectors


def _window_logits(features: "Tensor", classifier: "nn.Module") -> "Tensor":
    """Logits (N, 1 + 9, 1000) of the whole picture, then of its windows, from (N, 1280, 7, 7)."""
    import torch
    from torch.nn.functional import avg_pool2d

    whole = features.mean(dim=(2, 3))[:, None]  # (N, 1, 1280)
    windows = avg_pool2d(features, kernel_size=3, stride=2).flatten(2).transpose(1, 2)
    logits: Tensor = classifier(torch.cat([whole, windows], dim=1))
    return logits.float()


def _class_distribution(logits: "Tensor", temperature: float) -> "Tensor":
    """Probabilities (N, 1000): half from the whole picture, half from the mean of its windows."""
    probabilities = (logits / temperature).softmax(dim=2)
    return 0.5 * probabilities[:, 0] + 0.5 * probabilities[:, 1:].mean(dim=1)


def _join(by_class: "Tensor", by_kind: "Tensor") -> NDArray[np.float32]:
    """One vector (N, dim) of length 1 from two distributions (N, 1000) and (N, kinds)."""
    import torch

    joint = torch.cat([_CLASS_SHARE * by_class, (1 - _CLASS_SHARE) * by_kind], dim=1)
    array: NDArray[np.float32] = joint.sqrt().cpu().numpy()
    return array


def _efficientnet_lite0() -> "tuple[nn.Module, nn.Module]":
    """Feature maps (N, 1280, 7, 7) of pictures, and the linear classifier over their mean.

    The network of `efficientnet_lite_pytorch` with every batch norm folded into its convolution,
    and no copy made for padding where the convolution can pad by itself: 2 to 3 times as fast.
    """
    import torch
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingExtra(
            "the starter encoder needs efficientnet_lite_pytorch, which is not installed; "
            "pip install 'perception-search[starter]'"
        ) from error

    class Residual(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: "Tensor") -> "Tensor":
            out: Tensor = self.body(x).add_(x)
            return out

    def folded(conv: Any, norm: Any, *, is_active: bool = True) -> nn.Module:
        fused = fuse_conv_bn_eval(conv, norm)
        left, right, top, bottom = getattr(conv.static_padding, "padding", (0, 0, 0, 0))
        is_even = left == right == top == bottom
        plain = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            padding=left if is_even else 0,
            groups=conv.groups,
        )
        weight = fused.weight.contiguous(memory_format=torch.channels_last)
        plain.weight, plain.bias = nn.Parameter(weight), fused.bias
        pad = [] if is_even else [nn.ZeroPad2d((left, right, top, bottom))]
        return nn.Sequential(*pad, plain, *([nn.ReLU6(inplace=True)] if is_active else []))

    content = io.BytesIO(_starter_bytes("vision", "efficientnet-lite0.pth"))
    with torch.device("meta"):
        network = EfficientNet.from_name("efficientnet-lite0").eval()
    tensors = torch.load(content, map_location="cpu", weights_only=True)
    network.load_state_dict(tensors, assign=True)
    network.requires_grad_(False)
    steps = [folded(network._conv_stem, network._bn0)]
    for block in network._blocks:
        body = [folded(block._depthwise_conv, block._bn1)]
        if hasattr(block, "_expand_conv"):
            body.insert(0, folded(block._expand_conv, block._bn0))
        body.append(folded(block._project_conv, block._bn2, is_active=False))
        has_same_shape = (
            tuple(block._depthwise_conv.stride) == (1, 1)
            and block._block_args.input_filters == block._block_args.output_filters
        )
        layers = nn.Sequential(*body)
        steps.append(Residual(layers) if has_same_shape else layers)
    steps.append(folded(network._conv_head, network._bn1))
    features = nn.Sequential(*steps).eval().requires_grad_(False)
    return features, network._fc


class _MiniLM:
    """all-MiniLM-L6-v2: sentences become unit vectors (N, 384). A six-layer BERT, mean pooled."""

    width = 384

    def __init__(self, device: "torch.device") -> None:
        import safetensors.torch
        from tokenizers import Tokenizer
        from torch import nn

        tensors = safetensors.torch.load(_starter_bytes("text", "model.safetensors"))
        self._device = device
        self._tokenizer = Tokenizer.from_buffer(_starter_bytes("text", "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._words = tensors["embeddings.word_embeddings.weight"].to(device)
        self._places = (
            tensors["embeddings.position_embeddings.weight"]
            + tensors["embeddings.token_type_embeddings.weight"][0]
        ).to(device)
        self._norm = nn.LayerNorm(self.width, eps=1e-12)
        self._norm.load_state_dict(_renamed(tensors, "embeddings.LayerNorm.", {"": ""}))
        layer = nn.TransformerEncoderLayer(
            self.width,
            nhead=12,
            dim_feedforward=1536,
            dropout=0.0,
            activation="gelu",
            layer_norm_eps=1e-12,
            batch_first=True,
        )
        self._layers = nn.TransformerEncoder(layer, num_layers=6, enable_nested_tensor=False)
        for index, target in enumerate(self._layers.layers):
            target.load_state_dict(_bert_layer(tensors, f"encoder.layer.{index}."))
        for module in (self._norm, self._layers):
            module.to(device).eval().requires_grad_(False)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit sentence vectors (N, 384), in order. What is beyond 256 tokens is not read."""
        import torch

        clean = [text.encode("utf-8", "replace").decode() for text in texts]  # lone surrogates
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(clean)]
        by_length = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        out = np.zeros((len(rows), self.width), np.float32)
        with torch.inference_mode():
            for start in range(0, len(rows), _TEXTS_PER_BATCH):
                part = by_length[start : start + _TEXTS_PER_BATCH]
                longest = len(rows[part[-1]])
                ids = torch.zeros(len(part), longest, dtype=torch.int64)
                is_padding = torch.ones(len(part), longest, dtype=torch.bool)
                for line, row in enumerate(part):
                    ids[line, : len(rows[row])] = torch.tensor(rows[row])
                    is_padding[line, : len(rows[row])] = False
                is_padding = is_padding.to(self._device)
                x = self._norm(self._words[ids.to(self._device)] + self._places[:longest])
                x = self._layers(x, src_key_padding_mask=is_padding)  # (N, L, 384)
                x = x.masked_fill(is_padding[:, :, None], 0.0).sum(dim=1)  # unit, so sum is mean
                out[part] = torch.nn.functional.normalize(x, dim=1).cpu().numpy()
        return out


def _bert_layer(tensors: "Mapping[str, Tensor]", prefix: str) -> "dict[str, Tensor]":
    """The tensors of one layer of BERT by the names of torch's own layer."""
    import torch

    attention = [f"{prefix}attention.self.{part}." for part in ("query", "key", "value")]
    out = {
        f"self_attn.in_proj_{name}": torch.cat([tensors[part + name] for part in attention])
        for name in ("weight", "bias")
    }
    return out | _renamed(
        tensors,
        prefix,
        {
            "attention.output.dense.": "self_attn.out_proj.",
            "attention.output.LayerNorm.": "norm1.",
            "intermediate.dense.": "linear1.",
            "output.dense.": "linear2.",
            "output.LayerNorm.": "norm2.",
        },
    )


def _renamed(
    tensors: "Mapping[str, Tensor]", prefix: str, names: Mapping[str, str]
) -> "dict[str, Tensor]":
    return {
        f"{new}{kind}": tensors[f"{prefix}{old}{kind}"]
        for old, new in names.items()
        for kind in ("weight", "bias")
    }


def _starter_bytes(tower: Literal["vision", "text"], name: str) -> bytes:
    """A file of the starter, compared with its pinned hash before anything is made of it."""
    path = starter_files(tower) / name
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != starter_sha256(tower)[name]:
        raise DownloadError(f"{path} is damaged; delete it and it will be fetched again")
    return content


def _tower_sha256(tower: Literal["vision", "text"]) -> str:
    parts = [*sorted(starter_sha256(tower).values()), hashlib.sha256(_class_table()).hexdigest()]
    return hashlib.sha256("\n".join([*parts, _JOIN]).encode()).hexdigest()


@cache
def _class_table() -> bytes:
    return Path(__file__).with_name("imagenet_classes.txt").read_bytes().replace(b"\r", b"")
