"""Decoded frames become the rows of finished files, in batches of any files; writes nothing."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception_search import segments
from perception_search.decode import Decoded, Event, Failed, ForgetUniform, Known, Restarted
from perception_search.encoder.protocol import Encoder
from perception_search.frames import Frames, MediaItem
from perception_search.writer import Grid, NewRow


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


class _Batch:
    """Frames of any files, embedded together as soon as there are enough."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._waiting: list[tuple[Assembly, Frames]] = []
        self._num_frames = 0

    def add(self, assembly: Assembly, frames: Frames) -> None:
        self._waiting.append((assembly, frames))
        self._num_frames += len(frames.pixels)

    @property
    def is_full(self) -> bool:
        return self._num_frames >= self._encoder.batch_size

    def flush(self) -> None:
        """Embed all that waits, in the encoder's batch size."""
        if not self._waiting:
            return
        pixels = [frames.pixels for _, frames in self._waiting]
        together = pixels[0] if len(pixels) == 1 else np.concatenate(pixels)  # (N, 3, H, W)
        size = self._encoder.batch_size
        embeddings = np.concatenate(
            [
                self._encoder.encode_frames(together[first : first + size])
                for first in range(0, len(together), size)
            ]
        )
        first = 0
        for assembly, frames in self._waiting:
            assembly.add(frames, embeddings[first : first + len(frames.pixels)])
            first += len(frames.pixels)
        self._waiting, self._num_frames = [], 0


def embedded(events: Iterable[Event], encoder: Encoder) -> Iterator[Assembly | Failed | Known]:
    """Every event but the pixels: files come out as assemblies when all of them is embedded."""
    batch = _Batch(encoder)
    open_files: dict[Path, Assembly] = {}
    complete: list[Assembly] = []
    for event in events:
        match event:
            case Decoded():
                assembly = open_files.setdefault(event.path, Assembly(event.path))
                if len(event.frames.pixels):
                    batch.add(assembly, event.frames)
                if event.item is not None:
                    assembly.item = event.item
                    complete.append(open_files.pop(event.path))
            case Restarted():
                open_files.pop(event.path, None)
            case ForgetUniform():
                batch.flush()
                if event.path in open_files:
                    open_files[event.path].forget_uniform()
            case Failed():
                open_files.pop(event.path, None)
                yield event
            case Known():
                yield event
        if batch.is_full:
            batch.flush()
            yield from complete
            complete = []
    batch.flush()
    yield from complete
