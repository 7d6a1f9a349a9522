"""What the nearest neighbours in a collection say an item is: exactly, and as it is served.

Every item with a label is asked for by its own stored embedding, and is never its own neighbour.
The label with most votes wins, of equal ones that of the nearest neighbour. Pictures count by
their row, videos by the row of the whole. PE's paper measures features so too, with neighbours
among ImageNet's training pictures; here they are those of the collection.
"""

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perception_search import tables
from perception_search.collection import Collection
from perception_search.errors import QueryError
from perception_search.media import absolute, display
from perception_search.metrics import bootstrap_interval
from perception_search.scoring import Target
from perception_search.searcher import Searcher

if TYPE_CHECKING:
    from perception_search.snapshot import Snapshot

_ITEMS_AT_ONCE = 256


@dataclass(frozen=True)
class KnnReport:
    """How often neighbours are right; shares are fractions of 1.

    Attributes:
        k: neighbours that vote.
        num_items: items with a label, all asked for.
        num_labels: different labels.
        index: what served; `exact` where every row is scored.
        figures: by way, `exact` and `served`: `acc1`, `mean_per_class_recall`, `milliseconds` an
            item; of `served` also `neighbours`, the share of the exact ones that it found.
        interval: 95 % bootstrap interval of the served `acc1`.
    """

    k: int
    num_items: int
    num_labels: int
    index: str
    figures: Mapping[str, Mapping[str, float]]
    interval: tuple[float, float]

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return asdict(self)

    def table(self) -> str:
        """A Markdown table, shares in %."""
        lines = [
            f"{self.num_items} items of {self.num_labels} labels, {self.k} neighbours; served by "
            f"{self.index}",
            "",
            "| | " + " | ".join(self.figures) + " |",
            "|---" * (len(self.figures) + 1) + "|",
        ]
        for measure in self.figures["served"]:
            values = [figures.get(measure) for figures in self.figures.values()]
            scale = 1 if measure == "milliseconds" else 100
            cells = ["" if value is None else f"{scale * value:.1f}" for value in values]
            lines.append(f"| {measure} | " + " | ".join(cells) + " |")
        low, high = self.interval
        lines.append(f"\nacc1 as served, 95 % interval: {100 * low:.1f} to {100 * high:.1f}")
        return "\n".join(lines)


def labels_of(collection: Collection, labels: str) -> dict[str, str]:
    """The label of each item that has one, by content hash.

    Args:
        collection: the items.
        labels: a column of theirs, `folder` too; or a CSV with the columns `path` and `label`,
            paths being absolute, from here or from the file's folder.

    Raises:
        QueryError: there is no such column or file, or fewer than two items have a label.
    """
    items = collection.snapshot.shown_items
    hashes = collection.snapshot.live_items["content_hash"].to_pylist()
    if labels in items.column_names:
        values = items[labels].to_pylist()
        pairs = zip(hashes, values, strict=True)
        found = {one: str(value) for one, value in pairs if value is not None}
    else:
        found = _from_csv(collection, Path(labels), items.column_names)
    if len(found) < 2:
        raise QueryError(f"{len(found)} items have a label by {labels}; two at least are needed")
    return found


def _from_csv(collection: Collection, file: Path, columns: Sequence[str]) -> dict[str, str]:
    if not file.is_file():
        raise QueryError(
            f"{display(file)} is neither a file nor a column of the items; those are "
            f"{', '.join(columns)}"
        )
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        names = reader.fieldnames or []
        if not {"path", "label"} <= set(names):
            raise QueryError(
                f"{display(file)} has the columns {', '.join(names)}; path and label are needed"
            )
        rows = [(row["path"], row["label"]) for row in reader]
    records = collection.snapshot.path_records
    found = {}
    for path, label in rows:
        for place in (absolute(path), absolute(file).parent / path):
            record = records.get(place)
            if record is not None and record.outcome == "ingested" and record.content_hash:
                found[record.content_hash] = label
    return found


