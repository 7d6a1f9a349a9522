"""What is on disk compared with what a collection knows; opens no file and changes nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from perception_search.decode import decoder_version
from perception_search.media import Found
from perception_search.snapshot import PathRecord, Snapshot

COMMIT_SECONDS = 30.0
COMMIT_ROWS = 4096

_VANISHED_AT_ONCE = 20


@dataclass(frozen=True)
class FileReport:
    """What became of one file: `ingested`, `unchanged`, `duplicate`, `skipped`, `removed`, or the
    one word that says why it could not be taken in; `reason` is a plain sentence or None.
    """

    path: Path
    outcome: str
    reason: str | None = None


@dataclass(frozen=True)
class Options:
    """How an ingest runs. None of it changes what an embedding is.

    Attributes:
        checksum: read every file, even where size, time and inode are as before.
        retry_failed: try files again that failed before.
        allow_removals: hide vanished files even if more than half of 20 or more are gone.
        num_workers: decoding processes; None for one a core.
        time_limit_seconds: without news from a file after which its decoding is stopped.
        memory_limit_bytes: of one decoding process.
        max_pixels: of one picture.
        fast_jpeg: decode large JPEGs at a fraction of their size (never below twice the need).
        video_backend: `pyav` or `torchcodec`.
        commit_seconds: at most this long between commits.
        commit_rows: at most about this many rows between commits.
    """

    checksum: bool = False
    retry_failed: bool = False
    allow_removals: bool = False
    num_workers: int | None = None
    time_limit_seconds: float = 60.0
    memory_limit_bytes: int | None = None
    max_pixels: int | None = None
    fast_jpeg: bool = True
    video_backend: str = "pyav"
    commit_seconds: float = COMMIT_SECONDS
    commit_rows: int = COMMIT_ROWS


@dataclass
class Survey:
    """What is on disk, compared with what is known.

    Attributes:
        to_read: files to open, with what was seen of them.
        settled: files whose outcome is known without opening them.
        gone: known paths that are not there any more.
        num_kept: known paths that are not there, but are not to be hidden.
    """

    to_read: dict[Path, Found]
    settled: list[FileReport]
    gone: list[Path]
    num_kept: int


def survey(
    snapshot: Snapshot, found: Iterable[Found], roots: Sequence[Path], options: Options
) -> Survey:
    """Compare what is on disk with what is known; opens no file."""
    known = snapshot.path_records
    decoder = decoder_version()
    failed_by_other_decoder = {
        content_hash
        for content_hash, outcome, by in zip(
            *(snapshot.items[name].to_pylist() for name in ("content_hash", "outcome", "decoder")),
            strict=True,
        )
        if outcome != "ingested" and by != decoder
    }
    to_read: dict[Path, Found] = {}
    settled: list[FileReport] = []
    seen: set[Path] = set()
    not_walked: list[Path] = []
    for file in found:
        if file.path in seen:  # one root inside another
            continue
        seen.add(file.path)
        if file.outcome is not None:
            settled.append(FileReport(file.path, file.outcome, file.reason))
            not_walked.append(file.path)
            continue
        record = known.get(file.path)
        same = record is not None and not options.checksum and _same_file(record, file)
        if record is None or not same:
            to_read[file.path] = file
        elif record.outcome == "ingested":
            settled.append(FileReport(file.path, "unchanged"))
        elif record.outcome == "skipped":
            settled.append(FileReport(file.path, "skipped", record.reason))
        elif record.outcome == "removed":
            if file.path in roots:
                to_read[file.path] = file
            else:
                reason = "taken out by hand; ingest the file by its own name to take it back in"
                settled.append(FileReport(file.path, "skipped", reason))
        elif options.retry_failed or record.content_hash in failed_by_other_decoder:
            to_read[file.path] = file
        else:
            settled.append(FileReport(file.path, record.outcome, record.reason))
    present = [path for path, record in known.items() if record.outcome != "removed"]
    below = [path for path in present if any(path.is_relative_to(root) for root in roots)]
    gone = [
        path
        for path in below
        if path not in seen and not any(path.is_relative_to(folder) for folder in not_walked)
    ]
    too_many = len(gone) >= _VANISHED_AT_ONCE and 2 * len(gone) > len(below)
    if too_many and not options.allow_removals:
        return Survey(to_read, settled, [], len(gone))
    return Survey(to_read, settled, gone, 0)


def _same_file(record: PathRecord, file: Found) -> bool:
    return (record.size_bytes, record.modified_ns, record.inode) == (
        file.size_bytes,
        file.modified_ns,
        file.inode,
    )
