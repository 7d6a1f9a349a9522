"""Decoded frames become the rows of finished files, in batches of any files; writes nothing."""

import collections
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_search import segments
from perception_search.decode import Decoded, Event, Failed, ForgetUniform, Known, Restarted
from perception_search.encoder.protocol import Encoder, encode_batches
from perception_search.frames import Frames, MediaItem
from perception_search.writer import Grid, NewRow

_MAX_STEPS = 256


@dataclass
class Assembly:
    """The embeddings of one file while they arrive."""

    path: Path
    grid: list[NDArray[np.float32]] = field(default_factory=list)
    norms: list[NDArray[np.float32]] = field(default_factory=list)
    pts_seconds: list[NDArray[np.float64]] = field(default_factory=list)
    uniform_sum: NDArray[np.float64] | None = None
    num_uniform: int = 0
    item: MediaItem | None = None
    is_bad: bool = False

    def add(self, frames: Frames, embeddings: NDArray[np.float32]) -> None:
        """Take the raw embeddings (T, dim) of `frames`."""
        norms = np.linalg.norm(embeddings, axis=1)
        if not (np.isfinite(norms).all() and (norms > 1e-12).all()):
            self.is_bad = True
            return
        unit = embeddings / norms[:, None]
        self.grid.append(unit[frames.on_grid])
        self.norms.append(norms[frames.on_grid])
        self.pts_seconds.append(frames.pts_seconds[frames.on_grid])
        if frames.num_uniform.any():
            part = frames.num_uniform.astype(np.float64) @ unit
            self.uniform_sum = part if self.uniform_sum is None else self.uniform_sum + part
            self.num_uniform += int(frames.num_uniform.sum())

    def forget_uniform(self) -> None:
        """The whole-video frames so far were not the right ones; they come again."""
        self.uniform_sum, self.num_uniform = None, 0

    def rows(self, segment_seconds: float, grid_seconds: float) -> tuple[list[NewRow], Grid | None]:
        """The rows of the finished file and, for a video, its grid."""
        assert self.item is not None
        grid = Grid(
            np.concatenate(self.grid), np.concatenate(self.norms), np.concatenate(self.pts_seconds)
        )
        if self.item.kind == "image":
            return [NewRow("image", grid.embeddings[0], float(grid.norms[0]))], None
        last_seconds = float(grid.pts_seconds[-1]) + grid_seconds
        cut = segments.cut(
            grid.embeddings,
            grid.pts_seconds,
            segment_seconds=segment_seconds,
            end_seconds=self.item.duration_seconds or last_seconds,
        )
        rows = [
            NewRow("segment", s.embedding, s.norm, s.num_frames, s.start_seconds, s.end_seconds)
            for s in cut
        ]
        if self.uniform_sum is not None:
            mean = self.uniform_sum / self.num_uniform
            norm = float(np.linalg.norm(mean))
            if norm > 1e-6:
                unit = (mean / norm).astype(np.float32)
                end = max(row.end_seconds or 0.0 for row in rows)
                rows.append(NewRow("video", unit, norm, self.num_uniform, 0.0, end))
        return rows, grid


class Forgotten(NamedTuple):
    """The whole-video frames of a file so far were not the right ones."""

    assembly: Assembly


class Pixels(NamedTuple):
    """Frames of a file that wait to be embedded."""

    assembly: Assembly
    frames: Frames


Step = Pixels | Forgotten | Assembly | Failed | Known


def embedded(events: Iterable[Event], encoder: Encoder) -> Iterator[Assembly | Failed | Known]:
    """Every event but the pixels: a file comes out as an assembly when all of it is embedded.

    Frames of any files are embedded together; what happened in between keeps its place.
    """
    waiting: collections.deque[list[Step]] = collections.deque()

    def batches() -> Iterator[NDArray[np.uint8]]:
        for steps in _batched(_steps(events), encoder.batch_size):
            waiting.append(steps)
            pixels = [step.frames.pixels for step in steps if isinstance(step, Pixels)]
            yield pixels[0] if len(pixels) == 1 else np.concatenate([none, *pixels])

    spec = encoder.frame_spec
    none = np.empty((0, 3, spec.height, spec.width), np.uint8)
    for embeddings in encode_batches(encoder, batches()):
        yield from _taken(waiting.popleft(), embeddings)


def _steps(events: Iterable[Event]) -> Iterator[Step]:
    """Events with the assembly they belong to, chunks of frames one by one."""
    open_files: dict[Path, Assembly] = {}
    for event in events:
        match event:
            case Decoded():
                assembly = open_files.setdefault(event.path, Assembly(event.path))
                if len(event.frames.pixels):
                    yield Pixels(assembly, event.frames)
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
            num_frames += len(step.frames.pixels)
    if batch:
        yield batch


def _taken(
    steps: Iterable[Step], embeddings: NDArray[np.float32]
) -> Iterator[Assembly | Failed | Known]:
    first = 0
    for step in steps:
        match step:
            case Pixels(assembly, frames):
                assembly.add(frames, embeddings[first : first + len(frames.pixels)])
                first += len(frames.pixels)
            case Forgotten(assembly):
                assembly.forget_uniform()
            case _:
                yield step
