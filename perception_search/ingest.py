"""Files become rows: survey, decode, embed, commit; bounded in memory and resumable.

Data flows one way, through generators: what is on disk is compared with what is known, new files
are decoded by worker processes, embedded in batches, and committed. A file is reported only
when the commit that holds it is safe on disk. Knows no index and no query.
"""

import functools
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perception_search import tables
from perception_search.decode import DecodePool, Failed, Known, decoder_version
from perception_search.embed import Assembly, embedded
from perception_search.encoder.protocol import Encoder
from perception_search.frames import Sampling
from perception_search.media import Found, display
from perception_search.segments import Segmentation
from perception_search.snapshot import PathRecord
from perception_search.survey import FileReport, Options, survey
from perception_search.writer import Writer

if TYPE_CHECKING:
    import pandas as pd

RESERVED_COLUMNS = frozenset(
    [*(field.name for field in tables.ITEM_FIELDS), "paths", "name", "folder"]
)


STILL_LEVELS = 2.0
"""Frames that differ by less, on average over their pixels, show the same: noise of a camera and
of compression differs by 1 to 2 levels of 255, a person who moves through a wide view by 3."""


@dataclass
class IngestReport:
    """What became of every file: counts, and each failure.

    Attributes:
        ingested: files embedded and stored now.
        unchanged: files that were stored before, renamed ones too; they were not embedded again.
        duplicate: further files with the content of another.
        skipped: files that are no pictures and no videos, or were taken out by hand.
        removed: files of these folders that are gone, and hidden from now on.
        failed: files that could not be taken in, with outcome and reason.
        kept: files that are gone but were not hidden, since too many vanished at once.
        seconds: from the first file opened to the last commit; 0 where none was opened.
        index: what was done to the index, one sentence; empty for nothing.
    """

    ingested: int = 0
    unchanged: int = 0
    duplicate: int = 0
    skipped: int = 0
    removed: int = 0
    failed: list[FileReport] = field(default_factory=list)
    kept: int = 0
    seconds: float = 0.0
    index: str = ""

    def add(self, file: FileReport) -> None:
        """Count one more file."""
        if file.outcome in ("ingested", "unchanged", "duplicate", "skipped", "removed"):
            setattr(self, file.outcome, getattr(self, file.outcome) + 1)
        else:
            self.failed.append(file)

    def counts(self) -> dict[str, int]:
        """The numbers by name, ready for JSON."""
        names = ("ingested", "unchanged", "duplicate", "skipped", "removed")
        return {name: getattr(self, name) for name in names} | {"failed": len(self.failed)}


