"""Decoded frames become the rows of finished files, in batches of any files; writes nothing."""

import collections
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_search.decode import Decoded, Event, Failed, ForgetUniform, Known, Restarted
from perception_search.encoder.protocol import Encoder, encode_batches
from perception_search.frames import Frames, MediaItem
from perception_search.resegment import end_of, segment_rows
from perception_search.segments import Segmentation
from perception_search.writer import Grid, NewRow

_MAX_STEPS = 256


@dataclass
class Assembly:
    """The embeddings of one file while they arrive: unit length in float16, as they are stored."""

    path: Path
    pools_raw_frames: bool = False
    grid: list[NDArray[np.float16]] = field(default_factory=list)
    norms: list[NDArray[np.float32]] = field(default_factory=list)
    pts_seconds: list[NDArray[np.float64]] = field(default_factory=list)
    uniform_sum: NDArray[np.float64] | None = None
    num_uniform: int = 0
    item: MediaItem | None = None
    is_bad: bool = False
    last_pixels: NDArray[np.uint8] | None = None
    last_embedding: NDArray[np.float32] | None = None

    def add(self, frames: Frames, embeddings: NDArray[np.float32]) -> None:
        """Take the raw embeddings (T, dim) of `frames`."""
        self.last_embedding = embeddings[-1]
        norms = np.linalg.norm(embeddings, axis=1)
        if not (np.isfinite(norms).all() and (norms > 1e-12).all()):
            self.is_bad = True
            return
        unit = embeddings / norms[:, None]
        self.grid.append(unit[frames.on_grid].astype(np.float16))
        self.norms.append(norms[frames.on_grid])
        self.pts_seconds.append(frames.pts_seconds[frames.on_grid])
        if frames.num_uniform.any():
            counted = embeddings if self.pools_raw_frames else unit
            part = frames.num_uniform.astype(np.float64) @ counted
            self.uniform_sum = part if self.uniform_sum is None else self.uniform_sum + part
            self.num_uniform += int(frames.num_uniform.sum())

    def forget_uniform(self) -> None:
        """The whole-video frames so far were not the right ones; they come again."""
        self.uniform_sum, self.num_uniform = None, 0

    def rows(
        self, segmentation: Segmentation, grid_seconds: float
    ) -> tuple[list[NewRow], Grid | None]:
        """The rows of the finished file and, for a video, its grid.

        Segments are made of the grid as it will be stored, so that they can be made again of it.
        """
        assert self.item is not None
        grid = Grid(
            np.concatenate(self.grid), np.concatenate(self.norms), np.concatenate(self.pts_seconds)
        )
        if self.item.kind == "image":
            return [NewRow("image", grid.embeddings[0], float(grid.norms[0]))], None
        end_seconds = end_of(grid.pts_seconds, self.item.duration_seconds, grid_seconds)
        rows = segment_rows(
            grid.embeddings,
            grid.pts_seconds,
            segmentation,
            end_seconds=end_seconds,
            cuts=self.item.cuts,
            lengths=grid.norms if self.pools_raw_frames else None,
        )
        if self.uniform_sum is not None:
            mean = self.uniform_sum / self.num_uniform
            norm = float(np.linalg.norm(mean))
            if norm > 1e-6:
                unit = (mean / norm).astype(np.float32)
                rows.append(NewRow("video", unit, norm, self.num_uniform, 0.0, end_seconds))
        return rows, grid


class Forgotten(NamedTuple):
    """The whole-video frames of a file so far were not the right ones."""

    assembly: Assembly


class Pixels(NamedTuple):
    """Frames of a file that wait to be embedded.

    Attributes:
        assembly: of the file.
        frames: the frames.
        is_new: bool (T,), false where a frame shows what the one before it shows: it takes over
            its embedding.
    """

    assembly: Assembly
    frames: Frames
    is_new: NDArray[np.bool_]


Step = Pixels | Forgotten | Assembly | Failed | Known


