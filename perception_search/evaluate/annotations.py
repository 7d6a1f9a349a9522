"""Questions about moments with their answers, as data sets publish them; knows no collection.

A file is a JSON array or JSON lines; which data set's layout its entries have is told by their
fields:

    QVHighlights   qid, query, vid, duration, relevant_windows          (Moment-DETR's repository)
    DiDeMo         annotation_id, description, video, num_segments, times  (LocalizingMoments')
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from perception_search.errors import QueryError
from perception_search.media import display
from perception_search.metrics import DIDEMO_CHUNK_SECONDS, DIDEMO_MOMENTS

_MAX_PROBLEMS_SHOWN = 5
_SLACK_SECONDS = 1.0
_MAX_SECONDS = 1e9

Layout = Literal["qvhighlights", "didemo", "films"]
Window = tuple[float, float]


@dataclass(frozen=True)
class MomentQuery:
    """One question: where in this video is what these words say?

    Attributes:
        query_id: as the data set names it.
        text: the words.
        video: the video's name as the data set writes it, with or without extension.
        duration_seconds: of the video.
        windows: the right answers, [start, end) in seconds, at least one. For DiDeMo the moments
            that at least two annotators chose, as Escorcia et al. count them (*Temporal
            Localization of Moments in Video Collections with Natural Language*, 2019); where no
            two agree, all.
        chosen: DiDeMo's annotators' (first chunk, last chunk); else empty.
        elsewhere: right answers in other videos, (video, windows); data sets name none.
    """

    query_id: str
    text: str
    video: str
    duration_seconds: float
    windows: tuple[Window, ...]
    chosen: tuple[tuple[int, int], ...] = ()
    elsewhere: tuple[tuple[str, tuple[Window, ...]], ...] = ()


@dataclass(frozen=True)
class Annotations:
    """The questions of one file.

    Attributes:
        name: where they come from, for people.
        layout: which protocol they are scored by.
        queries: in the order of the file.
    """

    name: str
    layout: Layout
    queries: tuple[MomentQuery, ...]

    @property
    def videos(self) -> tuple[str, ...]:
        """Every video's name once, in the order of the file."""
        return tuple(dict.fromkeys(query.video for query in self.queries))

    @property
    def groups(self) -> tuple[str, ...]:
        """For each question what it shares with others that are right and wrong together: its
        video, or in films, which show clips again, its caption.
        """
        return tuple(
            query.text if self.layout == "films" else query.video for query in self.queries
        )


