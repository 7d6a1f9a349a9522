"""What an export leaves behind: files that replace no other, and an account of each moment."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from perception_search import durable
from perception_search.errors import ExportError
from perception_search.hits import Hit
from perception_search.media import absolute, display

WRITTEN = "written"

_MAX_STEM_BYTES = 120


class Moment(NamedTuple):
    """A stretch of a video that was found.

    Attributes:
        rank: 1 for the best, counted over all hits.
        source: the video, absolute.
        start_seconds: from the first frame that it shows.
        end_seconds: the first moment after it; later than the start.
        score: of the hit; a reranker's where there was one.
        caption: what it shows in words, where that is known.
        caption_model: what wrote the caption.
        caption_licence: what it may be used for.
    """

    rank: int
    source: Path
    start_seconds: float
    end_seconds: float
    score: float
    caption: str | None = None
    caption_model: str | None = None
    caption_licence: str | None = None


@dataclass(frozen=True)
class Exported:
    """What became of one moment.

    Attributes:
        path: the file that holds it now; None where there is none.
        source: the video.
        start_seconds: what was exported of it, from the first frame that it shows.
        end_seconds: the first moment after it.
        outcome: `written`, or why not: `exists`, `unreadable`, `unsupported`, `not_written`,
            `timed_out`, and the others of an ingest.
        reason: one plain sentence; empty mostly where it was written.
    """

    path: Path | None
    source: Path
    start_seconds: float
    end_seconds: float
    outcome: str
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON; a name that is no text keeps its surrogates."""
        path = None if self.path is None else str(self.path)
        return asdict(self) | {"path": path, "source": str(self.source)}


@dataclass(frozen=True)
class ExportReport:
    """What became of all hits.

    Attributes:
        moments: one a moment, in the order of the hits.
        num_left_out: hits that are no moment of a video, such as pictures.
        note: what else is to be known of the files; empty mostly.
    """

    moments: tuple[Exported, ...]
    num_left_out: int = 0
    note: str = ""

    @property
    def failed(self) -> tuple[Exported, ...]:
        """The moments that were not written."""
        return tuple(m for m in self.moments if m.outcome != WRITTEN)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that were written, each once."""
        return tuple(dict.fromkeys(m.path for m in self.moments if m.path is not None))

    def summary(self) -> str:
        """All of it in a sentence or two."""
        written = len(self.moments) - len(self.failed)
        parts = [f"{_count(written, 'moment')} in {_count(len(self.paths), 'file')}"]
        if self.failed:
            parts.append(f"{len(self.failed)} could not be exported")
        if self.num_left_out:
            are = "is no moment" if self.num_left_out == 1 else "are no moments"
            parts.append(f"{_count(self.num_left_out, 'hit')} left out: {are} of a video")
        return ", ".join(parts) + "." + (f" {self.note}" if self.note else "")

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return asdict(self) | {"moments": [moment.as_dict() for moment in self.moments]}


def moments_of(hits: Iterable[Hit]) -> tuple[list[Moment], int]:
    """The moments among hits, in their order, and how many hits are none."""
    moments, num_left_out = [], 0
    for rank, hit in enumerate(hits, start=1):
        start, end = hit.start_seconds, hit.end_seconds
        if hit.kind != "video" or start is None or end is None:
            num_left_out += 1
            continue
        start = max(float(start), 0.0)
        if not start < end < float("inf"):
            raise ValueError(f"a moment from {start} to {end} s; it must end after it begins")
        score = hit.score if hit.rerank_score is None else hit.rerank_score
        caption = hit.caption, hit.caption_model, hit.caption_licence
        moments.append(Moment(rank, absolute(hit.path), start, float(end), float(score), *caption))
    return moments, num_left_out


def by_video(moments: Sequence[Moment]) -> dict[Path, list[Moment]]:
    """The moments of each video, videos and moments in the order they came."""
    videos: dict[Path, list[Moment]] = {}
    for moment in moments:
        videos.setdefault(moment.source, []).append(moment)
    return videos


def one_line(text: str) -> str:
    """The text without line breaks, and with what no terminal or editor should get escaped."""
    return display(" ".join(text.split()))


def safe_stem(path: Path) -> str:
    """A video's name without its ending, as every file system takes it; never empty."""
    stem = "".join(c if c.isalnum() or c in "._+=@,-" else "_" for c in display(path.stem))
    stem = re.sub(r"_{2,}", "_", stem).strip("._-")
    short = stem.encode()[:_MAX_STEM_BYTES].decode("utf-8", "ignore").strip("._-")
    return short or "video"


def write_new(path: Path, content: bytes, *, overwrite: bool) -> None:
    """Makes a whole file at once.

    Raises:
        ExportError: there is one already, and it may not be replaced; or there is no such folder.
    """
    if not path.parent.is_dir():
        raise ExportError(f"{display(path.parent)} is not a folder; make it first")
    refuse_taken(path, overwrite=overwrite)
    with durable.pending(path.parent) as new:
        new.file.write(content)
        publish(new, path, overwrite=overwrite)


def refuse_taken(path: Path, *, overwrite: bool) -> None:
    """Raises ExportError if something is there that may not be replaced."""
    if path.is_dir():
        raise ExportError(f"{display(path)} is a folder; name a file")
    if not overwrite and os.path.lexists(path):
        raise ExportError(f"{display(path)} is already there; choose another name, or overwrite it")


def publish(new: durable.Pending, path: Path, *, overwrite: bool) -> None:
    """Gives a finished file its name.

    Raises:
        ExportError: another file got that name meanwhile.
    """
    if overwrite:
        new.publish(path)
        return
    new.file.flush()
    os.fsync(new.file.fileno())
    try:
        # a link, as a renaming would replace what is there; the temporary name goes afterwards
        os.link(new.path, path)
    except FileExistsError:
        refuse_taken(path, overwrite=False)
        raise
    except OSError:  # a file system without links
        refuse_taken(path, overwrite=False)
        new.publish(path)
        return
    durable.sync_folder(path.parent)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
