"""How well a collection finds moments: the questions asked, the answers scored, chance beside it.

Two ways of asking, because data sets publish the first and people do the second: within the video
that the question is about, and over all videos of the collection. Everything that is predicted,
chance too, goes through the same scoring (`score_moments`), which knows no collection.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from perception_search import metrics
from perception_search.errors import QueryError
from perception_search.evaluate.annotations import Annotations, MomentQuery
from perception_search.media import display

if TYPE_CHECKING:
    from perception_search.collection import Collection

OWN, ALL = "own video", "all videos"
RANDOM, RANDOM_ALL, WHOLE = "random window", "random, all", "whole video"

SECONDS_MEASURES = ("start error", "end error")
"""Measures in seconds, the median over hits; all others are means over queries, of 1."""

HIT_IOU = 0.5
"""A first window that meets a true one this well is a hit."""

_SHOWN_MISSING = 5
_MIN_CHANCE_ANSWERS = 4000
_MAX_CHANCE_RUNS = 200

_DIDEMO_CHANCE = "a random order of DiDeMo's 21 moments"
_RANDOM_CHANCE = (
    "windows that start anywhere in the right video and are as long as one of the question's own "
    "true windows"
)
_RANDOM_ALL_CHANCE = "the same in any of the videos that are asked about"
_WHOLE_CHANCE = "one window, all of the right video"


class Found(NamedTuple):
    """A window that was found; `video` is a name that the annotations use, or any other."""

    video: str
    start_seconds: float
    end_seconds: float
    score: float


Finder = Callable[[MomentQuery], Sequence[Found]]
"""Answers one question with windows, best first."""


class Answer(NamedTuple):
    """What was found first for a question within its video, and its IoU with the truth."""

    query_id: str
    text: str
    video: str
    start_seconds: float | None
    end_seconds: float | None
    iou: float


@dataclass(frozen=True)
class MomentReport:
    """Figures of one evaluation.

    Attributes:
        name: of the annotations.
        layout: `qvhighlights`, `didemo` or `films`.
        model: what embedded the videos; empty where no collection was asked.
        num_queries: questions asked.
        num_videos: videos that they are about.
        num_missing_videos: videos of the annotations that the collection lacks; their questions
            were left out.
        k: windows taken from one answer.
        seconds: that asking took, chance not counted.
        figures: by column (`own video`, `all videos`, `random window`, `random, all`, `whole
            video`) and measure. Shares of 1; the measures of `SECONDS_MEASURES` in seconds. None
            where there is nothing to take it of.
        intervals: 95 % bootstrap intervals, in the same way, of the shares of what was asked;
            questions that hang together (`Annotations.groups`) are drawn together.
        chance: how each of the chance columns was made.
        answers: what was found, question by question.
    """

    name: str
    layout: str
    model: str
    num_queries: int
    num_videos: int
    num_missing_videos: int
    k: int
    seconds: float
    figures: Mapping[str, Mapping[str, float | None]]
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]
    chance: Mapping[str, str]
    answers: tuple[Answer, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON, without the single answers."""
        fields = asdict(self)
        del fields["answers"]
        return fields

    def table(self) -> str:
        """The figures as lines of text, one measure a line: shares in %, errors in seconds."""
        columns = list(self.figures)
        measures = list(dict.fromkeys(name for column in columns for name in self.figures[column]))
        rows = [["", *columns]]
        rows += [[name, *(self._cell(column, name) for column in columns)] for name in measures]
        widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if place == 0 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        left_out = f", {self.num_missing_videos} more videos are missing" * (
            self.num_missing_videos > 0
        )
        return "\n".join(
            [
                f"{self.name}: {self.num_queries} questions about {self.num_videos} videos"
                f"{left_out}; {self.model or 'no model'}, {self.seconds:.1f} s",
                *lines,
                "Shares in %, in brackets what 95 % of redrawn sets of questions give.",
                *(f"{column}: {how}." for column, how in self.chance.items()),
            ]
        )

    def _cell(self, column: str, measure: str) -> str:
        value = self.figures[column].get(measure)
        if value is None:
            return "-"
        if measure in SECONDS_MEASURES:
            return f"{value:.1f} s"
        interval = self.intervals.get(column, {}).get(measure)
        low_high = f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else ""
        return f"{100 * value:.1f}{low_high}"


