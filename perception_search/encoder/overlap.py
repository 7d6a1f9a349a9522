"""Batches through a GPU: copies there and back run while it computes; knows no model.

Frames go up as uint8, through two steps of a fixed number of frames. While one computes the other
is filled and copied on a stream of its own, from pinned memory, which the GPU reads by itself.
Batches share steps: every step but the last is full, so that one shape is all there is to compile.
On a CPU the same code runs one thing after the other.
"""

import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception_search.encoder.base import check_pixels

Pixels = NDArray[np.uint8]
Embeddings = NDArray[np.float32]
Compute = Callable[[Tensor], Tensor]


def encode_overlapped(
    compute: Compute,
    batches: Iterable[Pixels | None],
    *,
    device: torch.device,
    batch_size: int,
    dim: int,
) -> Iterator[Embeddings]:
    """The embeddings (N, dim) of every batch, in order.

    Args:
        compute: uint8 (B, 3, H, W) on the device -> float32 (B, dim) there, B <= batch_size; it
            must not wait for the device.
        batches: uint8 (N, 3, H, W), of any N, none too. None asks for what is still on its way.
        device: what computes.
        batch_size: frames of a step.
        dim: length of an embedding.
    """
    streams = _Cuda(device) if device.type == "cuda" else _Cpu()
    pipeline = _Pipeline(compute, streams, batch_size, dim)
    try:
        for batch in batches:
            if batch is None:
                pipeline.flush()
            else:
                pipeline.put(batch)
            yield from pipeline.finished()
        pipeline.flush()
        yield from pipeline.finished()
    finally:
        pipeline.close()


class _Cpu:
    """The streams of a CPU: there are none, and what is asked for is done at once."""

    device = torch.device("cpu")
    pins = False

    def copying(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def computing(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def after_copies(self) -> None:
        pass

    def mark(self) -> None:
        return None


class _Cuda:
    """One stream that computes, the current one, and one that copies to the GPU."""

    pins = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._compute = torch.cuda.current_stream(device)
        self._copy = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copying(self) -> contextlib.AbstractContextManager[object]:
        return torch.cuda.stream(self._copy)

    def computing(self) -> contextlib.AbstractContextManager[object]:
        return torch.cuda.stream(self._compute)

    def after_copies(self) -> None:
        """What is computed from now on has the frames that were copied until now."""
        self._compute.wait_stream(self._copy)

    def mark(self) -> torch.cuda.Event:
        """To wait for all that was asked to be computed until now."""
        event: torch.cuda.Event = self._compute.record_event()
        return event


@dataclass
class _Output:
    """The embeddings of a batch, and how many of them are still to come."""

    embeddings: Embeddings
    num_missing: int


class _Step:
    """Frames on their way up and their embeddings on their way down: buffers that are used again.

    They may be, once `finish` has waited: then nothing on the GPU reads or writes them.
    """

    def __init__(
        self, streams: _Cpu | _Cuda, batch_size: int, dim: int, shape: tuple[int, ...]
    ) -> None:
        self.shape = shape
        self.num_frames = 0
        self._streams = streams
        self._places: list[tuple[_Output, slice, slice]] = []
        self._host_pixels = torch.empty(
            (batch_size, *shape), dtype=torch.uint8, pin_memory=streams.pins
        )
        self._host_embeddings = torch.empty((batch_size, dim), pin_memory=streams.pins)
        with streams.copying():  # memory that no earlier computation may still use
            self._pixels = torch.empty(
                (batch_size, *shape), dtype=torch.uint8, device=streams.device
            )

    @property
    def is_full(self) -> bool:
        return self.num_frames == len(self._host_pixels)

    def fill(self, pixels: Pixels, output: _Output, start: int) -> int:
        """Takes frames from `start` on as far as they fit; returns where it stopped."""
        stop = min(len(pixels), start + len(self._host_pixels) - self.num_frames)
        own = slice(self.num_frames, self.num_frames + stop - start)
        self._host_pixels.numpy()[own] = pixels[start:stop]
        self._places.append((output, slice(start, stop), own))
        self.num_frames = own.stop
        return stop

    def launch(self, compute: Compute) -> None:
        """Asks for everything up to the embeddings' arrival, and waits for nothing."""
        used = slice(self.num_frames)
        with torch.inference_mode():
            with self._streams.copying():
                self._pixels[used].copy_(self._host_pixels[used], non_blocking=True)
            self._streams.after_copies()
            with self._streams.computing():
                embeddings = compute(self._pixels[used])
                self._host_embeddings[used].copy_(embeddings, non_blocking=True)
        self._done = self._streams.mark()

    def finish(self) -> None:
        """Waits, and gives every batch its embeddings; the step is empty then."""
        if self._done is not None:
            self._done.synchronize()
        embeddings = self._host_embeddings.numpy()
        for output, theirs, own in self._places:
            output.embeddings[theirs] = embeddings[own]
            output.num_missing -= own.stop - own.start
        self._places.clear()
        self.num_frames = 0


class _Pipeline:
    """Two steps that take turns, and the batches that wait for them."""

    def __init__(self, compute: Compute, streams: _Cpu | _Cuda, batch_size: int, dim: int) -> None:
        self._compute = compute
        self._streams = streams
        self._batch_size = batch_size
        self._dim = dim
        self._idle: list[_Step | None] = [None, None]  # none has buffers yet
        self._filling: _Step | None = None
        self._running: collections.deque[_Step] = collections.deque()
        self._outputs: collections.deque[_Output] = collections.deque()

    def put(self, pixels: Pixels) -> None:
        """Takes a batch; launches what it fills, and waits where both steps are under way."""
        check_pixels(pixels)
        output = _Output(np.empty((len(pixels), self._dim), np.float32), len(pixels))
        self._outputs.append(output)
        start = 0
        while start < len(pixels):
            step = self._step(pixels.shape[1:])
            start = step.fill(pixels, output, start)
            if step.is_full:
                self._launch()

    def flush(self) -> None:
        """Waits until every batch has its embeddings."""
        self._launch()
        while self._running:
            self._collect()

    def finished(self) -> Iterator[Embeddings]:
        """The batches that have all their embeddings, up to the first that has not."""
        while self._outputs and not self._outputs[0].num_missing:
            yield self._outputs.popleft().embeddings

    def close(self) -> None:
        """Waits for what is under way, whose buffers are then given back."""
        with contextlib.suppress(RuntimeError):  # of the GPU, and told already
            while self._running:
                self._collect()

    def _step(self, shape: tuple[int, ...]) -> _Step:
        """The step that is being filled with frames of this shape."""
        if self._filling is not None and self._filling.shape != shape:
            self._launch()
        if self._filling is None:
            if not self._idle:
                self._collect()
            step = self._idle.pop()
            if step is None or step.shape != shape:
                step = _Step(self._streams, self._batch_size, self._dim, shape)
            self._filling = step
        return self._filling

    def _launch(self) -> None:
        if self._filling is not None:
            step, self._filling = self._filling, None
            step.launch(self._compute)
            self._running.append(step)

    def _collect(self) -> None:
        step = self._running.popleft()
        step.finish()
        self._idle.append(step)