def evaluate_knn(
    collection: Collection,
    label_of: Mapping[str, str],
    *,
    k: int = 10,
    on_progress: Callable[[int, int], None] | None = None,
) -> KnnReport:
    """Let neighbours vote on every item with a label.

    Args:
        collection: the items.
        label_of: from `labels_of`; items without a label neither vote nor are asked for.
        k: neighbours that vote, fewer where there are fewer.
        on_progress: called with (items done, items in all).
    """
    snapshot = collection.snapshot
    hashes, positions = _positions(snapshot, label_of)
    embeddings = snapshot.rows.embeddings(positions)
    names = sorted(set(label_of.values()))
    labels = np.array([names.index(label_of[one]) for one in hashes])
    k = min(k, len(hashes) - 1)
    place_of = {content_hash: place for place, content_hash in enumerate(hashes)}
    records = snapshot.path_records
    searcher = Searcher(collection.path, "auto")
    has_videos = bool((snapshot.rows.scope[positions] == tables.VIDEO).any())
    near = {"exact": np.zeros((len(hashes), k), np.int64), "served": np.full((len(hashes), k), -1)}
    seconds = dict.fromkeys(near, 0.0)
    for first in range(0, len(hashes), _ITEMS_AT_ONCE):
        some = embeddings[first : first + _ITEMS_AT_ONCE]
        here = slice(first, first + len(some))
        start = time.perf_counter()
        near["exact"][here] = _nearest(some @ embeddings.T, first, k)
        seconds["exact"] += time.perf_counter() - start
        start = time.perf_counter()
        targets = [Target(one) for one in some]
        answers = searcher.search(snapshot, targets, k=k + 1, whole=has_videos)
        seconds["served"] += time.perf_counter() - start
        for number, hits in enumerate(answers, first):
            found = [place_of.get(records[hit.path].content_hash or "", -1) for hit in hits]
            others = [one for one in found if one not in (number, -1)][:k]
            near["served"][number, : len(others)] = others
        if on_progress is not None:
            on_progress(here.stop, len(hashes))
    figures = {}
    for way, neighbours in near.items():
        votes = [_voted(labels[some[some >= 0]]) for some in neighbours]
        right = np.array(votes) == labels
        of_labels = [right[labels == label].mean() for label in np.unique(labels)]
        figures[way] = {
            "acc1": float(right.mean()),
            "mean_per_class_recall": float(np.mean(of_labels)),
            "milliseconds": 1000 * seconds[way] / len(hashes),
        }
    shared = [np.isin(a, b).mean() for a, b in zip(near["exact"], near["served"], strict=True)]
    figures["served"]["neighbours"] = float(np.mean(shared))
    described = collection.info()["index"]
    return KnnReport(
        k=k,
        num_items=len(hashes),
        num_labels=len(names),
        index=described["recipe"] if described else "exact",
        figures=figures,
        interval=bootstrap_interval(right),
    )


def _positions(
    snapshot: "Snapshot", label_of: Mapping[str, str]
) -> tuple[list[str], NDArray[np.int64]]:
    """The labelled items' contents, and the row of all of each."""
    rows = snapshot.rows
    whole = np.flatnonzero((rows.scope == tables.IMAGE) | (rows.scope == tables.VIDEO))
    live = set(snapshot.live_items["content_hash"].to_pylist())
    hashes = rows.content_hash.take(whole).to_pylist()
    pairs = [
        (content_hash, place)
        for content_hash, place in zip(hashes, whole.tolist(), strict=True)
        if content_hash in live and content_hash in label_of
    ]
    return [one for one, _ in pairs], np.array([place for _, place in pairs], np.int64)


def _nearest(scores: NDArray[np.float32], first: int, k: int) -> NDArray[np.int64]:
    """The `k` best columns of each row (N, k), best first, but for its own."""
    own = np.arange(len(scores))
    scores[own, first + own] = -np.inf
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    ordered: NDArray[np.int64] = np.take_along_axis(best, order, axis=1)
    return ordered


def _voted(labels: NDArray[np.int64]) -> int:
    """The label with most votes; of equal ones that of the nearest. -1 where nobody votes."""
    if not len(labels):
        return -1
    counts = np.bincount(labels)
    return int(next(label for label in labels if counts[label] == counts.max()))