# Asking a collection


class Coverage(NamedTuple):
    """Which videos of the annotations a collection holds.

    Attributes:
        held: the annotations' name of a video to its content hash in the collection.
        missing: names of the videos that are not there, in the order of the annotations.
    """

    held: Mapping[str, str]
    missing: tuple[str, ...]


def coverage(collection: "Collection", annotations: Annotations) -> Coverage:
    """Finds the annotations' videos among the collection's by file name.

    A name fits a file of the same name, or else one of the same name but for extensions. Copies
    of one content are one video.

    Raises:
        QueryError: a name fits two videos of different content.
    """
    videos = collection.items("kind = 'video'")
    by_name: dict[str, set[str]] = {}
    by_stem: dict[str, set[str]] = {}
    for content_hash, paths in zip(videos["content_hash"], videos["paths"], strict=True):
        for path in paths:
            name = PurePath(path).name
            by_name.setdefault(name, set()).add(content_hash)
            for stem in {name, _stem(name)}:
                by_stem.setdefault(stem, set()).add(content_hash)
    held: dict[str, str] = {}
    for video in annotations.videos:
        shown = display(video)  # as the collection shows names
        fitting = by_name.get(shown) or by_stem.get(shown) or by_stem.get(_stem(shown)) or set()
        if len(fitting) > 1:
            raise QueryError(
                f"{len(fitting)} different videos in {collection.path} are called {shown}: remove "
                "all but one, so that it is clear which is meant."
            )
        if fitting:
            (held[video],) = fitting
    return Coverage(held, tuple(video for video in annotations.videos if video not in held))


def _stem(name: str) -> str:
    """The name without its extension; what follows a last dot and is a number is none."""
    stem, dot, extension = name.rpartition(".")
    is_extension = 0 < len(extension) <= 5 and extension.isalnum() and not extension.isdigit()
    return stem if dot and stem and is_extension else name


