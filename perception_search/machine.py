"""How fast this machine decodes, embeds and scores; knows no weights and no collection.

Everything is measured as an ingest or a query does it, on a small part of the work.
"""

import collections
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from perception_search.decode import Decoded, DecodePool, Event, Failed, FrameSpec, Sampling
from perception_search.embed import embedded
from perception_search.encoder import Identity
from perception_search.encoder.perception import PerceptionEncoder
from perception_search.ingest import STILL_LEVELS
from perception_search.rows import SCAN_BLOCK_ROWS
from perception_search.scoring import cosines
from perception_search.video_sampling import MAX_FRAMES_PER_CHUNK

IMAGES_SECONDS = 0.5
VIDEOS_SECONDS = 2.0
ENCODE_SECONDS = 0.4
"""About how long each measurement takes; more where one file, or one picture, takes longer."""

QUERY = "a dog runs after a ball on sand"
"""Ten tokens: eight words, and the marks of its start and its end."""

_CACHE_BYTES = 256 << 20  # weights that are read from memory, as all of a model are
_SCAN_ROUNDS = 5


# Decoding


@dataclass(frozen=True)
class DecodeCost:
    """What decoding took, of a sample of files.

    Attributes:
        image_seconds: of one worker for a picture, all workers at work; 0 where none was read.
        video_seconds: the same for a second of video.
        num_images: pictures that were decoded.
        num_videos: videos that were decoded, at least their beginning.
        num_unreadable: files of the sample that cannot be read.
        frames_off_grid: frames of a video that stand for no point of its time grid.
        new_share: share of a video's frames that show anything new: only those are embedded.
    """

    image_seconds: float = 0.0
    video_seconds: float = 0.0
    num_images: int = 0
    num_videos: int = 0
    num_unreadable: int = 0
    frames_off_grid: float = 0.0
    new_share: float = 1.0

    @property
    def readable_share(self) -> float:
        """Share of the sample that was decoded; 0 where there is none."""
        num_read = self.num_images + self.num_videos
        return num_read / max(num_read + self.num_unreadable, 1)


def decode_cost(
    paths: Sequence[Path],
    spec: FrameSpec,
    sampling: Sampling,
    *,
    seconds: float,
    num_workers: int | None = None,
    seed: int = 0,
) -> DecodeCost:
    """What it costs to decode files, by decoding some until the time is over.

    A long video counts as far as it was decoded by then; of the first one some is always.

    Args:
        paths: pictures or videos, not both: a mixture would not tell what each costs.
        spec: the pixels wanted.
        sampling: the frames of videos wanted.
        seconds: that may be used.
        num_workers: processes; None for one a core, as an ingest has them.
        seed: decides which files are taken.
    """
    if not paths:
        return DecodeCost()
    workers = min(num_workers or os.cpu_count() or 1, len(paths))
    order = random.Random(seed).sample(list(paths), len(paths))
    sampled = _Sample(order, workers, seconds, sampling.frames_per_second)
    with DecodePool(spec, sampling, num_workers=workers) as pool:
        events = sampled.watched(pool.decode(sampled.taken(), sampled.claim))
        encoder = _CountingEncoder(spec)
        still_levels = STILL_LEVELS if sampling.skip_stills else 0.0
        collections.deque(embedded(events, encoder, still_levels), maxlen=0)
    return sampled.cost(encoder.num_frames)