def load_annotations(path: str | Path) -> Annotations:
    """The questions of a QVHighlights or DiDeMo file; its name does not matter, its fields do.

    Raises:
        QueryError: it cannot be read, is neither, or entries are malformed: with their lines.
    """
    shown = display(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise QueryError(f"{shown} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise QueryError(f"{shown} is not text in UTF-8, byte {error.start} is not.") from error
    entries = list(_entries(text, shown))
    if not entries:
        raise QueryError(f"{shown} holds no annotations.")
    layout, parse = _recognised(entries[0][1], shown)
    queries, problems = [], []
    first_with: dict[str, str] = {}
    for place, entry in entries:
        try:
            query = parse(entry)
            other = first_with.setdefault(query.query_id, place)
            _require(other == place, f"id {query.query_id} again, first on {other}")
            queries.append(query)
        except _Malformed as problem:
            problems.append(f"{place}: {problem}")
    if problems:
        listed = "; ".join(problems[:_MAX_PROBLEMS_SHOWN])
        more = len(problems) - _MAX_PROBLEMS_SHOWN
        rest = f"; and {more} more" if more > 0 else ""
        raise QueryError(
            f"{shown} ({layout}): {len(problems)} of {len(entries)} entries are malformed: "
            f"{listed}{rest}."
        )
    return Annotations(Path(path).name, layout, tuple(queries))


class _Malformed(ValueError):
    """An entry is not as its layout wants it; says what came and what is wanted."""


def _require(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise _Malformed(otherwise)


def _entries(text: str, shown: str) -> Iterator[tuple[str, Any]]:
    """Each entry of a JSON array or of JSON lines, with the words for its place."""
    decoder = json.JSONDecoder()
    at, line, number = _blank(text, 0), 1, 0
    counted = 0  # characters whose lines are in `line`
    in_array = text[at : at + 1] == "["
    at += in_array
    while (at := _blank(text, at)) < len(text) and not (in_array and text[at] == "]"):
        line += text.count("\n", counted, at)
        counted = at
        number += 1
        place = f"line {line}" + (f", entry {number}" if in_array else "")
        try:
            entry, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise QueryError(f"{shown}: {place} is not JSON: {error}.") from error
        yield place, entry
        at = _blank(text, end)
        if in_array and text[at : at + 1] == ",":
            at += 1
        elif in_array and text[at : at + 1] != "]":
            raise QueryError(f"{shown} is not whole: the array does not go on after {place}.")


def _blank(text: str, at: int) -> int:
    """The first character from `at` on that is no white space."""
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _recognised(entry: Any, shown: str) -> tuple[Layout, Callable[[Any], MomentQuery]]:
    fields = set(entry) if isinstance(entry, dict) else set()
    if {"query", "vid"} <= fields:
        if "relevant_windows" not in fields:
            raise QueryError(
                f"{shown} has QVHighlights' questions but not their answers (relevant_windows): "
                "take the validation split."
            )
        return "qvhighlights", _qvhighlights
    if {"description", "video", "times"} <= fields:
        return "didemo", _didemo
    raise QueryError(
        f"{shown}: the first entry has the fields {sorted(map(str, fields)) or 'of no object'}; "
        "QVHighlights' have query, vid and relevant_windows, DiDeMo's description, video and times."
    )


# The layouts


def _qvhighlights(entry: Any) -> MomentQuery:
    fields = _object(entry)
    duration = _number(fields.get("duration"), "duration")
    _require(duration > 0, f"duration is {duration:g}; it must be above 0")
    windows = _list(fields.get("relevant_windows"), "relevant_windows")
    return MomentQuery(
        query_id=_id(fields.get("qid"), "qid"),
        text=_words(fields.get("query"), "query"),
        video=_words(fields.get("vid"), "vid"),
        duration_seconds=duration,
        windows=tuple(_window(window, duration) for window in windows),
    )


def _window(window: Any, duration_seconds: float) -> Window:
    _require(
        isinstance(window, list) and len(window) == 2, f"window {window!r}; [start, end] is wanted"
    )
    start, end = (_number(value, "a window's end") for value in window)
    _require(
        0 <= start < end <= duration_seconds + _SLACK_SECONDS,
        f"window {window!r} is not within the video's {duration_seconds:g} s, or has no length",
    )
    return start, end


def _didemo(entry: Any) -> MomentQuery:
    fields = _object(entry)
    times = _list(fields.get("times"), "times")
    chosen = tuple(
        (mark[0], mark[1])
        for mark in times
        if isinstance(mark, list) and len(mark) == 2 and tuple(mark) in DIDEMO_MOMENTS
    )
    _require(len(chosen) == len(times), f"times {times!r}; pairs of first and last chunk, 0 to 5")
    _require(len(chosen) >= 3, f"{len(chosen)} annotators; at least 3 are wanted")
    last = max(mark[1] for mark in chosen)
    num_chunks = fields.get("num_segments", 6)
    _require(
        isinstance(num_chunks, int) and last < num_chunks <= 6,
        f"num_segments is {num_chunks!r}; above every chunk in times, at most 6",
    )
    counts = Counter(chosen)
    agreed = [moment for moment in counts if counts[moment] >= 2] or list(counts)
    return MomentQuery(
        query_id=_id(fields.get("annotation_id"), "annotation_id"),
        text=_words(fields.get("description"), "description"),
        video=_words(fields.get("video"), "video"),
        duration_seconds=num_chunks * DIDEMO_CHUNK_SECONDS,
        windows=tuple(
            (first * DIDEMO_CHUNK_SECONDS, (last + 1) * DIDEMO_CHUNK_SECONDS)
            for first, last in agreed
        ),
        chosen=chosen,
    )


def _object(entry: Any) -> Mapping[str, Any]:
    _require(isinstance(entry, dict), f"{type(entry).__name__} instead of an object")
    fields: Mapping[str, Any] = entry
    return fields


def _number(value: Any, name: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    _require(is_number and abs(value) < _MAX_SECONDS, f"{name} is {value!r}; a number is wanted")
    return float(value)


def _words(value: Any, name: str) -> str:
    _require(isinstance(value, str) and bool(value.strip()), f"{name} is {value!r}; text is wanted")
    return " ".join(value.split())


def _id(value: Any, name: str) -> str:
    _require(
        isinstance(value, int | str) and not isinstance(value, bool),
        f"{name} is {value!r}; a number or text is wanted",
    )
    return str(value)


def _list(value: Any, name: str) -> list[Any]:
    _require(
        isinstance(value, list) and bool(value), f"{name} is {value!r}; a filled list is wanted"
    )
    found: list[Any] = value
    return found
