"""A small, fast encoder without a network, and collections made with it."""

import hashlib
import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from perception_search.encoder.protocol import POOLINGS, Identity, Pooling
from perception_search.frames import FrameSpec

SIZE = 16
WORDS = ("red", "green", "blue", "dark", "bright")


class ColourEncoder:
    """Sees mean colours on a 4 x 4 grid; its words are colours. About a millisecond a call."""

    def __init__(
        self,
        dim: int = 64,
        delay_seconds: float = 0.0,
        seed: int = 0,
        pooling: Pooling = "unit-frames",
    ) -> None:
        rng = np.random.default_rng(seed)
        self._project = rng.standard_normal((48 + 1, dim)).astype(np.float32)
        self._delay_seconds = delay_seconds
        self.num_frames = 0
        self.num_texts = 0
        digest = hashlib.sha256(self._project.tobytes()).hexdigest()
        self._identity = Identity(
            "colours", dim, digest, digest, f"squash {SIZE}", POOLINGS[pooling]
        )

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def frame_spec(self) -> FrameSpec:
        return FrameSpec(SIZE, SIZE)

    @property
    def batch_size(self) -> int:
        return 16

    @property
    def provenance(self) -> Mapping[str, str]:
        return {"device": "cpu", "dtype": "float32"}

    def encode_frames(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert pixels.dtype == np.uint8
        assert pixels.shape[1:] == (3, SIZE, SIZE)
        time.sleep(self._delay_seconds)
        self.num_frames += len(pixels)
        cells = pixels.reshape(len(pixels), 3, 4, SIZE // 4, 4, SIZE // 4).mean((3, 5))
        return self._raw(cells.reshape(len(pixels), 48) / 255)

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.num_texts += len(texts)
        raw = self._raw(np.stack([self._picture_of(text) for text in texts]))
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)

    def _raw(self, cells: NDArray[np.floating]) -> NDArray[np.float32]:
        centred = np.concatenate([cells - 0.5, np.full((len(cells), 1), 0.1)], axis=1)
        return (centred @ self._project).astype(np.float32)

    def _picture_of(self, text: str) -> NDArray[np.floating]:
        colour = {
            "red": (1, 0, 0),
            "green": (0, 1, 0),
            "blue": (0, 0, 1),
            "dark": (0, 0, 0),
            "bright": (1, 1, 1),
        }
        chosen = [colour[word] for word in text.split() if word in colour] or [(0.5, 0.5, 0.5)]
        return np.repeat(np.mean(chosen, axis=0), 16)


class OtherEncoder(ColourEncoder):
    """Another model, by default of another dimension."""

    def __init__(self, dim=32, seed=9):
        super().__init__(dim, seed=seed)
        ours = self._identity
        self._identity = Identity("others", *list(ours.as_dict().values())[1:])
