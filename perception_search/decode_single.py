"""One file at a time, by one worker: what a query and a thumbnail need."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from perception_search.decode_events import (
    Decoded,
    Event,
    Failed,
    FileTalk,
    ForgetUniform,
    decode_request,
)
from perception_search.decode_process import (
    WorkerDied,
    WorkerOptions,
    WorkerProcess,
    start_worker,
)
from perception_search.errors import MediaError
from perception_search.frames import Frames, FrameSpec, MediaItem, Sampling

_ATTEMPTS = 2
_Answer = TypeVar("_Answer")


class MediaReader:
    """Reads files one at a time with one worker; a context manager, which threads may share.

    The worker starts with the first file and is replaced when it dies.
    """

    def __init__(
        self,
        *,
        time_limit_seconds: float | None = None,
        memory_limit_bytes: int | None = None,
        max_pixels: int | None = None,
        video_backend: str = "pyav",
    ) -> None:
        """Starts nothing yet; the arguments are those of `DecodePool`."""
        self._options = WorkerOptions.of(
            time_limit_seconds, memory_limit_bytes, max_pixels, video_backend
        )
        self._lock = threading.Lock()
        self._process: WorkerProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker; the next file would start another."""
        with self._lock:
            self._drop()

    def decode(
        self, path: str | Path, spec: FrameSpec, sampling: Sampling | None = None
    ) -> tuple[MediaItem, Frames]:
        """One file and all its frames, in time order.

        Args:
            path: a picture or a video. A long video makes as many frames as it has seconds.
            spec: the pixels wanted.
            sampling: the frames of a video wanted.

        Raises:
            MediaError: the file cannot be used; it says why.
        """
        talk = FileTalk(
            Path(path),
            decode_request(spec, sampling or Sampling()),
            spec=spec,
            time_limit_seconds=self._options.time_limit_seconds,
        )
        return self._attempt(lambda process: _collected(talk.events(process, 1)))

    def thumbnail(self, path: str | Path, at_seconds: float = 0.0, max_side: int = 320) -> bytes:
        """A JPEG of the picture, or of the frame a video shows at a moment; upright.

        Args:
            path: a picture or a video.
            at_seconds: from the start of the video; past its end, its last frame.
            max_side: the longer side in pixels; a smaller picture keeps its size.

        Raises:
            MediaError: the file cannot be used; it says why.
        """
        if max_side < 1 or not 0 <= at_seconds < float("inf"):
            raise ValueError(f"max_side={max_side}, at_seconds={at_seconds}; must be >= 1, >= 0")
        talk = FileTalk(
            Path(path),
            {"do": "thumbnail", "at_seconds": at_seconds, "max_side": max_side},
            time_limit_seconds=self._options.time_limit_seconds,
        )
        return self._attempt(talk.thumbnail)

    def _attempt(self, ask: Callable[[WorkerProcess], _Answer]) -> _Answer:
        with self._lock:
            for attempt in range(1, _ATTEMPTS + 1):
                process = self._ready()
                try:
                    return ask(process)
                except WorkerDied as death:
                    self._drop()
                    if attempt == _ATTEMPTS:
                        raise MediaError(death.outcome, death.reason) from None
                except MediaError:
                    raise
                except BaseException:  # Ctrl-C: nobody will want the answer that is to come
                    self._drop()
                    raise
        raise AssertionError

    def _ready(self) -> WorkerProcess:
        if self._process is not None and not self._process.is_alive():
            self._drop()
        if self._process is None:
            self._process = start_worker(self._options)
        return self._process

    def _drop(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None


def decode_file(
    path: str | Path,
    spec: FrameSpec,
    sampling: Sampling | None = None,
    *,
    time_limit_seconds: float | None = None,
    memory_limit_bytes: int | None = None,
    max_pixels: int | None = None,
    video_backend: str = "pyav",
) -> tuple[MediaItem, Frames]:
    """One file and all its frames, by a worker of its own; see `MediaReader.decode`."""
    with MediaReader(
        time_limit_seconds=time_limit_seconds,
        memory_limit_bytes=memory_limit_bytes,
        max_pixels=max_pixels,
        video_backend=video_backend,
    ) as reader:
        return reader.decode(path, spec, sampling)


def thumbnail(path: str | Path, at_seconds: float = 0.0, max_side: int = 320) -> bytes:
    """A JPEG of one file, by a worker of its own; see `MediaReader.thumbnail`."""
    with MediaReader() as reader:
        return reader.thumbnail(path, at_seconds, max_side)


def _collected(events: Iterator[Event]) -> tuple[MediaItem, Frames]:
    chunks: list[Frames] = []
    for event in events:
        match event:
            case Failed():
                raise MediaError(event.outcome, event.reason)
            case ForgetUniform():
                chunks = [replace(c, num_uniform=np.zeros_like(c.num_uniform)) for c in chunks]
            case Decoded():
                chunks.append(event.frames)
                if event.item is not None:
                    return event.item, _joined(chunks)
            case _:
                pass
    raise AssertionError


def _joined(chunks: list[Frames]) -> Frames:
    """The chunks as one, in time order; frames that are not wanted any more are left out."""
    joined = Frames(*(np.concatenate(parts) for parts in zip(*map(_parts, chunks), strict=True)))
    wanted = np.flatnonzero(joined.on_grid | (joined.num_uniform > 0))
    order = wanted[np.argsort(joined.pts_seconds[wanted], kind="stable")]
    if np.array_equal(order, np.arange(len(joined.on_grid))):
        return joined
    return Frames(*(part[order] for part in _parts(joined)))


def _parts(frames: Frames) -> tuple[Any, ...]:
    return frames.pixels, frames.pts_seconds, frames.on_grid, frames.num_uniform