def evaluate_moments(
    collection: "Collection",
    annotations: Annotations,
    *,
    k: int = metrics.MAX_PREDICTIONS,
    allow_missing: bool = False,
    everywhere: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> MomentReport:
    """Asks a collection every question and scores what it finds; see `MomentReport.table`.

    Args:
        collection: holds the annotations' videos.
        annotations: from `load_annotations` or of films.
        k: windows taken from one answer, at least 10 for figures like published ones.
        allow_missing: leave out questions about videos that the collection lacks.
        everywhere: ask each question over all videos too.
        on_progress: called with (questions asked, questions in all).

    Raises:
        QueryError: videos are missing, before anything is asked: they are counted and named; or
            none is left.
    """
    covered = coverage(collection, annotations)
    if covered.missing and (not allow_missing or not covered.held):
        named = ", ".join(map(display, covered.missing[:_SHOWN_MISSING]))
        more = len(covered.missing) - _SHOWN_MISSING
        raise QueryError(
            f"{len(covered.missing)} of {len(annotations.videos)} videos of {annotations.name} are "
            f"not in {collection.path}: {named}{f' and {more} more' if more > 0 else ''}. Ingest "
            "them" + (", or leave their questions out." if covered.held else ".")
        )
    video_of = {content_hash: video for video, content_hash in covered.held.items()}
    videos = collection.items("kind = 'video'")
    content_at = {
        path: content_hash
        for content_hash, paths in zip(videos["content_hash"], videos["paths"], strict=True)
        for path in paths
    }

    def ask(query: MomentQuery, where: str) -> list[Found]:
        found = []
        for hit in collection.search(query.text, moments=True, k=k, where=where):
            content_hash = content_at.get(display(hit.path), "")
            is_own = content_hash == covered.held[query.video]  # by whichever of its names
            video = query.video if is_own else video_of.get(content_hash, content_hash)
            start, end = float(hit.start_seconds or 0.0), float(hit.end_seconds or 0.0)
            found.append(Found(video, start, end, hit.score))
        return found

    def within(query: MomentQuery) -> list[Found]:
        return ask(query, f"content_hash = '{covered.held[query.video]}'")

    def over_all(query: MomentQuery) -> list[Found]:
        return ask(query, "kind = 'video'")

    kept = tuple(query for query in annotations.queries if query.video in covered.held)
    return score_moments(
        Annotations(annotations.name, annotations.layout, kept),
        within,
        over_all if everywhere else None,
        k=k,
        model=collection.identity.model,
        num_missing_videos=len(covered.missing),
        on_progress=on_progress,
    )


# Scoring


def score_moments(
    annotations: Annotations,
    within: Finder,
    over_all: Finder | None = None,
    *,
    k: int = metrics.MAX_PREDICTIONS,
    model: str = "",
    num_missing_videos: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> MomentReport:
    """Asks finders every question and scores what they find, with chance beside it.

    Args:
        annotations: the questions, at least one.
        within: answers with windows of the question's own video.
        over_all: answers with windows of any video; None leaves that column out.
        k: windows taken from one answer.
        model: named in the report.
        num_missing_videos: named in the report.
        on_progress: called with (questions asked, questions in all).

    Raises:
        ValueError: there are no questions, or `k` is below 1.
    """
    queries = annotations.queries
    if not queries or k < 1:
        raise ValueError(f"{len(queries)} questions, k={k}; both must be at least 1")
    started = time.perf_counter()
    own: list[dict[str, float]] = []
    everywhere: list[dict[str, float]] = []
    answers: list[Answer] = []
    for number, query in enumerate(queries, 1):
        found = list(within(query))[:k]
        own.append(_measured(query, found))
        start, end = found[0][1:3] if found else (None, None)
        name = (query.query_id, query.text, query.video)
        answers.append(Answer(*name, start, end, own[-1]["mIoU"]))
        if over_all is not None:
            everywhere.append(_measured_everywhere(query, list(over_all(query))[:k]))
        if on_progress is not None:
            on_progress(number, len(queries))
    seconds = time.perf_counter() - started
    asked = {OWN: own} | ({ALL: everywhere} if over_all is not None else {})
    by_chance, chance = _chance(annotations, k, everywhere=over_all is not None)
    return MomentReport(
        name=annotations.name,
        layout=annotations.layout,
        model=model,
        num_queries=len(queries),
        num_videos=len(annotations.videos),
        num_missing_videos=num_missing_videos,
        k=k,
        seconds=seconds,
        figures={column: _means(rows) for column, rows in (asked | by_chance).items()},
        intervals={column: _intervals(rows, annotations.groups) for column, rows in asked.items()},
        chance=chance,
        answers=tuple(answers),
    )


def _measured(query: MomentQuery, found: Sequence[Found]) -> dict[str, float]:
    """One question's measures within its video; errors are NaN where the first is no hit."""
    windows = [(one.start_seconds, one.end_seconds) for one in found]
    iou = metrics.first_window_iou(windows, query.windows)
    precision = metrics.moment_average_precision(
        windows, [one.score for one in found], query.windows
    )
    at = dict(zip(metrics.IOU_THRESHOLDS, precision.tolist(), strict=True))
    measures = {
        "R1@0.5": float(iou >= 0.5),
        "R1@0.7": float(iou >= 0.7),
        "mIoU": iou,
        "mAP": float(precision.mean()),
        "mAP@0.5": at[0.5],
        "mAP@0.75": at[0.75],
    }
    if query.chosen:
        didemo = metrics.didemo_score(metrics.didemo_ranking(windows), query.chosen)
        measures |= {
            "DiDeMo Rank@1": float(didemo.rank <= 1),
            "DiDeMo Rank@5": float(didemo.rank <= 5),
            "DiDeMo mIoU": didemo.iou,
        }
    errors = (float("nan"),) * 2
    if iou >= HIT_IOU:
        true = query.windows[int(metrics.temporal_iou(windows[:1], query.windows).argmax())]
        errors = (abs(windows[0][0] - true[0]), abs(windows[0][1] - true[1]))
    return measures | dict(zip(SECONDS_MEASURES, errors, strict=True))


def _measured_everywhere(query: MomentQuery, found: Sequence[Found]) -> dict[str, float]:
    """One question's measures over all videos: a window counts by the truth of its own video."""
    right = {query.video: query.windows} | dict(query.elsewhere)
    ious = [
        metrics.first_window_iou([one[1:3]], right[one.video]) if one.video in right else 0.0
        for one in found
    ]
    first = ious[0] if ious else 0.0
    return {
        "R1@0.5": float(first >= 0.5),
        "R1@0.7": float(first >= 0.7),
        "mIoU": first,
        "R10@0.5": float(max(ious[:10], default=0.0) >= 0.5),
        "right video first": float(bool(found) and found[0].video in right),
    }


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    """Every measure's mean over the questions; the errors' median over the hits."""
    means: dict[str, float | None] = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        if name in SECONDS_MEASURES:
            hits = values[~np.isnan(values)]
            means[name] = float(np.median(hits)) if len(hits) else None
        else:
            means[name] = float(values.mean())
    return means


def _intervals(
    rows: Sequence[Mapping[str, float]], groups: Sequence[str]
) -> dict[str, tuple[float, float]]:
    return {
        name: metrics.bootstrap_interval([row[name] for row in rows], groups=groups)
        for name in rows[0]
        if name not in SECONDS_MEASURES
    }


# Chance


def whole_video(query: MomentQuery) -> list[Found]:
    """All of the question's video."""
    return [Found(query.video, 0.0, query.duration_seconds, 1.0)]


def random_windows(k: int, seed: int = 0) -> Finder:
    """Answers with `k` windows of the right video at random.

    Each is as long as a random one of the question's true windows and starts anywhere. For DiDeMo
    they are its 21 moments in random order, the chance level of its paper.
    """
    random = np.random.default_rng(seed)

    def find(query: MomentQuery) -> list[Found]:
        if query.chosen:
            order = random.permutation(len(metrics.DIDEMO_MOMENTS)).tolist()
            unit = metrics.DIDEMO_CHUNK_SECONDS
            moments = [metrics.DIDEMO_MOMENTS[number] for number in order]
            windows = [(first * unit, (last + 1) * unit) for first, last in moments]
        else:
            lengths = [end - start for start, end in query.windows]
            windows = []
            for length in random.choice(lengths, size=k).tolist():
                start = random.uniform(0, max(0.0, query.duration_seconds - length))
                windows.append((start, start + length))
        return [Found(query.video, *window, -rank) for rank, window in enumerate(windows)]

    return find


def random_windows_anywhere(annotations: Annotations, k: int, seed: int = 0) -> Finder:
    """Answers with `k` windows as `random_windows` does, each in a random one of the videos."""
    random = np.random.default_rng(seed)
    within = random_windows(1, seed)
    asked = {query.video: query.duration_seconds for query in annotations.queries}
    videos = list(asked)

    def find(query: MomentQuery) -> list[Found]:
        drawn = [videos[number] for number in random.integers(len(videos), size=k)]
        return [
            found
            for video in drawn
            for found in within(replace(query, video=video, duration_seconds=asked[video]))[:1]
        ]

    return find


def _chance(
    annotations: Annotations, k: int, *, everywhere: bool
) -> tuple[dict[str, list[dict[str, float]]], dict[str, str]]:
    """Measures of the kinds of chance, and how they were made."""
    queries = annotations.queries
    num_runs = min(_MAX_CHANCE_RUNS, -(-_MIN_CHANCE_ANSWERS // len(queries)))
    finders = [random_windows(k, seed) for seed in range(num_runs)]
    rows = {RANDOM: [_measured(query, find(query)) for find in finders for query in queries]}
    how = _DIDEMO_CHANCE if annotations.layout == "didemo" else _RANDOM_CHANCE
    said = {RANDOM: f"{how}; mean of {num_runs} runs"}
    if everywhere:
        finders = [random_windows_anywhere(annotations, k, seed) for seed in range(num_runs)]
        rows[RANDOM_ALL] = [
            _measured_everywhere(query, find(query)) for find in finders for query in queries
        ]
        said[RANDOM_ALL] = _RANDOM_ALL_CHANCE
    rows[WHOLE] = [_measured(query, whole_video(query)) for query in queries]
    return rows, said | {WHOLE: _WHOLE_CHANCE}