class _Sample:
    """Notes when each file of a sample was begun and how far it came."""

    def __init__(
        self, paths: Sequence[Path], num_workers: int, seconds: float, frames_per_second: float
    ) -> None:
        self._paths = paths
        self._first = frozenset(paths[:num_workers])
        self._deadline = time.monotonic() + seconds
        self._frames_per_second = frames_per_second
        self._begun: dict[Path, float] = {}
        self._busy: dict[Path, float] = {}  # seconds from there to the last news
        self._covered: dict[Path, float] = {}  # seconds of video decoded by then; 0 for a picture
        self._kinds: dict[Path, str] = {}
        self._whole: set[Path] = set()
        self._num_unreadable = 0
        self._on_grid: collections.Counter[Path] = collections.Counter()
        self._off_grid: collections.Counter[Path] = collections.Counter()

    def taken(self) -> Iterator[Path]:
        """The files, until the time is over and there is something to go by."""
        for path in self._paths:
            if self._is_over():
                return
            self._begun[path] = time.monotonic()
            yield path

    def claim(self, path: Path, content_hash: str, kind: str) -> bool:
        """Called by a worker that begins to decode."""
        if path in self._first:  # until now it had to be started
            self._begun[path] = time.monotonic()
        self._kinds[path] = kind
        return True

    def watched(self, events: Iterator[Event]) -> Iterator[Event]:
        """The events, noted, until the time is over and there is something to go by."""
        for event in events:
            if isinstance(event, Decoded):
                self._note(event)
            elif isinstance(event, Failed):
                self._num_unreadable += 1
            yield event
            if self._is_over():
                return

    def _is_over(self) -> bool:
        return time.monotonic() > self._deadline and bool(self._busy or self._num_unreadable)

    def _note(self, event: Decoded) -> None:
        path = event.path
        self._busy[path] = time.monotonic() - self._begun[path]
        self._on_grid[path] += int(event.frames.on_grid.sum())
        self._off_grid[path] += int((~event.frames.on_grid).sum())
        if event.item is not None:
            self._whole.add(path)
            self._covered[path] = event.item.duration_seconds or 0.0
        else:  # a worker has decoded a second chunk by the time it sends the first
            chunk_seconds = MAX_FRAMES_PER_CHUNK / self._frames_per_second
            self._covered[path] = float(event.frames.pts_seconds[-1]) + chunk_seconds

    def cost(self, num_embedded: int) -> DecodeCost:
        """The sum of it; `num_embedded` frames of it would have been embedded."""
        images = [path for path in self._busy if self._kinds[path] == "image"]
        videos = [path for path in self._busy if self._kinds[path] == "video"]
        whole = [path for path in videos if path in self._whole]
        num_frames = self._on_grid.total() + self._off_grid.total()
        return DecodeCost(
            image_seconds=_ratio(sum(self._busy[path] for path in images), len(images)),
            video_seconds=_ratio(
                sum(self._busy[path] for path in videos),
                sum(self._covered[path] for path in videos),
            ),
            num_images=len(images),
            num_videos=len(videos),
            num_unreadable=self._num_unreadable,
            frames_off_grid=_ratio(sum(self._off_grid[path] for path in whole), len(whole)),
            new_share=num_embedded / num_frames if num_frames else 1.0,
        )


def _ratio(total: float, count: float) -> float:
    return total / count if count else 0.0


