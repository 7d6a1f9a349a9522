"""A library judged by its owner: own queries, own right answers, exactly and by the index."""

import csv
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception_search import search as searching
from perception_search.collection import Collection
from perception_search.errors import QueryError
from perception_search.hits import Hits
from perception_search.media import absolute, display
from perception_search.metrics import bootstrap_interval
from perception_search.scoring import Target
from perception_search.zero_shot import KS, recall

_QUERY, _PATH = "query", "path"
_MOST_NAMED = 5


@dataclass(frozen=True)
class MineReport:
    """How well the right answers are found; shares are fractions of 1.

    Attributes:
        num_queries: queries asked.
        index: what the index is; None where every search is exact.
        figures: by way (`exact`, and `indexed` where there is an index), `recall@1`, `@5`, `@10`:
            the share of queries with a right answer among so many first; `mrr@10`: the mean of
            1 / rank of the first right one, 0 beyond ten; `milliseconds` a query, words not
            encoded anew.
        intervals: 95 % bootstrap intervals of the recalls.
        missed: queries whose right answers are not among the first ten, with what came first.
    """

    num_queries: int
    index: str | None
    figures: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]
    missed: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return asdict(self)

    def table(self) -> str:
        """A Markdown table, shares in %."""
        ways = list(self.figures)
        lines = ["| | " + " | ".join(ways) + " |", "|---" * (len(ways) + 1) + "|"]
        for measure in self.figures[ways[0]]:
            cells = []
            for way in ways:
                value = self.figures[way][measure]
                cell = f"{value:.1f}" if measure == "milliseconds" else f"{100 * value:.1f}"
                if measure in self.intervals[way]:
                    low, high = self.intervals[way][measure]
                    cell += f" [{100 * low:.1f}, {100 * high:.1f}]"
                cells.append(cell)
            lines.append(f"| {measure} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def read_queries(file: Path) -> dict[str, list[str]]:
    """The right paths of every query, from a CSV with the columns `query` and `path`.

    A query with several right answers has a line for each.

    Raises:
        QueryError: the file cannot be read, lacks a column, or holds no query.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            columns = reader.fieldnames or []
            if not {_QUERY, _PATH} <= set(columns):
                raise QueryError(
                    f"{display(file)} has the columns {', '.join(columns)}; query and path are "
                    "needed"
                )
            queries: dict[str, list[str]] = {}
            for row in reader:
                if row[_QUERY] and row[_PATH]:
                    queries.setdefault(row[_QUERY], []).append(row[_PATH])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise QueryError(f"{display(file)} cannot be read: {error}") from error
    if not queries:
        raise QueryError(f"{display(file)} holds no query with a path")
    return queries


def evaluate_mine(collection: Collection, queries: Mapping[str, Sequence[str]]) -> MineReport:
    """Ask every query exactly, and by the index where there is one.

    Args:
        collection: holds the right answers.
        queries: of each the paths of its right answers: absolute, from here, or the end of one
            (`2019/beach.jpg`, `beach.jpg`) where no other ends so.

    Raises:
        QueryError: a path is in the collection not at all, or fits several items.
    """
    right = _right_hashes(collection, queries)
    words = list(queries)
    embedded = collection.query_encoder().texts(words)
    targets = [Target(embedding) for _, embedding in embedded]
    snapshot = collection.snapshot
    k = max(KS)
    start = time.perf_counter()
    answers = {"exact": [searching.search(snapshot, target, k=k) for target in targets]}
    seconds = {"exact": time.perf_counter() - start}
    described = collection.info()["index"]
    if described is not None:
        start = time.perf_counter()
        answers["indexed"] = [collection.search(query, k=k) for query in words]
        seconds["indexed"] = time.perf_counter() - start
    records = snapshot.path_records
    figures, intervals = {}, {}
    for way, hits in answers.items():
        ranks = np.array(
            [
                _rank([records[hit.path].content_hash for hit in some], right[query])
                for query, some in zip(words, hits, strict=True)
            ]
        )
        figures[way] = {f"recall@{k}": recall(ranks, k) for k in KS} | {
            "mrr@10": float(np.mean(np.where(ranks <= k, 1 / ranks, 0))),
            "milliseconds": 1000 * seconds[way] / len(words),
        }
        intervals[way] = {f"recall@{k}": bootstrap_interval(ranks <= k) for k in KS}
        if way == "exact":
            missed = _missed(words, hits, ranks > k)
    return MineReport(
        num_queries=len(words),
        index=described["recipe"] if described else None,
        figures=figures,
        intervals=intervals,
        missed=missed,
    )


def _rank(found: Sequence[str | None], right: set[str]) -> int:
    """The rank of the first right one; one more than there can be where there is none."""
    return next((rank for rank, one in enumerate(found, 1) if one in right), max(KS) + 1)


def _missed(words: Sequence[str], answers: Sequence[Hits], are_missed: Any) -> dict[str, str]:
    firsts = [display(hits[0].path) if hits else "nothing" for hits in answers]
    pairs = zip(words, firsts, are_missed.tolist(), strict=True)
    return {query: first for query, first, is_missed in pairs if is_missed}


def _right_hashes(
    collection: Collection, queries: Mapping[str, Sequence[str]]
) -> dict[str, set[str]]:
    """Of every query the contents of its right answers."""
    by_path = {
        path: content_hash
        for content_hash, paths in collection.snapshot.live_paths.items()
        for path in paths
    }
    by_name: dict[str, list[Path]] = {}
    for path in by_path:
        by_name.setdefault(path.name, []).append(path)
    right: dict[str, set[str]] = {}
    unknown = []
    for query, names in queries.items():
        right[query] = set()
        for name in names:
            parts = Path(name).parts
            fitting = {
                by_path[path]
                for path in by_name.get(Path(name).name, [])
                if path == absolute(name) or path.parts[-len(parts) :] == parts
            }
            if absolute(name) in by_path:
                fitting = {by_path[absolute(name)]}
            if len(fitting) > 1:
                raise QueryError(f"{len(fitting)} items are called {name}: write more of its path")
            if not fitting:
                unknown.append(name)
            right[query] |= fitting
    if unknown:
        named = ", ".join(unknown[:_MOST_NAMED])
        more = " and others" * (len(unknown) > _MOST_NAMED)
        raise QueryError(
            f"{len(unknown)} right answers are not in {display(collection.path)}: {named}{more}"
        )
    return right
