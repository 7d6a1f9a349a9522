"""How far bfloat16, int8 and the fast JPEG way are from float32, with weights as random ones and
with outlier channels planted in them.

Trained vision transformers carry a few residual channels a hundred times as large as the others;
random weights do not, and so flatter every rounding. These cosines are an indication; real weights
are measured by `perception-search verify-model`.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load_file, save_file

from perception_search import PerceptionEncoder
from perception_search.encoder.config import MODELS

OUTLIER_CHANNELS = (3, 77, 150)
OUTLIER_FACTOR = 100
TEXTS = (
    "a brown dog runs over the green grass",
    "two people shaking hands in front of a bookshelf",
    "the skyline of a city at night, seen from the water",
    "a cat",
    "someone cuts an onion into very thin slices with a large kitchen knife",
    "an empty street in the rain",
    "children on a merry-go-round",
    "a diagram of the water cycle",
)


def cosines(a, b):
    """Of each row of `a` to the same row of `b`, in float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def photograph(seed, width, height):
    """A smooth picture of random colours with a little noise, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    rough = Image.fromarray(rng.integers(0, 256, (75, 100, 3), np.uint8))
    smooth = np.asarray(rough.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = smooth + rng.integers(-12, 13, smooth.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def with_outliers(weights, path):
    """The same weights with a few channels of both residual streams a hundred times as large."""
    tensors = load_file(weights)
    channels = list(OUTLIER_CHANNELS)
    for key in ("visual.ln_pre.weight", "visual.ln_pre.bias"):
        tensors[key][channels] *= OUTLIER_FACTOR
    for key in ("token_embedding.weight", "positional_embedding"):
        if key in tensors:
            tensors[key][:, channels] *= OUTLIER_FACTOR
    save_file(tensors, path)
    return path


def precision(name, weights, *, with_text):
    """The lowest cosine to float32 of each way, over pictures and over texts, by name."""
    size = MODELS[name].vision.image_size
    pixels = np.stack(
        [photograph(seed, size, size).transpose(2, 0, 1) for seed in range(4)]
    )  # (4, 3, size, size)
    exact = PerceptionEncoder(name, weights=weights, dtype="float32", device="cpu")
    expected = exact.encode_frames(pixels)
    words = exact.encode_text(TEXTS) if with_text else None
    others = cosines(expected[:-1], expected[1:])
    found = {"different pictures": float(others.max())}
    if words is not None:
        found["different texts"] = float(cosines(words[:-1], words[1:]).max())
    for dtype in ("bfloat16", "int8"):
        encoder = PerceptionEncoder(name, weights=weights, dtype=dtype, device="cpu")
        found[f"{dtype} pictures"] = float(cosines(encoder.encode_frames(pixels), expected).min())
        if words is not None:
            found[f"{dtype} texts"] = float(cosines(encoder.encode_text(TEXTS), words).min())
    return found


def jpeg_precision(name, weights, fast, exact):
    """The cosine of a picture decoded small to the same decoded whole, both in float32.

    Args:
        name: as released.
        weights: their file.
        fast: uint8 (3, H, W).
        exact: likewise.
    """
    encoder = PerceptionEncoder(name, weights=weights, dtype="float32", device="cpu")
    embeddings = encoder.encode_frames(np.stack([fast, exact]))
    return float(cosines(embeddings[0], embeddings[1]))


def all_precisions(name, weights, folder, *, with_text, fast, exact):
    """`precision` and `jpeg_precision` for the weights as they are and with outliers."""
    found = {}
    planted = with_outliers(weights, Path(folder) / f"outliers-{name}.safetensors")
    for kind, path in (("", weights), ("outliers ", planted)):
        own = precision(name, path, with_text=with_text)
        own["fast JPEG"] = jpeg_precision(name, path, fast, exact)
        found |= {f"{kind}{what}": cosine for what, cosine in own.items()}
    planted.unlink()
    return found
