"""Encodes batches on one device, in a process of its own; knows no collection.

Run by the parent as `python -m perception_search.encoder.device_worker`; `decode_messages` says how
messages look. Batches are taken while others are computed, and answered in order:

    {"num_threads", "encoder": arguments of PerceptionEncoder}, once
    {"shape"} + pixels, uint8
        <- {"say": "embeddings", "shape"} + float32
        <- {"say": "failed", "reason"}, which ends it

The worker ends at once when its input does, whatever it computes: then its parent is gone.
"""

import os
import queue
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_search import decode_messages
from perception_search.errors import PerceptionSearchError

Requests = queue.SimpleQueue[NDArray[np.uint8]]


def main() -> None:
    """Runs a worker on standard input and output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this
    # Libraries print: what they print must not get among the messages.
    in_fd, out_fd = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    start = decode_messages.read(in_fd)
    if start is None:
        return
    requests: Requests = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(in_fd, requests), daemon=True).start()
    try:
        for embeddings in _encoded(requests, start):
            header = {"say": "embeddings", "shape": embeddings.shape}
            decode_messages.write(out_fd, header, embeddings.data)
    except Exception as error:  # torch raises anything
        decode_messages.write(out_fd, {"say": "failed", "reason": _reason(error)})


def _encoded(requests: Requests, start: dict[str, Any]) -> Iterator[NDArray[np.float32]]:
    import torch

    from perception_search.encoder.perception import PerceptionEncoder

    torch.set_num_threads(start["num_threads"])
    return PerceptionEncoder(**start["encoder"]).encode_overlapped(_batches(requests))


def _batches(requests: Requests) -> Iterator[NDArray[np.uint8] | None]:
    """Requests as they come; None, which asks for what is on its way, while there are none."""
    while True:
        if requests.empty():
            yield None
        yield requests.get()


def _listen(in_fd: int, requests: Requests) -> None:
    try:
        while (message := decode_messages.read_with_payload(in_fd)) is not None:
            header, pixels = message
            requests.put(np.frombuffer(pixels, np.uint8).reshape(header["shape"]))
    finally:
        os._exit(1)


def _reason(error: Exception) -> str:
    """The error in one line."""
    said = str(error).strip().splitlines()
    if said and isinstance(error, PerceptionSearchError | ValueError):
        return said[0]
    return f"{type(error).__name__}{f': {said[0]}' if said else ''}"


if __name__ == "__main__":
    main()
