"""Captions come in: from a model, or as its owner has them already; knows no model by name.

An item's captions are replaced together: those that are stored last are the ones it has, whatever
wrote them. The captions before are not looked at any more, and leave the disk when files are
merged. What a person wrote is never replaced by a model's words unless that is asked for.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from perception_search.errors import MediaError, QueryError
from perception_search.named_items import NamedItems
from perception_search.snapshot import OWN, Caption, Snapshot
from perception_search.survey import COMMIT_SECONDS, FileReport
from perception_search.where import matching
from perception_search.writer import Writer

CAPTIONED = "captioned"


class Captioner(Protocol):
    """Says in words what a picture or a video shows."""

    @property
    def model(self) -> str:
        """Its name, as it is stored with every caption."""

    @property
    def licence(self) -> str:
        """The licence of what it writes, by name."""

    def caption(self, path: Path, prompt: str) -> str:
        """What the picture or video at `path` shows, in answer to `prompt`.

        Raises:
            MediaError: the file cannot be read, or the model has nothing to say of it.
            OSError: the file is gone.
        """


@dataclass
class CaptionReport:
    """What became of every item.

    Attributes:
        captioned: items with new captions.
        unchanged: items that had these captions before.
        own: items that were left alone because a person has captioned them.
        failed: files that got no caption, with outcome and reason.
    """

    captioned: int = 0
    unchanged: int = 0
    own: int = 0
    failed: list[FileReport] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """The numbers by name, ready for JSON."""
        return {
            "captioned": self.captioned,
            "unchanged": self.unchanged,
            "own": self.own,
            "failed": len(self.failed),
        }


@dataclass(frozen=True)
class GivenCaption:
    """A caption that is there already: the name of a file, and what is stored of it."""

    name: str
    text: str
    model: str = OWN
    licence: str = OWN
    prompt: str | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None


OnCommit = Callable[[Sequence[FileReport]], None]
OnProgress = Callable[[int, int], None]


def caption_items(
    writer: Writer,
    captioner: Captioner,
    prompt: str,
    *,
    where: str | None = None,
    replace_own: bool = False,
    on_commit: OnCommit | None = None,
    on_progress: OnProgress | None = None,
    commit_seconds: float = COMMIT_SECONDS,
) -> CaptionReport:
    """Have a model caption every item that it has not captioned by this prompt before.

    Args:
        writer: the collection's, entered.
        captioner: the model.
        prompt: what it is asked.
        where: a filter over the item columns, in SQL.
        replace_own: caption items anew that a person has captioned.
        on_commit: called with the files of each commit, after it is safe on disk; `captioned`
            ones have the caption as their reason.
        on_progress: called with (items done, items to do).
        commit_seconds: at most about this long between commits.

    Raises:
        KeyboardInterrupt: Ctrl-C; what was finished has been committed.
        QueryError: `where` cannot be used.
    """
    snapshot = writer.snapshot
    report = CaptionReport()
    to_do = []
    known = snapshot.captions_of(snapshot.live_items["content_hash"].to_pylist())
    for content_hash in _chosen(snapshot, where):
        captions = known.get(content_hash, ())
        if any((c.model, c.prompt) == (captioner.model, prompt) for c in captions):
            report.unchanged += 1
        elif not replace_own and any(c.model == OWN for c in captions):
            report.own += 1
        else:
            to_do.append(content_hash)
    run = _Run(writer, report, len(to_do), on_commit, on_progress, commit_seconds)
    try:
        for content_hash in to_do:
            path = _readable(snapshot.live_paths[content_hash])
            try:
                text = captioner.caption(path, prompt).strip()
            except MediaError as error:
                run.fail(FileReport(path, error.outcome, error.reason))
                continue
            except OSError as error:
                run.fail(FileReport(path, "unreadable", error.strerror or str(error)))
                continue
            if not text:
                run.fail(FileReport(path, "no_caption", "the model wrote nothing"))
                continue
            stored = Caption(text, captioner.model, captioner.licence, _now(), prompt)
            run.store(path, content_hash, [stored])
    finally:  # Ctrl-C, or a model that fails: what was finished is kept
        run.commit()
    return run.finished()


def take_in(
    writer: Writer,
    given: Iterable[GivenCaption | FileReport],
    *,
    where: str | None = None,
    on_commit: OnCommit | None = None,
    on_progress: OnProgress | None = None,
) -> CaptionReport:
    """Store captions that are there already; needs no model.

    Args:
        writer: the collection's, entered.
        given: captions; those of one item, however it is named, become its captions together.
            What could not be read is reported.
        where: a filter over the item columns: others are left out.
        on_commit: as for `caption_items`.
        on_progress: called with (items done, items to do).

    Raises:
        QueryError: `where` cannot be used.
    """
    snapshot = writer.snapshot
    report = CaptionReport()
    items = NamedItems(snapshot)
    chosen = set(_chosen(snapshot, where))
    now = _now()
    captions: dict[str, list[Caption]] = {}
    failed = []
    for one in given:
        if isinstance(one, FileReport):
            failed.append(one)
            continue
        try:
            content_hash = items.find(one.name)
        except QueryError as error:
            failed.append(FileReport(Path(one.name), "unknown", str(error)))
            continue
        if not one.text.strip():
            failed.append(FileReport(Path(one.name), "no_caption", "its caption has no words"))
        elif content_hash in chosen:
            some = captions.setdefault(content_hash, [])
            some.append(
                Caption(
                    one.text.strip(),
                    one.model,
                    one.licence,
                    now,
                    one.prompt,
                    one.start_seconds,
                    one.end_seconds,
                )
            )
    known = snapshot.captions_of(list(captions))
    num_total = len(captions) + len(failed)
    run = _Run(writer, report, num_total, on_commit, on_progress, COMMIT_SECONDS)
    for failure in failed:
        run.fail(failure)
    for content_hash, some in captions.items():
        if _without_time(known.get(content_hash, ())) == _without_time(some):
            report.unchanged += 1
            run.advance()
        else:
            run.store(snapshot.live_paths[content_hash][0], content_hash, some)
    run.commit()
    return run.finished()


def _readable(paths: Sequence[Path]) -> Path:
    """The first of an item's paths that is there now, or else the first."""
    return next((path for path in paths if path.exists()), paths[0])


