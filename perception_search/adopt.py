"""Embeddings that another program made of local pictures, taken in as they are; encodes a few."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perception_search import current_index, durable, media
from perception_search.embedding_files import Given
from perception_search.errors import CollectionMismatch, MediaError
from perception_search.media import display
from perception_search.snapshot import PathRecord
from perception_search.survey import FileReport
from perception_search.writer import NewRow, Writer

if TYPE_CHECKING:
    from perception_search.collection import Collection

NUM_COMPARED = 4
LEAST_COSINE = 0.98
"""Of a foreign embedding to the collection's own: resizing differs a little between programs."""
_COMMIT_ROWS = 16_384
_HEAD_BYTES = 4096

Embed = Callable[[Path], NDArray[np.float32]]


@dataclass
class AdoptReport:
    """What became of every row.

    Attributes:
        adopted: pictures whose embedding was taken.
        known: pictures that the collection held before, which kept their own embedding.
        failed: rows that were not taken, with outcome and reason.
        least_cosine: of the compared embeddings to the collection's own; nan where none was.
    """

    adopted: int = 0
    known: int = 0
    failed: list[FileReport] = field(default_factory=list)
    least_cosine: float = float("nan")


def import_embeddings(
    collection: "Collection",
    given: Iterable[Given],
    *,
    trust: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> AdoptReport:
    """Take embeddings of another program into a collection; see `adopt`.

    Args:
        collection: where they belong.
        given: rows of another program, see `embedding_files.read`.
        trust: compare none with what the collection's model makes of the pictures.
        on_progress: called with the number of rows done.
    """
    encoder = collection.query_encoder()
    embed = None if trust else lambda path: encoder.images([path])[0][1]
    with Writer(collection.path) as writer:
        report = adopt(writer, given, embed, on_progress)
        current_index.keep_up(writer, collection.asked())
    return report


def adopt(
    writer: Writer,
    given: Iterable[Given],
    embed: Embed | None,
    on_progress: Callable[[int], None] | None = None,
) -> AdoptReport:
    """Store the embeddings of pictures that are there, as an ingest would have made them.

    The next ingest of those files knows them and opens none. What a file would tell (size in
    pixels, camera, place, time) stays unknown.

    Args:
        writer: the collection's, entered.
        given: rows of another program.
        embed: the collection's own embedding of a file, which the first few must agree with;
            None to trust them.
        on_progress: called with the number of rows done.

    Raises:
        CollectionMismatch: another dimension, or another model made them.
    """
    run = _Adoption(writer, embed)
    num_done = 0
    for some in given:
        dim = some.embeddings.shape[1]
        if dim != writer.snapshot.dim:
            raise CollectionMismatch(
                f"the embeddings have {dim} dimensions, the collection's {writer.snapshot.dim}: "
                "another model made them"
            )
        for path, embedding in zip(some.paths, some.embeddings, strict=True):
            run.take(path, embedding.astype(np.float32))
        num_done += len(some.paths)
        if on_progress is not None:
            on_progress(num_done)
    writer.commit()
    writer.compact()
    return run.report


class _Adoption:
    """One run; its state is what is known of contents."""

    def __init__(self, writer: Writer, embed: Embed | None) -> None:
        self.report = AdoptReport()
        self._writer = writer
        self._embed = embed
        self._num_compared = 0
        self._num_waiting = 0
        names = ("content_hash", "outcome")
        columns = (writer.snapshot.items[name].to_pylist() for name in names)
        self._outcomes = dict(zip(*columns, strict=True))
        self._records = writer.snapshot.path_records

    def take(self, name: str | None, embedding: NDArray[np.float32]) -> None:
        """Take one row in, or say why not."""
        if not name:
            self._fail(Path(), "unreadable", "the row names no picture")
            return
        path = media.absolute(name)
        norm = float(np.linalg.norm(embedding))
        if not (np.isfinite(norm) and norm > 1e-6):
            self._fail(path, "bad_embedding", "its embedding is empty or not of numbers")
            return
        try:
            status = path.stat()
            with path.open("rb") as file:
                kind = media.sniff(file.read(_HEAD_BYTES))
            content_hash = durable.sha256_of(path)
        except (OSError, ValueError) as error:
            self._fail(path, "unreadable", f"cannot be read here: {error}")
            return
        if kind != "image":
            self._fail(path, "not_an_image", "one embedding is not enough of what is no picture")
            return
        record = PathRecord(
            status.st_size, status.st_mtime_ns, status.st_ino, content_hash, "ingested"
        )
        if self._outcomes.get(content_hash) == "ingested":
            self.report.known += 1
            if self._records.get(path) != record:
                self._writer.add_path(path, record)
            return
        unit = embedding / norm
        self._compare(path, unit)
        modified = datetime.fromtimestamp(status.st_mtime, UTC).replace(tzinfo=None)
        item = {
            "content_hash": content_hash,
            "kind": "image",
            "size_bytes": status.st_size,
            "modified_at": modified,
            "outcome": "ingested",
            "decoder": "adopted",
        }
        self._writer.add_item(item, [NewRow("image", unit, norm)])
        self._writer.add_path(path, record)
        self._outcomes[content_hash] = "ingested"
        self.report.adopted += 1
        self._num_waiting += 1
        if self._num_waiting == _COMMIT_ROWS:
            self._writer.commit()
            self._num_waiting = 0

    def _compare(self, path: Path, embedding: NDArray[np.float32]) -> None:
        if self._embed is None or self._num_compared == NUM_COMPARED:
            return
        try:
            own = self._embed(path)
        except MediaError:
            return  # another one will do
        self._num_compared += 1
        cosine = float(own @ embedding)
        self.report.least_cosine = float(np.fmin(self.report.least_cosine, cosine))
        if cosine < LEAST_COSINE:
            raise CollectionMismatch(
                f"the embedding of {display(path)} has a cosine of {cosine:.3f} to what the "
                f"collection's model makes of it, and {LEAST_COSINE} is the least: another model, "
                "or other preprocessing, made it"
            )

    def _fail(self, path: Path, outcome: str, reason: str) -> None:
        self.report.failed.append(FileReport(path, outcome, reason))
