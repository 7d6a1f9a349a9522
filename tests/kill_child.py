"""An ingest in a process of its own, which may kill itself at the n-th durable operation.

The processes are forked from one that has imported everything: importing takes longer than most of
them live.
"""

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

from fakes import ColourEncoder

from perception_search import Collection, durable

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["kill_child", "pandas"])  # which pyarrow loads at its first array
DONE = "done"


class Child:
    """A process that ingests `media` and says what is acknowledged.

    Args:
        collection: the collection.
        media: the folder.
        operations: durable operations after the first acknowledged file, before it kills itself;
            None to let it live.
    """

    def __init__(self, collection: str, media: str, operations: int | None) -> None:
        self._said, its = _FORKS.Pipe(duplex=False)
        self._process = _FORKS.Process(target=_ingest, args=(its, collection, media, operations))
        self._process.start()
        its.close()

    def line(self) -> str | None:
        """The next path that is acknowledged, or `DONE`; None where it has ended."""
        try:
            return self._said.recv()
        except EOFError:
            return None

    def kill(self) -> None:
        self._process.kill()

    def ended(self) -> list[str]:
        """What else it said, once it has ended."""
        lines = list(iter(self.line, None))
        self._process.join(60)
        self._said.close()
        return lines


def _ingest(said: Connection, collection: str, media: str, operations: int | None) -> None:
    left = operations
    acknowledged = False

    def count(_operation, _path):
        nonlocal left
        if left is None or not acknowledged:
            return
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def say(files):
        nonlocal acknowledged
        for file in files:
            if file.outcome == "ingested":
                said.send(str(file.path))
                acknowledged = True

    durable.on_operation = count
    photos = Collection.open(collection, encoder=ColourEncoder(delay_seconds=0.001))
    photos.ingest(media, commit_rows=8, on_commit=say, num_workers=1)
    said.send(DONE)
