"""Stopping at a durable operation: before it nothing of it is done, all before it is."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace

from perception_search import durable


class Stop(BaseException):
    """Not an Exception, so that no code that is tested takes it for an error of its own."""


@contextlib.contextmanager
def stopping_after(num_operations: int) -> Iterator[SimpleNamespace]:
    """Let so many durable operations be done and stop at the next one, if there is one.

    Yields:
        What has `stopped`: whether it came that far.
    """
    state = SimpleNamespace(stopped=False, left=num_operations)

    def count(_operation: str, _path: object) -> None:
        state.left -= 1
        if state.left < 0:
            state.stopped = True
            raise Stop

    before, durable.on_operation = durable.on_operation, count
    try:
        yield state
    except Stop:
        pass
    finally:
        durable.on_operation = before