def _chosen(snapshot: Snapshot, where: str | None) -> list[str]:
    """Content hashes of the live items that a filter lets through, in their order."""
    items = snapshot.live_items
    if where is not None:
        items = items.filter(matching(snapshot.shown_items, where))
    hashes: list[str] = items["content_hash"].to_pylist()
    return hashes


def _without_time(captions: Sequence[Caption]) -> list[Caption]:
    return [caption._replace(created_at=datetime.min) for caption in captions]


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


class _Run:
    """One run: what waits for a commit, and who is told."""

    def __init__(
        self,
        writer: Writer,
        report: CaptionReport,
        num_total: int,
        on_commit: OnCommit | None,
        on_progress: OnProgress | None,
        commit_seconds: float,
    ) -> None:
        self._writer = writer
        self._report = report
        self._num_total = num_total
        self._num_done = 0
        self._on_commit = on_commit
        self._on_progress = on_progress
        self._commit_seconds = commit_seconds
        self._pending: list[FileReport] = []
        self._last_commit = time.monotonic()

    def store(self, path: Path, content_hash: str, captions: Sequence[Caption]) -> None:
        """Stage an item's captions; commit where the last one is long ago."""
        self._writer.add_captions(content_hash, captions)
        text = " ".join(caption.text for caption in captions)
        self._pending.append(FileReport(path, CAPTIONED, text))
        if time.monotonic() - self._last_commit >= self._commit_seconds:
            self.commit()
        self.advance()

    def fail(self, file: FileReport) -> None:
        """Remember a file that got no caption."""
        self._pending.append(file)
        self.advance()

    def advance(self) -> None:
        """Tell that one more is done."""
        self._num_done += 1
        if self._on_progress is not None:
            self._on_progress(min(self._num_done, self._num_total), self._num_total)

    def commit(self) -> None:
        """Make everything staged safe, then count and tell it."""
        if self._writer.has_staged:
            self._writer.commit()
        done, self._pending = self._pending, []
        self._report.captioned += sum(file.outcome == CAPTIONED for file in done)
        self._report.failed += [file for file in done if file.outcome != CAPTIONED]
        if done and self._on_commit is not None:
            self._on_commit(done)
        self._last_commit = time.monotonic()

    def finished(self) -> CaptionReport:
        """The report, after files were merged and old ones deleted."""
        self._writer.compact()
        self._writer.collect_garbage()
        return self._report
