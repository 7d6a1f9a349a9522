"""A library judged by its owner: own queries, own right answers, in every way it can be asked."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_search.collection import Collection
from perception_search.errors import QueryError
from perception_search.evaluate.ways import ask_in_every_way
from perception_search.hits import Hits
from perception_search.media import display
from perception_search.metrics import bootstrap_interval
from perception_search.named_items import NamedItems
from perception_search.relevance import OnProgress
from perception_search.reranking import Reranker
from perception_search.zero_shot import KS, recall

Failing: TypeAlias = Literal["lost by the index", "taken by one", "nearly", "far off"]
FAILINGS: Mapping[Failing, str] = {
    "lost by the index": "among the first ten exactly, and not by the index",
    "taken by one": "first came what comes first for at least three queries that want another",
    "nearly": "a right answer among the first ten, not first",
    "far off": "no right answer among the first ten",
}
"""Ways to fail; of those that fit the first is told."""
DEPTH = 100
"""How far answers are looked at."""
TAKEN_BY_ONE = 3

_QUERY, _PATH = "query", "path"
_MOST_NAMED = 5


@dataclass(frozen=True)
class Failure:
    """A query whose right answer does not come first.

    Attributes:
        query: the words.
        failing: how it fails, the first of `FAILINGS` that fits.
        rank: of the first right answer, searched exactly; None beyond a hundred.
        right: a path of each right answer.
        hits: what came instead, best first, ten at most: exactly, or by the index that lost it.
    """

    query: str
    failing: Failing
    rank: int | None
    right: tuple[Path, ...]
    hits: Hits


@dataclass(frozen=True)
class MineReport:
    """How well the right answers are found; shares are fractions of 1.

    Attributes:
        num_queries: queries asked.
        index: what the index is; None where every search is exact.
        figures: by way (`exact`, `indexed` where there is an index, `normalised`), `recall@1`,
            `@5`, `@10`: the share of queries with a right answer among so many first; `mrr@10`: the
            mean of 1 / rank of the first right one, 0 beyond ten; `milliseconds` a query, words
            not encoded anew.
        intervals: 95 % bootstrap intervals of the recalls.
        curves: by way the recall at 1, 2, ... 100.
        missed: queries whose right answers are not among the first ten, with what came first.
        failures: queries whose right answer does not come first, the worst first.
    """

    num_queries: int
    index: str | None
    figures: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]
    curves: Mapping[str, Sequence[float]]
    missed: Mapping[str, str]
    failures: Sequence[Failure]

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        fields = asdict(self)
        fields["failures"] = [
            {
                "query": one.query,
                "failing": one.failing,
                "rank": one.rank,
                "right": [str(path) for path in one.right],
                "hits": [hit.as_dict() for hit in one.hits],
            }
            for one in self.failures
        ]
        return fields

    def table(self) -> str:
        """A Markdown table, shares in %, and how many queries failed in which way."""
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
        counts = Counter(one.failing for one in self.failures)
        for way, said in FAILINGS.items():
            if counts[way]:
                lines.append(f"\n{counts[way]} of {self.num_queries} {way}: {said}.")
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


def evaluate_mine(
    collection: Collection,
    queries: Mapping[str, Sequence[str]],
    *,
    reranker: Reranker | None = None,
    depth: int = 50,
    on_progress: OnProgress | None = None,
) -> MineReport:
    """Ask every query exactly, by the index where there is one, normalised, and reranked where
    there is a judge.

    Args:
        collection: holds the right answers.
        queries: of each the paths of its right answers: absolute, from here, or the end of one
            (`2019/beach.jpg`, `beach.jpg`) where no other ends so.
        reranker: judges the best of the exact answers.
        depth: how many of them.
        on_progress: of what `normalised` needs; see `relevance.judge`.

    Raises:
        QueryError: a path is in the collection not at all, or fits several items.
    """
    right = _right_hashes(collection, queries)
    collection.prepare_relevance(on_progress)
    words = list(queries)
    answered = ask_in_every_way(collection, words, k=DEPTH, reranker=reranker, depth=depth)
    records = collection.snapshot.path_records
    ranks, figures, intervals, curves = {}, {}, {}, {}
    for way, some in answered.items():
        found = ranks[way] = np.array(
            [
                _rank([records[hit.path].content_hash for hit in hits], right[query])
                for query, hits in zip(words, some.hits, strict=True)
            ]
        )
        last = max(KS)
        figures[way] = {f"recall@{k}": recall(found, k) for k in KS} | {
            f"mrr@{last}": float(np.mean(np.where(found <= last, 1 / found, 0))),
            "milliseconds": some.milliseconds,
        }
        intervals[way] = {f"recall@{k}": bootstrap_interval(found <= k) for k in KS}
        curves[way] = [recall(found, k) for k in range(1, DEPTH + 1)]
    described = collection.info()["index"]
    paths = collection.snapshot.live_paths
    return MineReport(
        num_queries=len(words),
        index=described["recipe"] if described else None,
        figures=figures,
        intervals=intervals,
        curves=curves,
        missed=_missed(words, answered["exact"].hits, ranks["exact"] > max(KS)),
        failures=_failures(
            words,
            {way: some.hits for way, some in answered.items()},
            ranks,
            {query: tuple(paths[one][0] for one in sorted(some)) for query, some in right.items()},
        ),
    )


def _rank(found: Sequence[str | None], right: set[str]) -> int:
    """The rank of the first right one; one more than there can be where there is none."""
    return next((rank for rank, one in enumerate(found, 1) if one in right), DEPTH + 1)


def _failures(
    words: Sequence[str],
    hits: Mapping[str, Sequence[Hits]],
    ranks: Mapping[str, NDArray[np.int64]],
    right: Mapping[str, tuple[Path, ...]],
) -> list[Failure]:
    """The queries whose right answer does not come first, the worst first."""
    exact, last = ranks["exact"], max(KS)
    indexed = ranks.get("indexed", exact)
    firsts = Counter(
        some[0].row_id for some, rank in zip(hits["exact"], exact, strict=True) if rank > 1
    )
    failures = []
    for number, query in enumerate(words):
        rank = int(exact[number])
        is_lost = rank <= last < indexed[number]
        if rank == 1 and not is_lost:
            continue
        came = hits["indexed" if is_lost else "exact"][number]
        if is_lost:
            failing: Failing = "lost by the index"
        elif firsts[came[0].row_id] >= TAKEN_BY_ONE:
            failing = "taken by one"
        else:
            failing = "nearly" if rank <= last else "far off"
        shown = None if rank > DEPTH else rank
        failures.append(Failure(query, failing, shown, right[query], Hits(came[:last])))
    return sorted(failures, key=lambda one: -(one.rank or DEPTH + 1))


def _missed(
    words: Sequence[str], answers: Sequence[Hits], are_missed: NDArray[np.bool_]
) -> dict[str, str]:
    firsts = [display(hits[0].path) if hits else "nothing" for hits in answers]
    pairs = zip(words, firsts, are_missed.tolist(), strict=True)
    return {query: first for query, first, is_missed in pairs if is_missed}


def _right_hashes(
    collection: Collection, queries: Mapping[str, Sequence[str]]
) -> dict[str, set[str]]:
    """Of every query the contents of its right answers."""
    items = NamedItems(collection.snapshot)
    right: dict[str, set[str]] = {}
    unknown = []
    for query, names in queries.items():
        right[query] = set()
        for name in names:
            fitting = items.fitting(name)
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
