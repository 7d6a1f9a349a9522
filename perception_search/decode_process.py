"""One decode worker as its parent sees it: start, ask, wait, kill; knows no file and no queue.

What comes from a worker is not trusted: lengths and shapes are checked before memory is taken.
"""

import contextlib
import functools
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from perception_search import decode_messages
from perception_search.child_process import child_environment, signal_name
from perception_search.decode_limits import (
    KERNEL_LIMITS_MEMORY,
    PROCESSOR_SECONDS,
    num_cores,
    resident_bytes,
)
from perception_search.errors import MissingExtra, PerceptionSearchError

_READ_BUFFER_BYTES = 1 << 16
_START_SECONDS = 120.0
_STARTS = 3
_TICK_SECONDS = 0.25
_MEMORY_TICKS = 4
_MIN_THREADS, _MAX_THREADS = 2, 8


@dataclass(frozen=True)
class WorkerOptions:
    """What a worker is started with; the same for all of a pool.

    Attributes:
        time_limit_seconds: without news from a file, after which its worker is killed.
        memory_limit_bytes: that decoding may take in one worker, beyond its own 100 MB.
        max_pixels: of a picture or a video frame; what says it is larger is refused.
        video_backend: `pyav`, or `torchcodec` with system FFmpeg (an extra).
        program: the module that is run.
        num_workers: that run side by side, and share the processor.
        write_folder: where the program may write files that are there; None for nowhere.
    """

    time_limit_seconds: float = 60.0
    memory_limit_bytes: int = 768 << 20
    max_pixels: int = 50_000_000
    video_backend: str = "pyav"
    program: str = "perception_search.decode_worker"
    num_workers: int = 1
    write_folder: Path | None = None

    @property
    def num_threads(self) -> int:
        """Of FFmpeg's decoder in one worker: two for each core of its share, since frames wait for
        those they are made from.
        """
        return min(max(2 * num_cores() // self.num_workers, _MIN_THREADS), _MAX_THREADS)

    @classmethod
    def of(
        cls,
        time_limit_seconds: float | None = None,
        memory_limit_bytes: int | None = None,
        max_pixels: int | None = None,
        video_backend: str = "pyav",
        num_workers: int = 1,
    ) -> "WorkerOptions":
        """The options as callers give them: None for the default."""
        return cls(
            cls.time_limit_seconds if time_limit_seconds is None else time_limit_seconds,
            cls.memory_limit_bytes if memory_limit_bytes is None else memory_limit_bytes,
            cls.max_pixels if max_pixels is None else max_pixels,
            video_backend,
            num_workers=num_workers,
        )

    def __post_init__(self) -> None:
        if self.video_backend not in ("pyav", "torchcodec"):
            raise ValueError(f"video_backend={self.video_backend!r}; 'pyav' or 'torchcodec'")
        for name in ("time_limit_seconds", "memory_limit_bytes", "max_pixels"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}; must be > 0")


class WorkerDied(Exception):
    """A worker ended, or had to be ended, while it was asked something."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


def lost_its_way() -> WorkerDied:
    """The end of a worker that says what none says."""
    return WorkerDied("crashed", "its decoder lost its way")


@dataclass(frozen=True)
class Message:
    """What a worker said."""

    say: str
    header: dict[str, Any]
    payload: NDArray[np.uint8]


class WorkerProcess:
    """A running worker. One thread talks to it; any may kill it.

    Attributes:
        impossible: names of `confinement.WHAT_MUST_FAIL` that it tried in vain, once it is ready.
        not_granted: what of its confinement the platform refused, in words.
    """

    def __init__(self, options: WorkerOptions) -> None:
        self._memory_limit_bytes = options.memory_limit_bytes
        # What it says before it decodes; after, it cannot write to files.
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self.waiting_seconds = 0.0
        self.waiting_limit_seconds: float | None = None
        self._verdict: WorkerDied | None = None
        self.impossible: tuple[str, ...] = ()
        self.not_granted: tuple[str, ...] = ()
        self.num_answered = 0
        command = [
            *(sys.executable, "-P", "-m", options.program),
            *("--memory-limit-bytes", str(options.memory_limit_bytes)),
            *("--max-pixels", str(options.max_pixels)),
            *("--num-threads", str(options.num_threads)),
            *("--video-backend", options.video_backend),
        ]
        if options.write_folder is not None:
            command += ["--write-folder", str(options.write_folder)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=_READ_BUFFER_BYTES,
            env=child_environment(),
        )
        _watchdog().add(self)

    def wait_until_ready(self) -> None:
        """Returns once the worker takes requests.

        Raises:
            MissingExtra: it lacks an optional package.
            PerceptionSearchError: it cannot start at all.
            WorkerDied: it was killed meanwhile.
        """
        try:
            message = self.answer(_START_SECONDS)
        except WorkerDied as death:
            if self._process.returncode < 0 and death.outcome != "timed_out":
                raise
            self._log.seek(0)
            said = self._log.read().decode("utf-8", "replace").strip().splitlines()
            raise _no_start(said[-1] if said else death.reason) from None
        if message.say == "unusable":
            raise MissingExtra(str(message.header.get("reason")))
        self.impossible = tuple(message.header.get("impossible", ()))  # no file was read yet
        self.not_granted = tuple(message.header.get("not_granted", ()))

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def ask(self, message: bytes) -> None:
        """Sends a packed message.

        Raises:
            WorkerDied: it is gone.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(message)
            self._process.stdin.flush()
        except (OSError, ValueError):  # ValueError: closed by `kill` in another thread
            raise self._death() from None

    def answer(self, limit_seconds: float, max_payload_bytes: int = 0) -> Message:
        """Its next message; `waiting_seconds` tells how long it took.

        Raises:
            WorkerDied: none came in time, it ended, or it said what no worker says.
        """
        self.waiting_seconds = 0.0
        self.waiting_limit_seconds = limit_seconds
        try:
            return self._read_message(max_payload_bytes)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise self._nonsense() from None
        finally:
            self.waiting_limit_seconds = None

    def _read_message(self, max_payload_bytes: int) -> Message:
        header_bytes, payload_bytes = decode_messages.lengths(
            self._read(decode_messages.PREFIX_BYTES).tobytes()
        )
        if header_bytes > decode_messages.MAX_HEADER_BYTES or payload_bytes > max_payload_bytes:
            raise ValueError
        header = json.loads(self._read(header_bytes).tobytes())
        return Message(str(header["say"]), header, self._read(payload_bytes))

    def _read(self, num_bytes: int) -> NDArray[np.uint8]:
        assert self._process.stdout is not None
        data = np.empty(num_bytes, np.uint8)
        view = data.data
        while view:
            got = self._process.stdout.readinto(view)  # type: ignore[attr-defined]
            if not got:
                raise self._death()
            view = view[got:]
        return data

    def end(self, outcome: str, reason: str) -> None:
        """Kills it at once; whoever waits for it gets this outcome and reason."""
        if self._verdict is None:
            self._verdict = WorkerDied(outcome, reason)
        self._process.kill()

    def close(self) -> None:
        """Kills it and gives back all it held."""
        _watchdog().remove(self)
        self.end("closed", "closed")
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def _nonsense(self) -> WorkerDied:
        if self._verdict is None:
            self._verdict = lost_its_way()
        return self._verdict

    def _death(self) -> WorkerDied:
        """Why it is gone; waits for the end."""
        code = self._process.wait()
        if self._verdict is not None:
            return self._verdict
        if code == -getattr(signal, "SIGKILL", 9):  # the kernel's, when memory runs out
            return WorkerDied("out_of_memory", "the system ended its decoder, out of memory?")
        if code == -getattr(signal, "SIGXCPU", 24):
            hours = PROCESSOR_SECONDS // 3600
            return WorkerDied("timed_out", f"took more than {hours} hours of processor time")
        if code < 0:
            return WorkerDied("crashed", f"its decoder crashed ({signal_name(-code)})")
        return WorkerDied("crashed", f"its decoder ended by itself (exit code {code})")

    def watch(self, waited_seconds: float, *, look_at_memory: bool) -> None:
        """Ends it if it has had its time, or its memory where the kernel does not see to that."""
        limit = self.waiting_limit_seconds
        if limit is None:
            return
        self.waiting_seconds += waited_seconds
        if self.waiting_seconds > limit:
            self.end("timed_out", f"no news from its decoder for {limit:.0f} seconds")
        elif look_at_memory:
            held = resident_bytes(self._process.pid)
            if held is not None and held > self._memory_limit_bytes:
                allowed = f"{self._memory_limit_bytes >> 20:,} MiB"
                self.end("out_of_memory", f"needs more than {allowed} of memory; allow more to try")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start_worker(
    options: WorkerOptions, adopt: Callable[[WorkerProcess], None] = lambda worker: None
) -> WorkerProcess:
    """A worker that takes requests; one that is killed before it does is replaced, twice.

    Args:
        options: what it is started with.
        adopt: called with the worker before it is ready, so that another thread can end it.

    Raises:
        MissingExtra: it lacks an optional package.
        PerceptionSearchError: it cannot start.
        WorkerDied: another thread ended it.
    """
    reason = ""
    for _ in range(_STARTS):
        worker = WorkerProcess(options)
        try:
            adopt(worker)
            worker.wait_until_ready()
            return worker
        except WorkerDied as death:
            worker.close()
            if death.outcome == "closed":
                raise
            reason = death.reason
        except BaseException:
            worker.close()
            raise
    raise _no_start(reason)


def _no_start(reason: str) -> PerceptionSearchError:
    return PerceptionSearchError(f"the decoding process does not start: {reason}")


class _Watchdog:
    """One thread that looks at all workers a few times a second; it runs while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers: set[WorkerProcess] = set()
        self._is_running = False

    def add(self, worker: WorkerProcess) -> None:
        with self._lock:
            self._workers.add(worker)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="decode-watchdog", daemon=True).start()

    def remove(self, worker: WorkerProcess) -> None:
        with self._lock:
            self._workers.discard(worker)

    def _run(self) -> None:
        num_ticks = 0
        before = time.monotonic()
        while True:
            time.sleep(_TICK_SECONDS)
            now = time.monotonic()
            # A machine that slept, or a parent that was stopped, is not a worker that hangs.
            waited = min(now - before, 2 * _TICK_SECONDS)
            before = now
            num_ticks += 1
            look_at_memory = not KERNEL_LIMITS_MEMORY and num_ticks % _MEMORY_TICKS == 0
            with self._lock:
                workers = list(self._workers)
                if not workers:
                    self._is_running = False
                    return
            for worker in workers:
                worker.watch(waited, look_at_memory=look_at_memory)


@functools.cache
def _watchdog() -> _Watchdog:
    return _Watchdog()
