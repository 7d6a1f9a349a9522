"""Captions that are there already, as files: a table of paths and captions, or a text beside each
picture; knows no collection.
"""

import csv
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from perception_search.captioning import GivenCaption
from perception_search.errors import QueryError
from perception_search.media import display
from perception_search.snapshot import OWN
from perception_search.survey import FileReport

_NEEDED = ("path", "caption")


def read_csv(file: Path) -> Iterator[GivenCaption | FileReport]:
    """A caption a line of a CSV with the columns `path` and `caption`.

    The columns `model`, `licence`, `prompt`, `start_seconds` and `end_seconds` are taken in where
    they are there; without them a caption is its owner's, and of the whole item. A line with times
    that are none is reported.

    Raises:
        QueryError: the file cannot be read, or lacks a column.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            columns = reader.fieldnames or []
            if not set(_NEEDED) <= set(columns):
                raise QueryError(
                    f"{display(file)} has the columns {', '.join(columns)}; path and caption are "
                    "needed"
                )
            for row in reader:
                yield _given({name: (row.get(name) or "").strip() for name in columns}, row["path"])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise QueryError(f"{display(file)} cannot be read: {error}") from error


def _given(row: dict[str, str], path: str | None) -> GivenCaption | FileReport:
    times = []
    for name in ("start_seconds", "end_seconds"):
        text = row.get(name, "")
        try:
            times.append(float(text) if text else None)
        except ValueError:
            return FileReport(Path(path or ""), "bad_times", f"{name} is {text!r}; no number")
    start, end = times
    if (start is None) != (end is None) or (
        start is not None and end is not None and not 0 <= start < end < math.inf
    ):
        reason = f"a caption from {start} to {end} s; it must end after it begins"
        return FileReport(Path(path or ""), "bad_times", reason)
    return GivenCaption(
        path or "",
        row["caption"],
        row.get("model") or OWN,
        row.get("licence") or OWN,
        row.get("prompt") or None,
        start,
        end,
    )


def read_side_files(paths: Iterable[Path]) -> Iterator[GivenCaption | FileReport]:
    """The text beside each of these files that has one: `beach.txt` of `beach.jpg`, as img2dataset
    leaves it.
    """
    for path in paths:
        beside = path.with_suffix(".txt")
        try:
            text = beside.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            yield FileReport(beside, "unreadable", str(error))
        else:
            yield GivenCaption(str(path), text)
