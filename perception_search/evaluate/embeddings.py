"""Media of a data set in a collection, and class names as vectors: what evaluations score.

Media are taken in exactly as the reference reads them: no turning by EXIF, no JPEG decoded at
reduced size. What is in already is not read again, so a stopped run goes on.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perception_search import ingest as ingesting
from perception_search import media as media_files
from perception_search import tables, zero_shot
from perception_search.assets import cache_folder
from perception_search.collection import Collection
from perception_search.media import absolute, display
from perception_search.survey import Options
from perception_search.text_cache import TextCache
from perception_search.writer import Writer

if TYPE_CHECKING:
    from perception_search.snapshot import Snapshot

OnProgress = Callable[[int, int], None]
_PROMPTS_AT_ONCE = 1280


@dataclass(frozen=True)
class TakenIn:
    """What a run embedded.

    Attributes:
        unreadable: files that could not be read, with the reason.
        num_embedded: files embedded now; others were in already.
        seconds: that took.
    """

    unreadable: Mapping[str, str]
    num_embedded: int
    seconds: float


def take_in(
    collection: Collection,
    paths: Sequence[Path],
    columns: Mapping[str, Sequence[str]] | None = None,
    on_progress: OnProgress | None = None,
) -> TakenIn:
    """Embed the files that are not in the collection yet.

    Args:
        collection: where to.
        paths: the files; others in the collection stay.
        columns: of the items, a value for each path; filters and other measures see them.
        on_progress: called with (files done, files in all).
    """
    import pandas as pd

    files = [absolute(path) for path in paths]
    metadata = pd.DataFrame({"path": files, **columns}) if columns else None
    with Writer(collection.path) as writer:
        report = ingesting.ingest(
            writer,
            collection.encoder_for("vision"),
            list(media_files.find(files)),
            [],  # files, not a folder: nothing is missed
            Options(fast_jpeg=False),
            sampling=collection.sampling,
            segmentation=collection.segmentation,
            metadata=metadata,
            apply_exif=False,
            on_progress=on_progress,
        )
    unreadable = {display(file.path): file.reason or file.outcome for file in report.failed}
    return TakenIn(unreadable, report.ingested, report.seconds)


def whole_rows(snapshot: "Snapshot", paths: Sequence[Path]) -> NDArray[np.int64]:
    """The position of the row (N,) that stands for all of each file; -1 where it is not in.

    A picture has one row; of a video it is that of the frames spread over all of it.
    """
    rows = snapshot.rows
    wanted = np.flatnonzero((rows.scope == tables.IMAGE) | (rows.scope == tables.VIDEO))
    hashes = rows.content_hash.take(wanted).to_pylist()
    place = dict(zip(hashes, wanted.tolist(), strict=True))
    records = snapshot.path_records
    found = []
    for path in paths:
        record = records.get(absolute(path))
        is_in = record is not None and record.outcome == "ingested"
        found.append(place.get(record.content_hash, -1) if record is not None and is_in else -1)
    return np.array(found, np.int64)


def grid_means(
    snapshot: "Snapshot", positions: NDArray[np.int64]
) -> dict[str, NDArray[np.float32]]:
    """Of videos the mean (N, dim) of the frames of the time grid, `unit frames` and `raw frames`.

    Args:
        snapshot: the collection's.
        positions: of the videos' rows.
    """
    unit_means, raw_means = [], []
    for content_hash in snapshot.rows.content_hash.take(positions).to_pylist():
        grid = snapshot.grids.of(content_hash)
        frames = zero_shot.unit(grid.embeddings)
        unit_means.append(frames.mean(axis=0))
        raw_means.append((frames * grid.norms[:, None]).mean(axis=0))
    return {"unit frames": np.stack(unit_means), "raw frames": np.stack(raw_means)}


def class_vectors(
    collection: Collection,
    class_names: Sequence[str],
    templates: Sequence[str],
    on_progress: OnProgress | None = None,
) -> NDArray[np.float32]:
    """(classes, dim), of unit length: what `zero_shot.classifier` makes of every class's prompts.

    They are kept in the cache folder, by text tower, dtype and prompts: other data sets with the
    same classes compute none, and a stopped run goes on.

    Args:
        collection: whose model embeds.
        class_names: one of each class.
        templates: prompts, with `{c}` for the class name.
        on_progress: called with (classes done, classes in all).
    """
    identity = collection.identity
    encoder = collection.encoder_for("text")
    folder = cache_folder()
    with contextlib.suppress(OSError):  # a disk that only reads: no cache
        folder.mkdir(parents=True, exist_ok=True)
    how_read = f"{identity.text_sha256} {encoder.provenance.get('dtype', '')}"
    cache = TextCache(folder / "class_vectors.sqlite", how_read, identity.dim)

    def encode(prompts_of_classes: Sequence[str]) -> NDArray[np.float32]:
        prompts = [prompt for joined in prompts_of_classes for prompt in joined.split("\n")]
        texts = encoder.encode_text(prompts)
        return zero_shot.classifier(texts.reshape(-1, len(templates), texts.shape[1]))

    joined = ["\n".join(one.replace("{c}", name) for one in templates) for name in class_names]
    vectors = []
    at_once = max(1, _PROMPTS_AT_ONCE // len(templates))
    for first in range(0, len(joined), at_once):
        vectors.append(cache.encode(joined[first : first + at_once], encode))
        if on_progress is not None:
            on_progress(min(first + at_once, len(joined)), len(joined))
    return np.concatenate(vectors)
