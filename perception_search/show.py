"""What the command line prints: results on stdout, everything else on stderr."""

import contextlib
import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_search.media import display

if TYPE_CHECKING:
    from perception_search.collection import Collection
    from perception_search.hits import Hit
    from perception_search.survey import FileReport, Survey

OnProgress = Callable[[int, int], None]

_LOG_SECONDS = 10.0
_CAPTION_WIDTH = 100


def say(text: str) -> None:
    """A sentence for people, on stderr."""
    print(text, file=sys.stderr)


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Takes the place of `warnings.showwarning`."""
    say(f"Note: {message}")


def print_line(line: str) -> None:
    """A line of a result; what cannot be shown is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def print_json(value: object) -> None:
    """A result as one line of JSON, in ASCII: a file name that is no text keeps its surrogates
    and can be read back exactly.
    """
    sys.stdout.write(json.dumps(value, default=str) + "\n")


def say_failures(failed: "Sequence[FileReport]") -> None:
    """Every file that could not be used, with its reason."""
    for file in failed:
        say(f"{file.outcome}: {display(file.path)}: {file.reason}")


def print_counts(counts: Mapping[str, int], unit: str, *, as_json: bool) -> None:
    """How a run ended, as its result: how many of each; `no` of the unit where there were none."""
    if as_json:
        print_json(counts)
        return
    some = [f"{count} {name}" for name, count in counts.items() if count]
    print_line(", ".join(some) or f"no {unit}")


def print_file(path: Path) -> None:
    """A file's name as a line of a result: its exact bytes, whatever they are."""
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode(path) + b"\n")


def print_hits(
    hits: "Sequence[Hit]", *, as_json: bool, files_only: bool, query: str | None = None
) -> None:
    """Hits, best first: score, path and moment; `query` is told too where there are several."""
    from perception_search.hits import clock

    if query is not None and not as_json and not files_only:
        print_line(f"# {display(query)}")
    if not hits and not as_json:
        say("Nothing found.")
    for rank, hit in enumerate(hits, start=1):
        if as_json:
            extra = {} if query is None else {"query": query, "rank": rank}
            print_json(extra | hit.as_dict())
        elif files_only:
            print_file(hit.path)
        else:
            moment = ""
            if hit.start_seconds is not None and hit.end_seconds is not None:
                moment = f"  {clock(hit.start_seconds)} – {clock(hit.end_seconds)}"
            words = f"  {_shortened(hit.caption)}" if hit.caption else ""
            print_line(f"{hit.score:.3f}  {display(hit.path)}{moment}{words}")
    sys.stdout.flush()


def _shortened(caption: str) -> str:
    """A caption on one line, so much of it as people read at a glance."""
    return display(textwrap.shorten(caption, _CAPTION_WIDTH, placeholder=" …"))


def write_page(
    path: Path,
    collection: "Collection",
    results: "Sequence[tuple[str, Sequence[Hit]]]",
    *,
    strips: bool = False,
    right: Callable[[str, Path], bool] | None = None,
    title: str | None = None,
) -> None:
    """Queries and hits as an HTML file with pictures; see `page.render` for the options.

    `title` is its heading; by default the collection's name and the number of queries.
    """
    from perception_search.decode import MediaReader
    from perception_search.page import render

    with MediaReader() as reader:
        text = render(
            results,
            title=title
            or f"{display(collection.path.name)}: {len(results)} "
            + ("query" if len(results) == 1 else "queries"),
            model=collection.identity.model,
            notice=collection.notice,
            thumbnail=reader.thumbnail,
            strips=strips,
            right=right,
        )
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
    say(f"Wrote {display(path)}.")


def print_survey(plan: "Survey", *, as_json: bool) -> None:
    """What an ingest would do, a line a file; unchanged files only in JSON."""
    lines: list[tuple[Path, str, str | None]] = []
    lines += [(path, "would_read", None) for path in plan.to_read]
    lines += [(path, "would_hide", None) for path in plan.gone]
    lines += [(file.path, file.outcome, file.reason) for file in plan.settled]
    for path, outcome, reason in lines:
        if as_json:
            print_json({"path": str(path), "outcome": outcome, "reason": reason})
        elif outcome != "unchanged":
            print_line(f"{outcome}  {display(path)}")
    unchanged = sum(file.outcome == "unchanged" for file in plan.settled)
    say(f"{len(plan.to_read)} to read, {len(plan.gone)} to hide, {unchanged} unchanged.")


@contextlib.contextmanager
def progress(unit: str = "files") -> Iterator[OnProgress]:
    """A callback (done, all) that shows how many, the rate and the remaining time on stderr."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _logged_progress(unit)
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit + ", {task.fields[rate]} " + unit + "/s,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    shared = sys.stdout.isatty()  # else results go to a file or a pipe, and must get there
    with Progress(*columns, console=console, transient=True, redirect_stdout=shared) as bar:
        task = bar.add_task(unit, total=None, rate="–")

        def show(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            rate = "–" if speed is None else f"{speed:.1f}"
            bar.update(task, completed=done, total=total, rate=rate)

        yield show


@contextlib.contextmanager
def steps() -> Iterator[Callable[[str, int, int], None]]:
    """A callback (unit, done, all) that shows the progress of one step after another."""
    with contextlib.ExitStack() as bar:
        shown: dict[str, OnProgress] = {}

        def show(unit: str, done: int, total: int) -> None:
            if unit not in shown:
                bar.close()  # one bar at a time
                shown[unit] = bar.enter_context(progress(unit))
            shown[unit](done, total)

        yield show


def _logged_progress(unit: str) -> OnProgress:
    """The same for a log: a line every ten seconds."""
    started = last = time.monotonic()
    first_done: int | None = None

    def show(done: int, total: int) -> None:
        nonlocal last, first_done
        now = time.monotonic()
        if first_done is None:
            first_done = done
        if now - last < _LOG_SECONDS:
            return
        last = now
        rate = (done - first_done) / (now - started)
        left = f", {(total - done) / rate:.0f} s left" if rate else ""
        say(f"{done} of {total} {unit}, {rate:.1f} {unit}/s{left}")

    return show


def shares(recall: Mapping[str, float]) -> str:
    """`97.2% by picture, 96.2% by text`: what an index finds of what is best."""
    return ", ".join(f"{share:.1%} by {kind}" for kind, share in recall.items())


def readable_bytes(count: float) -> str:
    """`1536000` as `1.5 MB`."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("KB", "MB", "GB"):
        count /= 1000
        if count < 1000 or unit == "GB":
            break
    return f"{count:.1f} {unit}"