def ingest(
    writer: Writer,
    encoder: Encoder,
    found: Iterable[Found],
    roots: Sequence[Path],
    options: Options,
    *,
    sampling: Sampling,
    segmentation: Segmentation,
    metadata: "pd.DataFrame | None" = None,
    apply_exif: bool = True,
    on_commit: Callable[[Sequence[FileReport]], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> IngestReport:
    """Bring the collection up to date with `found`.

    Args:
        writer: the collection's, entered.
        encoder: of the collection's identity (the caller has compared).
        found: what lies under `roots`, from `media.find`.
        roots: absolute paths.
        options: how to run.
        sampling: which frames of a video are taken; the collection's.
        segmentation: which stretches videos are found by; the collection's.
        metadata: the caller's own columns, one row a file, keyed by a column or index `path`.
        apply_exif: turn pictures upright as their camera says; benchmarks do not.
        on_commit: called with the files of each commit, after it is safe on disk.
        on_progress: called with (files done, files in all).

    Raises:
        KeyboardInterrupt: Ctrl-C; what was finished has been committed.
        OSError: the disk is full or failing; what was reported is safe.
    """
    run = _Ingest(writer, encoder, options, sampling, segmentation, on_commit, on_progress)
    run.own_columns = own_columns(metadata)
    run.apply_exif = apply_exif
    return run.run(found, roots)


class _Ingest:
    """One run; its state is what is known of contents and what waits for a commit."""

    def __init__(
        self,
        writer: Writer,
        encoder: Encoder,
        options: Options,
        sampling: Sampling,
        segmentation: Segmentation,
        on_commit: Callable[[Sequence[FileReport]], None] | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self.writer = writer
        self.encoder = encoder
        self.options = options
        self.on_commit = on_commit
        self.on_progress = on_progress
        self.report = IngestReport()
        self.sampling = sampling
        self.segmentation = segmentation
        self.own_columns: Mapping[Path, Mapping[str, Any]] = {}
        self.apply_exif = True
        self.decoder = decoder_version()
        self._claims = threading.Lock()
        self._outcomes: dict[str, tuple[str, str | None]] = {}
        self._retry: set[str] = set()
        names = ("content_hash", "outcome", "reason", "decoder")
        columns = (writer.snapshot.items[name].to_pylist() for name in names)
        for content_hash, outcome, reason, by in zip(*columns, strict=True):
            self._outcomes[content_hash] = outcome, reason
            if outcome != "ingested" and (options.retry_failed or by != self.decoder):
                self._retry.add(content_hash)
        self._own_names = set(writer.snapshot.items.column_names) - RESERVED_COLUMNS
        self._in_flight: dict[str, list[Path]] = {}
        self._pending: list[FileReport] = []
        self._last_commit = time.monotonic()
        self._num_done = 0
        self._num_total = 0

    @functools.cached_property
    def _items_at_start(self) -> dict[str, dict[str, Any]]:
        items = self.writer.snapshot.items.to_pylist()
        return {item["content_hash"]: item for item in items}

    def run(self, found: Iterable[Found], roots: Sequence[Path]) -> IngestReport:
        plan = survey(self.writer.snapshot, found, roots, self.options)
        self.known = self.writer.snapshot.path_records
        self.found = plan.to_read
        self.gone = set(plan.gone)
        self.report.kept = plan.num_kept
        self.copies = {h: set(p) for h, p in self.writer.snapshot.live_paths.items()}
        self._num_total = len(plan.settled) + len(plan.to_read)
        for root in roots:
            if root.is_dir():
                self.writer.add_root(root)
        self._remember_unusable(plan.settled)
        self._acknowledge(plan.settled)
        if self.own_columns:
            for file in plan.settled:
                self._update_own_columns(file)
        started = time.monotonic()
        try:
            if plan.to_read:
                self._read(plan.to_read)
            self._hide(plan.gone)
        except KeyboardInterrupt:
            self._commit()
            raise
        self._commit()
        self.report.seconds = time.monotonic() - started if plan.to_read else 0.0
        self.writer.compact()
        self.writer.collect_garbage()
        return self.report

    def _read(self, to_read: Mapping[Path, Found]) -> None:
        spec = self.encoder.frame_spec
        with DecodePool(
            replace(spec, apply_exif=self.apply_exif, fast_jpeg=self.options.fast_jpeg),
            self.sampling,
            num_workers=min(self.options.num_workers or os.cpu_count() or 1, len(to_read)),
            time_limit_seconds=self.options.time_limit_seconds,
            memory_limit_bytes=self.options.memory_limit_bytes,
            max_pixels=self.options.max_pixels,
            video_backend=self.options.video_backend,
        ) as pool:
            still_levels = STILL_LEVELS if self.sampling.skip_stills else 0.0
            events = pool.decode(to_read, self._claim)
            for result in embedded(events, self.encoder, still_levels):
                match result:
                    case Assembly():
                        self._store(result)
                    case Failed():
                        self._fail(result.path, result.outcome, result.reason, result.content_hash)
                    case Known():
                        self._known(result.path, result.content_hash)
                self._commit_if_due()

    def _claim(self, path: Path, content_hash: str, kind: str) -> bool:
        """Whether the file at `path` is to be decoded; called by the pool's threads."""
        with self._claims:
            if content_hash in self._in_flight:
                return False
            if content_hash in self._outcomes and content_hash not in self._retry:
                return False
            self._retry.discard(content_hash)
            self._in_flight[content_hash] = []
            return True

    def _store(self, assembly: Assembly) -> None:
        item = assembly.item
        assert item is not None
        if assembly.is_bad or not assembly.grid or not sum(map(len, assembly.grid)):
            reason = "the encoder gave no finite embedding for it"
            self._fail(assembly.path, "bad_embedding", reason, item.content_hash)
            return
        rows, grid = assembly.rows(self.segmentation, 1 / self.sampling.frames_per_second)
        record = {
            "content_hash": item.content_hash,
            "kind": item.kind,
            "size_bytes": item.size_bytes,
            "modified_at": datetime.fromtimestamp(item.modified_ns / 1e9, UTC).replace(tzinfo=None),
            "taken_at": _moment(item.taken_at),
            "width": item.width,
            "height": item.height,
            "duration_seconds": item.duration_seconds,
            "camera": item.camera,
            "latitude": item.latitude,
            "longitude": item.longitude,
            "outcome": "ingested",
            "decoder": self.decoder,
            "cuts": item.cuts,
            **self._own_before(item.content_hash),
            **self.own_columns.get(assembly.path, {}),
        }
        self.writer.add_item(record, rows, grid)
        self._settle(item.content_hash, "ingested", None)
        self._add_path(assembly.path, item.content_hash, "ingested", None)
        self._finish(assembly.path, "ingested", None)
        for path in self._waiting_for(item.content_hash):
            self._known(path, item.content_hash)

    def _fail(self, path: Path, outcome: str, reason: str, content_hash: str | None) -> None:
        lasting = outcome != "changed_during_read"
        if content_hash is not None and lasting:
            self.writer.add_item(
                {
                    "content_hash": content_hash,
                    "size_bytes": self.found[path].size_bytes,
                    "outcome": outcome,
                    "reason": reason,
                    "decoder": self.decoder,
                }
            )
            self._settle(content_hash, outcome, reason)
        if lasting:
            self._add_path(path, content_hash, outcome, reason)
        self._finish(path, outcome, reason)
        if content_hash is not None:
            for other in self._waiting_for(content_hash):
                if lasting:
                    self._known(other, content_hash)
                else:
                    self._finish(other, outcome, reason)

    def _known(self, path: Path, content_hash: str) -> None:
        """The content at `path` was seen before: at another path, or in this run."""
        with self._claims:
            if content_hash in self._in_flight:
                self._in_flight[content_hash].append(path)
                return
        if content_hash not in self._outcomes:  # its twin was not read to the end
            self._finish(path, "changed_during_read", "a twin of it changed; ingest it again")
            return
        outcome, reason = self._outcomes[content_hash]
        self._add_path(path, content_hash, outcome, reason)
        if outcome == "ingested":
            others = self.copies.setdefault(content_hash, set()) - {path}
            still_there = [other for other in others if other not in self.gone]
            self.copies[content_hash].add(path)
            if still_there:
                outcome, reason = "duplicate", f"same content as {display(min(still_there))}"
            elif others:
                outcome, reason = "unchanged", f"renamed from {display(min(others))}"
            else:
                outcome, reason = "unchanged", "its content is known"
        self._finish(path, outcome, reason)

    def _settle(self, content_hash: str, outcome: str, reason: str | None) -> None:
        with self._claims:
            self._outcomes[content_hash] = outcome, reason

    def _waiting_for(self, content_hash: str) -> list[Path]:
        with self._claims:
            return self._in_flight.pop(content_hash, [])

    def _add_path(
        self, path: Path, content_hash: str | None, outcome: str, reason: str | None
    ) -> None:
        file = self.found[path]
        record = PathRecord(
            file.size_bytes, file.modified_ns, file.inode, content_hash, outcome, reason
        )
        self.writer.add_path(path, record)
        before = self.known.get(path)
        if before is not None and before.content_hash not in (None, content_hash):
            self.copies.get(before.content_hash or "", set()).discard(path)
        if outcome == "ingested" and content_hash is not None:
            self.copies.setdefault(content_hash, set()).add(path)

    def _finish(self, path: Path, outcome: str, reason: str | None) -> None:
        self._pending.append(FileReport(path, outcome, reason))
        self._advance(1)

    def _remember_unusable(self, settled: Sequence[FileReport]) -> None:
        """Keep what is no regular file, or cannot be looked at, among the failures.

        A file that was taken in and cannot be reached now (a link to a disk that is away) stays.
        """
        for file in settled:
            known = self.known.get(file.path)
            if file.outcome in ("not_a_file", "unreadable") and (
                known is None or known.outcome not in (file.outcome, "ingested")
            ):
                record = PathRecord(None, None, None, None, file.outcome, file.reason)
                self.writer.add_path(file.path, record)

    def _hide(self, gone: Sequence[Path]) -> None:
        for path in gone:
            known = self.known[path]
            reason = "it is not there any more"
            record = PathRecord(None, None, None, known.content_hash, "removed", reason)
            self.writer.add_path(path, record)
            if known.outcome == "ingested":  # nobody misses what never was in
                self._pending.append(FileReport(path, "removed", reason))

    def _own_before(self, content_hash: str) -> dict[str, Any]:
        """The caller's columns of a content that is embedded once more."""
        names = self._own_names
        before = self._items_at_start.get(content_hash, {}) if names else {}
        return {name: before[name] for name in names if before.get(name) is not None}

    def _update_own_columns(self, file: FileReport) -> None:
        """Give a known item the caller's columns where they are new."""
        own = self.own_columns.get(file.path)
        if not own or file.outcome not in ("unchanged", "duplicate"):
            return
        content_hash = self.known[file.path].content_hash
        if content_hash is None or content_hash not in self._items_at_start:
            return
        item = self._items_at_start[content_hash]
        if any(item.get(name) != value for name, value in own.items()):
            self.writer.add_item({**item, **own})

    def _commit_if_due(self) -> None:
        waited = time.monotonic() - self._last_commit
        if (
            self.writer.num_staged_rows >= self.options.commit_rows
            or waited >= self.options.commit_seconds
        ):
            self._commit()

    def _commit(self) -> None:
        if self.writer.has_staged:
            origin = {**self.encoder.provenance, "decoder": self.decoder}
            origin["fast_jpeg"] = str(self.options.fast_jpeg).lower()
            self.writer.commit(origin)
        done, self._pending = self._pending, []
        self._acknowledge(done, advance=False)
        self._last_commit = time.monotonic()

    def _acknowledge(self, files: Sequence[FileReport], *, advance: bool = True) -> None:
        for file in files:
            self.report.add(file)
        if files and self.on_commit is not None:
            self.on_commit(files)
        if advance:
            self._advance(len(files))

    def _advance(self, count: int) -> None:
        self._num_done += count
        if self.on_progress is not None and count:
            self.on_progress(self._num_done, self._num_total)


def own_columns(metadata: "pd.DataFrame | None") -> dict[Path, dict[str, Any]]:
    """The caller's columns by absolute path; missing values are left out.

    Raises:
        ValueError: there is no `path`, or a column has the name of one of ours.
    """
    if metadata is None:
        return {}
    frame = metadata.reset_index() if metadata.index.name == "path" else metadata
    if "path" not in frame.columns:
        raise ValueError(
            f"metadata has columns {', '.join(map(str, frame.columns))}; one must be named 'path'"
        )
    taken = sorted(RESERVED_COLUMNS & (set(frame.columns) - {"path"}))
    if taken:
        raise ValueError(f"metadata has columns {', '.join(taken)}, which are ours; rename them")
    columns: dict[Path, dict[str, Any]] = {}
    for record in frame.to_dict("records"):
        path = Path(record.pop("path")).expanduser().absolute()
        columns[path] = {
            str(name): value.item() if isinstance(value, np.generic) else value
            for name, value in record.items()
            if not (value is None or value != value)  # NaN is not itself
        }
    return columns


def _moment(text: str | None) -> datetime | None:
    """An ISO 8601 time as its own clock showed it, without a zone; None for what is none."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None) if text else None
    except ValueError:
        return None