class _CountingEncoder:
    """Embeds nothing, and counts what it is given."""

    def __init__(self, spec: FrameSpec) -> None:
        self.frame_spec = spec
        self.identity = Identity("none", 1, "", "", "", "")
        self.batch_size = 16
        self.provenance: Mapping[str, str] = {}
        self.num_frames = 0

    def encode_frames(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.num_frames += len(pixels)
        return np.ones((len(pixels), 1), np.float32)

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.ones((len(texts), 1), np.float32)


# Embedding


@dataclass(frozen=True)
class EncodeCost:
    """What a model takes.

    Attributes:
        frame_seconds: for a picture, the whole machine at work on many.
        text_seconds: for one query, `QUERY`, by a process that has the model in memory.
    """

    frame_seconds: float
    text_seconds: float


def encode_cost(encoder: PerceptionEncoder, *, seconds: float = ENCODE_SECONDS) -> EncodeCost:
    """What a model takes on an encoder's device and in its dtype, without weights.

    Two encoders of random weights are timed, which have one block and a few blocks instead of all:
    what they differ by is what the other blocks take.

    Args:
        encoder: names model, device and dtype; it loads nothing.
        seconds: that each of four measurements takes, if a single picture takes no longer.
    """
    vision, text = encoder.config.vision, encoder.config.text
    assert text is not None  # an encoder has one
    num_bytes = 2 if encoder.dtype == "bfloat16" else 4
    vision_bytes = num_bytes * (4 * vision.width**2 + 2 * vision.width * vision.mlp_width)
    text_bytes = num_bytes * 12 * text.width**2
    vision_depth = min(max(_CACHE_BYTES // vision_bytes, 2), vision.depth)
    text_depth = min(max(_CACHE_BYTES // text_bytes, 2), text.depth)
    shallow = _ShallowEncoder(encoder, 1, 1)
    deep = _ShallowEncoder(encoder, vision_depth, text_depth)
    batch_size = encoder.batch_size
    if encoder.device.type == "cpu":  # where a picture can take many seconds
        fitting = int(seconds / (vision_depth * _round_seconds(shallow, 1, num_rounds=1)))
        batch_size = min(max(fitting, 1), batch_size)
    frame_seconds = extrapolated(
        _frame_seconds(shallow, batch_size, seconds),
        _frame_seconds(deep, batch_size, seconds),
        vision_depth,
        vision.depth,
    )
    text_seconds = extrapolated(
        _text_seconds(shallow, seconds), _text_seconds(deep, seconds), text_depth, text.depth
    )
    return EncodeCost(frame_seconds / len(encoder.devices), text_seconds)


def extrapolated(one: float, some: float, num_some: int, num_all: int) -> float:
    """What all blocks take, where one takes `one` and `num_some` take `some`."""
    return one + max(some - one, 0.0) * (num_all - 1) / (num_some - 1)


class _ShallowEncoder(PerceptionEncoder):
    """A model with few blocks and random weights; it computes as the model does."""

    def __init__(self, like: PerceptionEncoder, vision_depth: int, text_depth: int) -> None:
        from perception_search.encoder.towers import TextTower, VisionTower

        super().__init__(like.config.name, device=str(like.device), dtype=like.dtype)
        text = like.config.text
        assert text is not None
        self._vision = self._random(
            VisionTower, replace(like.config.vision, depth=vision_depth), quick=True
        )
        # All words may be one: a row of the table is read for each, whatever it holds.
        self._text = self._random(
            TextTower, replace(text, depth=text_depth, vocab_size=1), quick=self.dtype == "int8"
        )
        table = self._text.token_embedding
        table.weight = torch.nn.Parameter(
            table.weight.expand(text.vocab_size, -1), requires_grad=False
        )

    def _random(self, tower: Any, config: Any, *, quick: bool) -> Any:
        with torch.device("meta"):
            made = tower(config).to(self._float)
        made = made.to_empty(device=self.device).requires_grad_(False)
        for parameter in made.parameters():
            parameter.uniform_(-0.05, 0.05)
        if quick:
            self._quicken(made)
        return made


def _frame_seconds(encoder: PerceptionEncoder, batch_size: int, seconds: float) -> float:
    """Of a picture, by as many rounds of batches as there is time for."""
    if encoder.device.type != "cpu":
        _round_seconds(encoder, batch_size, num_rounds=1)  # loads its kernels, which takes longer
    first_seconds = _round_seconds(encoder, batch_size, num_rounds=1)
    num_rounds = int(seconds / (first_seconds * batch_size * _num_at_once(encoder)))
    return _round_seconds(encoder, batch_size, num_rounds) if num_rounds else first_seconds


def _round_seconds(encoder: PerceptionEncoder, batch_size: int, num_rounds: int) -> float:
    """Of a picture; a round is as many batches as an ingest computes at once."""
    spec = encoder.frame_spec
    shape = (batch_size, 3, spec.height, spec.width)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    num_batches = num_rounds * _num_at_once(encoder)
    start = time.perf_counter()
    collections.deque(encoder.encode_stream([pixels] * num_batches), maxlen=0)
    return (time.perf_counter() - start) / (num_batches * batch_size)


def _num_at_once(encoder: PerceptionEncoder) -> int:
    """Batches that an ingest computes side by side."""
    return torch.get_num_threads() if encoder.device.type == "cpu" else 2


def _text_seconds(encoder: PerceptionEncoder, seconds: float) -> float:
    """Of one query."""
    for _ in range(2):  # after the second an encoder has done what makes it faster
        encoder.encode_text([QUERY])
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < deadline:
        start = time.perf_counter()
        encoder.encode_text([QUERY])
        times.append(time.perf_counter() - start)
    return float(np.median(times))


# Scoring


def score_cost(dim: int) -> float:
    """Seconds of an exact search for one row, as `Scorer.scan` scores many."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((SCAN_BLOCK_ROWS, dim)).astype(np.float16)
    target = rng.standard_normal((1, dim)).astype(np.float32)
    times = []
    for _ in range(_SCAN_ROUNDS):
        start = time.perf_counter()
        cosines(rows, target)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) / len(rows)
