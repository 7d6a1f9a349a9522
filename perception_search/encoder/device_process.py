"""Batches shared out to several devices, a process each; knows no model and no device.

Each process runs `device_worker`. The next batch goes to whichever is ready first; embeddings come
in the order of the batches.
"""

import contextlib
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from perception_search import decode_messages
from perception_search.child_process import child_environment, signal_name
from perception_search.encoder.base import check_pixels
from perception_search.encoder.streams import Embeddings, Pixels, encode_in_order
from perception_search.errors import EncoderError

_PROGRAM = "perception_search.encoder.device_worker"
_BATCHES_EACH = 3  # one computes, one is there, one is on its way


def encode_on_devices(
    starts: Sequence[Mapping[str, Any]], batches: Iterable[Pixels], dim: int
) -> Iterator[Embeddings]:
    """The embeddings (N, dim) of every batch, in order.

    A process starts with the first batch that it gets. Three batches a device and one more are
    taken ahead. However the iterator ends, the processes end with it.

    Args:
        starts: what the process of each device is told first; see `device_worker`.
        batches: uint8 (N, 3, H, W), of any N, none too.
        dim: length of an embedding.

    Raises:
        EncoderError: a process failed, or ended.
    """
    processes = [DeviceProcess(start) for start in starts]
    ready: queue.SimpleQueue[DeviceProcess] = queue.SimpleQueue()
    for process in processes * _BATCHES_EACH:
        ready.put(process)

    def encode(pixels: Pixels) -> Embeddings:
        check_pixels(pixels)
        if not len(pixels):
            return np.zeros((0, dim), np.float32)
        process = ready.get()
        try:
            return process.encode(pixels)
        finally:
            ready.put(process)

    num_at_once = len(processes) * _BATCHES_EACH
    executor = ThreadPoolExecutor(num_at_once, "encode")
    try:
        yield from encode_in_order(executor, encode, batches, num_ahead=num_at_once)
    finally:
        for process in processes:
            process.kill()
        executor.shutdown(cancel_futures=True)
        for process in processes:
            process.close()


class DeviceProcess:
    """One device's process. Any thread may use it: it answers in the order it was asked in."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        """Starts nothing yet.

        Args:
            start: what it is told first; see `device_worker`.
        """
        self._start = start
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None
        self._is_killed = False
        self._failure = ""
        self._life = threading.Lock()
        self._asking = threading.Lock()
        self._last_answered = threading.Event()
        self._last_answered.set()

    def encode(self, pixels: Pixels) -> Embeddings:
        """Raw embeddings (N, dim) of frames (N, 3, H, W), in order.

        Raises:
            EncoderError: it failed, or ended.
        """
        with self._asking:
            process = self._running()
            self._write(process, {"shape": pixels.shape}, np.ascontiguousarray(pixels).data)
            before, answered = self._last_answered, threading.Event()
            self._last_answered = answered
        try:
            before.wait()
            return self._answer(process)
        finally:
            answered.set()

    def kill(self) -> None:
        """Ends it at once; who waits for it gets an EncoderError."""
        with self._life:
            self._is_killed = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """Gives back what it held, once nobody uses it any more."""
        self.kill()
        self._log.close()
        if self._process is not None:
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):
                    pipe.close()

    def _running(self) -> "subprocess.Popen[bytes]":
        with self._life:
            if self._is_killed:
                raise self._error("it was ended")
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", _PROGRAM],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._log,
                    bufsize=0,
                    env=child_environment(),
                )
                self._write(self._process, self._start)
            return self._process

    def _write(
        self,
        process: "subprocess.Popen[bytes]",
        header: Mapping[str, Any],
        payload: memoryview | bytes = b"",
    ) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it ended: its answer tells why
            decode_messages.write(process.stdin.fileno(), dict(header), payload)

    def _answer(self, process: "subprocess.Popen[bytes]") -> Embeddings:
        """What it says next; its first failure is its last word, and told to all who wait."""
        if not self._failure:
            assert process.stdout is not None
            message = decode_messages.read_with_payload(process.stdout.fileno())
            if message is None:
                self._failure = self._ending(process)
            elif message[0]["say"] == "failed":
                self._failure = message[0]["reason"]
            else:
                header, payload = message
                return np.frombuffer(payload, np.float32).reshape(header["shape"])
        raise self._error(self._failure)

    def _ending(self, process: "subprocess.Popen[bytes]") -> str:
        """How it ended, and what it printed last."""
        code = process.wait()
        how = f"ended with {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        if code == -getattr(signal, "SIGKILL", 9):  # the kernel's, when memory runs out
            how += ", out of memory?"
        self._log.seek(0)
        said = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return f"its process {how}{f' ({said[-1]})' if said else ''}"

    def _error(self, reason: str) -> EncoderError:
        return EncoderError(f"{self._start['encoder']['device']} cannot encode: {reason}")
