"""Several batches at once, results in order; knows no model.

On a CPU a batch on all cores makes every core wait for the slowest after every operation, which is
dear while decoding takes turns with it. A batch a core, each on one thread, never waits.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Embeddings = NDArray[np.float32]
Encode = Callable[[Pixels], Embeddings]


def encode_in_threads(encode: Encode, batches: Iterable[Pixels]) -> Iterator[Embeddings]:
    """`encode` of every batch, in order; as many at once as torch has threads.

    At most one batch more than there are threads is taken ahead. torch's number of threads is as
    before when the iterator ends.
    """
    num_threads = torch.get_num_threads()
    executor = ThreadPoolExecutor(
        num_threads, "encode", initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        yield from encode_in_order(executor, encode, batches, num_ahead=num_threads)
    finally:
        executor.shutdown(cancel_futures=True)
        torch.set_num_threads(num_threads)  # MKL's is one for the whole process


def encode_in_order(
    executor: ThreadPoolExecutor, encode: Encode, batches: Iterable[Pixels], *, num_ahead: int
) -> Iterator[Embeddings]:
    """`encode` of every batch by the executor's threads, in order; `num_ahead` are taken ahead."""
    waiting: collections.deque[Future[Embeddings]] = collections.deque()
    for batch in batches:
        waiting.append(executor.submit(encode, batch))
        if len(waiting) > num_ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