def embedded(
    events: Iterable[Event], encoder: Encoder, still_levels: float = 0.0
) -> Iterator[Assembly | Failed | Known]:
    """Every event but the pixels: a file comes out as an assembly when all of it is embedded.

    Frames of any files are embedded together; what happened in between keeps its place.

    Args:
        events: from a `DecodePool`.
        encoder: what embeds.
        still_levels: a frame of a video that differs from the last embedded one by no more than
            this, on average over its pixels in levels of 255, is not embedded but takes over the
            other's embedding. At 0 these are the same pixels, and nothing is lost.
    """
    waiting: collections.deque[list[Step]] = collections.deque()

    def batches() -> Iterator[NDArray[np.uint8]]:
        for steps in _batched(_steps(events, still_levels, pools_raw), encoder.batch_size):
            waiting.append(steps)
            pixels = [_new_pixels(step) for step in steps if isinstance(step, Pixels)]
            yield pixels[0] if len(pixels) == 1 else np.concatenate([none, *pixels])

    spec, pools_raw = encoder.frame_spec, encoder.identity.pools_raw_frames
    none = np.empty((0, 3, spec.height, spec.width), np.uint8)
    for embeddings in encode_batches(encoder, batches()):
        yield from _taken(waiting.popleft(), embeddings)


def _new_pixels(step: Pixels) -> NDArray[np.uint8]:
    return step.frames.pixels if step.is_new.all() else step.frames.pixels[step.is_new]


def _is_new(
    pixels: NDArray[np.uint8], last: NDArray[np.uint8] | None, still_levels: float
) -> NDArray[np.bool_]:
    """Which of `pixels` (T, 3, H, W) differ from the last one that does, or from `last`."""
    is_new = np.ones(len(pixels), np.bool_)
    for number, frame in enumerate(pixels):
        if last is not None:
            is_new[number] = not (
                np.array_equal(frame, last)
                or (still_levels > 0 and _difference(frame, last) <= still_levels)
            )
        if is_new[number]:
            last = frame
    return is_new


def _difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Mean absolute difference in levels."""
    return float((np.maximum(a, b) - np.minimum(a, b)).mean())


def _steps(events: Iterable[Event], still_levels: float, pools_raw_frames: bool) -> Iterator[Step]:
    """Events with the assembly they belong to, chunks of frames one by one."""
    open_files: dict[Path, Assembly] = {}
    for event in events:
        match event:
            case Decoded():
                assembly = open_files.setdefault(event.path, Assembly(event.path, pools_raw_frames))
                if len(event.frames.pixels):
                    is_new = _is_new(event.frames.pixels, assembly.last_pixels, still_levels)
                    if is_new.any():
                        newest = np.flatnonzero(is_new)[-1]
                        assembly.last_pixels = event.frames.pixels[newest].copy()
                    yield Pixels(assembly, event.frames, is_new)
                if event.item is not None:
                    assembly.item = event.item
                    yield open_files.pop(event.path)
            case Restarted():
                open_files.pop(event.path, None)
            case ForgetUniform():
                if event.path in open_files:
                    yield Forgotten(open_files[event.path])
            case Failed():
                open_files.pop(event.path, None)
                yield event
            case Known():
                yield event


def _batched(steps: Iterable[Step], batch_size: int) -> Iterator[list[Step]]:
    """Steps in order, in lists of about `batch_size` frames, or of many steps without any.

    A step without pixels goes with the frames before it, since it may speak of them.
    """
    batch: list[Step] = []
    num_frames = 0
    for step in steps:
        is_full = num_frames >= batch_size and isinstance(step, Pixels)
        if is_full or len(batch) >= max(batch_size, _MAX_STEPS):
            yield batch
            batch, num_frames = [], 0
        batch.append(step)
        if isinstance(step, Pixels):
            num_frames += int(step.is_new.sum())
    if batch:
        yield batch


def _taken(
    steps: Iterable[Step], embeddings: NDArray[np.float32]
) -> Iterator[Assembly | Failed | Known]:
    first = 0
    for step in steps:
        match step:
            case Pixels(assembly, frames, is_new):
                new = embeddings[first : first + int(is_new.sum())]
                first += len(new)
                assembly.add(frames, _spread(new, is_new, assembly.last_embedding))
            case Forgotten(assembly):
                assembly.forget_uniform()
            case _:
                yield step


def _spread(
    new: NDArray[np.float32], is_new: NDArray[np.bool_], last: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Embeddings (T, dim) of all frames: new ones, and before the first of them the last one's."""
    if is_new.all():
        return new
    known = new if last is None else np.concatenate([last[None], new])
    spread: NDArray[np.float32] = known[np.cumsum(is_new) - (last is None)]
    return spread
