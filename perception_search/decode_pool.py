"""Many files through many workers; what is decoded waits in a queue of bounded size."""

import collections
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from perception_search.decode_events import (
    Claim,
    Decoded,
    Event,
    FileTalk,
    Restarted,
    decode_request,
)
from perception_search.decode_limits import num_cores
from perception_search.decode_process import (
    WorkerDied,
    WorkerOptions,
    WorkerProcess,
    start_worker,
)
from perception_search.frames import FrameSpec, Sampling

_QUEUE_BYTES = 64 << 20
_ATTEMPTS = 2


class DecodePool:
    """Worker processes that decode many files: use it as a context manager.

    Leaving it, closing the iterator of `decode` or Ctrl-C kills the workers at once.
    """

    def __init__(
        self,
        spec: FrameSpec,
        sampling: Sampling | None = None,
        *,
        num_workers: int | None = None,
        time_limit_seconds: float | None = None,
        memory_limit_bytes: int | None = None,
        max_pixels: int | None = None,
        video_backend: str = "pyav",
    ) -> None:
        """Starts nothing yet.

        Args:
            spec: the pixels wanted.
            sampling: the frames of a video wanted.
            num_workers: processes; None for one a core.
            time_limit_seconds: without news from a file after which its worker is killed; None
                for 60. A picture has this long in all; a long video gives news as it goes.
            memory_limit_bytes: of one worker; None for 768 MiB.
            max_pixels: of one picture or video frame; None for 50 million.
            video_backend: `pyav` or `torchcodec`.
        """
        if num_workers is not None and num_workers < 1:
            raise ValueError(f"num_workers={num_workers}; must be >= 1")
        self._spec = spec
        self._sampling = sampling or Sampling()
        self._num_workers = num_workers or num_cores()
        self._options = WorkerOptions.of(
            time_limit_seconds, memory_limit_bytes, max_pixels, video_backend, self._num_workers
        )
        self._runs: set[_Run] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kills all workers and joins all threads; iterators of `decode` end."""
        for run in list(self._runs):
            run.close()

    def decode(self, paths: Iterable[Path], claim: Claim | None = None) -> Iterator[Event]:
        """What becomes of every file; exactly one of its events is final.

        Final are `Decoded` with an item, `Failed` and `Known`.

        Args:
            paths: the files; taken one by one as workers become free, by the pool's threads.
            claim: called with (path, content hash, kind) before a file is decoded; False skips
                it. Called by the pool's threads, once a file.

        Raises:
            MissingExtra: torchcodec was asked for and cannot be used.
            PerceptionSearchError: workers cannot be started.
            Exception: what `paths` or `claim` raise.
        """
        request = decode_request(self._spec, self._sampling)
        run = _Run(self._options, self._num_workers, iter(paths), request, self._spec, claim)
        self._runs.add(run)
        try:
            yield from run.events()
        finally:
            self._runs.discard(run)
            run.close()


class _Run:
    """One call of `DecodePool.decode`: a thread for each worker, and a bounded queue."""

    def __init__(
        self,
        options: WorkerOptions,
        num_workers: int,
        paths: Iterator[Path],
        request: dict[str, Any],
        spec: FrameSpec,
        claim: Claim | None,
    ) -> None:
        self._options = options
        self._num_workers = num_workers
        self._paths = paths
        self._request = request
        self._spec = spec
        self._claim = claim
        self._paths_lock = threading.Lock()
        self._workers: set[WorkerProcess] = set()
        self._threads: list[threading.Thread] = []
        self._queue: collections.deque[tuple[Event, int]] = collections.deque()
        self._queue_bytes = 0
        self._lock = threading.Lock()
        self._has_event = threading.Condition(self._lock)
        self._has_room = threading.Condition(self._lock)
        self._num_running = 0
        self._is_closed = False
        self._error: BaseException | None = None

    def events(self) -> Iterator[Event]:
        self._num_running = self._num_workers
        for number in range(self._num_workers):
            thread = threading.Thread(target=self._serve, name=f"decode-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()
        while (event := self._take()) is not None:
            yield event

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._has_room.notify_all()
            self._has_event.notify_all()
            for worker in self._workers:
                worker.end("closed", "closed")
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _take(self) -> Event | None:
        with self._lock:
            while not self._queue and self._num_running and not self._is_closed:
                self._has_event.wait()
            if self._error is not None:
                raise self._error
            if not self._queue or self._is_closed:
                return None
            event, num_bytes = self._queue.popleft()
            self._queue_bytes -= num_bytes
            self._has_room.notify()
            return event

    def _put(self, event: Event) -> None:
        num_bytes = event.frames.pixels.nbytes if isinstance(event, Decoded) else 0
        with self._lock:
            while (
                self._queue and self._queue_bytes + num_bytes > _QUEUE_BYTES and not self._is_closed
            ):
                self._has_room.wait()
            self._queue.append((event, num_bytes))
            self._queue_bytes += num_bytes
            self._has_event.notify()

    def _serve(self) -> None:
        """Decodes one file after another; the whole life of one thread."""
        worker: WorkerProcess | None = None
        try:
            while not self._is_closed:
                with self._paths_lock:
                    path = None if self._is_closed else next(self._paths, None)
                if path is None:
                    break
                worker = self._decode(path, worker)
        except BaseException as error:
            with self._lock:
                if not self._is_closed and self._error is None:
                    self._error = error
        finally:
            self._drop(worker)
            with self._lock:
                self._num_running -= 1
                self._has_event.notify_all()

    def _decode(self, path: Path, worker: WorkerProcess | None) -> WorkerProcess | None:
        """Decodes a file with the worker or a fresh one; returns the one for the next file."""
        file = FileTalk(
            path,
            self._request,
            spec=self._spec,
            time_limit_seconds=self._options.time_limit_seconds,
            claim=self._claim,
        )
        for attempt in range(1, _ATTEMPTS + 1):
            worker = worker or start_worker(self._options, self._adopt)
            try:
                for event in file.events(worker, attempt):
                    self._put(event)
                return worker
            except WorkerDied as death:
                self._drop(worker)
                worker = None
                if self._is_closed:
                    return None
                if attempt < _ATTEMPTS:
                    self._put(Restarted(path, attempt + 1))
                else:
                    self._put(file.failed(death.outcome, death.reason))
            except BaseException:
                self._drop(worker)
                raise
        return None

    def _adopt(self, worker: WorkerProcess) -> None:
        with self._lock:
            self._workers.add(worker)
            if self._is_closed:
                worker.end("closed", "closed")

    def _drop(self, worker: WorkerProcess | None) -> None:
        if worker is not None:
            with self._lock:
                self._workers.discard(worker)
            worker.close()
