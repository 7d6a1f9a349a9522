"""A second look at the best hits, within a time; knows no model by name.

The first hits stand at once. Batch by batch more of them are judged and move up or down; whoever
stops waiting has the best order so far. A judge that fails leaves the first order as it was.

Judged hits come first, ordered by the judge's score plus `first_weight` times the first score in
standard deviations from the mean of the hits that were to be judged; the others follow as they
were. For Perception LM the judge's score is in nats, and the weight 1: what the vectors say decides
where the judge hardly does.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from perception_search.errors import MediaError
from perception_search.hits import Hit, Hits
from perception_search.media import display
from perception_search.survey import FileReport

MOST_AT_ONCE = 8


class Reranker(Protocol):
    """Judges how well items show what was asked for."""

    first_weight: float

    @property
    def name(self) -> str:
        """As people call it."""

    def scores(self, query: str, hits: Sequence[Hit]) -> list[float | MediaError]:
        """For each hit how well it shows `query`, higher is better; an error where its file cannot
        be used. Any exception ends the reranking.
        """


@dataclass(frozen=True)
class Reranked:
    """The order so far.

    Attributes:
        hits: all of them; those that were judged have a `rerank_score`.
        num_judged: hits that were judged, or could not be.
        num_to_judge: hits that were to be judged.
        predicted_seconds: that all of them take, from those so far; None before the first.
        unusable: files that could not be judged.
        problem: why it ended early and the first order stands; None where it did not.
    """

    hits: Hits
    num_judged: int
    num_to_judge: int
    predicted_seconds: float | None = None
    unusable: tuple[FileReport, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class SecondLook:
    """A judge, and how much it may do.

    Attributes:
        reranker: the judge.
        depth: how many of the first hits it judges.
        budget_seconds: for how long at most; None for all.
    """

    reranker: Reranker
    depth: int
    budget_seconds: float | None = None

    def at(self, hits: Sequence[Hit], query: str) -> Iterator[Reranked]:
        """See `rerank`."""
        return rerank(
            hits, query, self.reranker, depth=self.depth, budget_seconds=self.budget_seconds
        )


def rerank(
    hits: Sequence[Hit],
    query: str,
    reranker: Reranker,
    *,
    depth: int = 50,
    budget_seconds: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Reranked]:
    """The hits as they are, and again each time some more were judged; the last is the result.

    Args:
        hits: best first.
        query: the words they were found by.
        reranker: the judge.
        depth: how many of the first are judged at most.
        budget_seconds: no batch is begun that would not end within this; None for all. The first
            hit is judged in any case.
        clock: seconds that pass.

    Raises:
        ValueError: `depth` or the budget is not above 0.
    """
    if depth < 1 or (budget_seconds is not None and budget_seconds <= 0):
        raise ValueError(f"depth={depth}, budget_seconds={budget_seconds}; both must be above 0")
    to_judge = list(hits[:depth])
    unusable: list[FileReport] = []
    judged: dict[int, float] = {}
    started = clock()
    num_done, predicted = 0, None
    yield Reranked(Hits(hits), 0, len(to_judge))
    while num_done < len(to_judge):
        passed = clock() - started
        at_once = 1
        if num_done:
            each = passed / num_done
            left = MOST_AT_ONCE * each if budget_seconds is None else budget_seconds - passed
            at_once = min(MOST_AT_ONCE, int(left / each) if each else MOST_AT_ONCE)
            if at_once < 1:
                break
        some = to_judge[num_done : num_done + at_once]
        try:
            scores = reranker.scores(query, some)
        except Exception as error:  # whatever a model raises, out of memory too
            said = str(error).strip().splitlines()
            reason = said[0] if said else type(error).__name__
            problem = f"{reranker.name} failed ({reason}): the first order stands"
            yield Reranked(Hits(hits), num_done, len(to_judge), predicted, (), problem)
            return
        for number, (hit, score) in enumerate(zip(some, scores, strict=True), num_done):
            if isinstance(score, MediaError):
                unusable.append(FileReport(hit.path, score.outcome, score.reason))
            else:
                judged[number] = score
        num_done += len(some)
        predicted = (clock() - started) / num_done * len(to_judge)
        order = _ordered(list(hits), len(to_judge), judged, reranker.first_weight)
        yield Reranked(order, num_done, len(to_judge), predicted, tuple(unusable))


def file_key(path: Path, start_seconds: float | None, end_seconds: float | None) -> str:
    """A name for what a file holds now, or a stretch of it; another one when the file changes.

    Raises:
        MediaError: it cannot be looked at.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise MediaError("unreadable", "it is not there any more") from error
    except OSError as error:
        raise MediaError("unreadable", error.strerror or str(error)) from error
    when = f"{start_seconds} {end_seconds}"
    return f"{when} {status.st_size} {status.st_mtime_ns} {status.st_ino} {display(str(path))}"


def _ordered(
    hits: list[Hit], num_to_judge: int, judged: dict[int, float], first_weight: float
) -> Hits:
    first = np.array([hit.score for hit in hits[:num_to_judge]])
    spread = float(first.std()) or 1.0
    fused = {
        number: score + first_weight * (hits[number].score - float(first.mean())) / spread
        for number, score in judged.items()
    }
    best = sorted(judged, key=lambda number: (-fused[number], number))
    rest = [number for number in range(len(hits)) if number not in judged]
    return Hits(
        [replace(hits[number], rerank_score=judged[number]) for number in best]
        + [hits[number] for number in rest]
    )
