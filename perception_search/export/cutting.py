"""Moments of videos become files in a folder: names, outcomes, and the process that cuts.

What is in a video is read in a worker process; here it is only told what to do.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Self

from perception_search import decode_messages, durable
from perception_search.decode_process import (
    Message,
    WorkerDied,
    WorkerOptions,
    WorkerProcess,
    start_worker,
)
from perception_search.errors import ExportError, MediaError
from perception_search.export.report import (
    WRITTEN,
    Exported,
    ExportReport,
    Moment,
    moments_of,
    publish,
    refuse_taken,
    safe_stem,
)
from perception_search.hits import Hit, clock
from perception_search.media import absolute

TIME_LIMIT_SECONDS = 300.0
MEMORY_LIMIT_BYTES = 3 << 30

_PROGRAM = "perception_search.export.worker"
_EXTENSIONS = frozenset(("mp4", "mov", "mkv", "avi", "wmv", "flv"))


class VideoClocks(NamedTuple):
    """What an editor needs to know to find a moment in a file.

    Attributes:
        rate: frames a second; None where it is not told.
        zero_seconds: the first frame's time by the clock that players show.
        lead_seconds: how long before that its pictures begin, by what the container says.
        duration_seconds: from the first frame on, as its container says; None where it does not.
        timecode: of the first frame, where the camera wrote one.
    """

    rate: Fraction | None
    zero_seconds: float
    lead_seconds: float
    duration_seconds: float | None
    timecode: str | None


class Cutter:
    """Cuts one stretch after the other with one worker; a context manager for one thread."""

    def __init__(
        self,
        *,
        time_limit_seconds: float = TIME_LIMIT_SECONDS,
        memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
        max_pixels: int | None = None,
        write_folder: Path | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            time_limit_seconds: for one stretch.
            memory_limit_bytes: that the worker may take.
            max_pixels: of one frame; what says it is larger is refused.
            write_folder: where the files are that `cut` writes; None where only clocks are asked.
        """
        limits = WorkerOptions.of(time_limit_seconds, memory_limit_bytes, max_pixels)
        self._options = replace(limits, program=_PROGRAM, write_folder=write_folder)
        self._process: WorkerProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def clocks(self, path: Path) -> VideoClocks:
        """What a video's container says of its times.

        Raises:
            MediaError: the file cannot be used; it says why.
        """
        said = self._ask({"do": "clocks", "path": str(path)}).header
        try:
            rate = said["rate"]
            timecode = said["timecode"]
            duration = said["duration_seconds"]
            return VideoClocks(
                Fraction(int(rate[0]), int(rate[1])) if rate else None,
                float(said["zero_seconds"]),
                float(said["lead_seconds"]),
                None if duration is None else float(duration),
                None if timecode is None else str(timecode),
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError, IndexError):
            raise _nonsense() from None

    def cut(
        self, path: Path, out: Path, start_seconds: float, end_seconds: float, *, exact: bool
    ) -> tuple[float, float, str, str]:
        """Writes a stretch of a video into a file that is there and empty, in the `write_folder`.

        Returns:
            Where it begins and ends in the video, its extension, and a note, empty mostly.

        Raises:
            MediaError: it cannot be cut; it says why.
        """
        said = self._ask(
            {
                "do": "cut",
                "path": str(path),
                "out": str(out),
                "start_seconds": start_seconds,
                "end_seconds": end_seconds,
                "exact": exact,
            }
        ).header
        try:
            extension, note = str(said["extension"]), str(said["note"])
            if extension not in _EXTENSIONS:
                raise ValueError
            return float(said["start_seconds"]), float(said["end_seconds"]), extension, note
        except (KeyError, TypeError, ValueError):
            raise _nonsense() from None

    def _ask(self, request: dict[str, Any]) -> Message:
        try:
            if self._process is None or not self._process.is_alive():
                self._drop()
                self._process = start_worker(self._options)
            self._process.ask(decode_messages.packed(request))
            message = self._process.answer(self._options.time_limit_seconds)
        except WorkerDied as death:
            self._drop()
            raise MediaError(death.outcome, death.reason) from None
        except BaseException:  # Ctrl-C: nobody will want the answer that is to come
            self._drop()
            raise
        if message.say == "failed":
            outcome = str(message.header.get("outcome"))
            raise MediaError(outcome, str(message.header.get("reason")))
        return message

    def _drop(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None


def cut(
    hits: Iterable[Hit],
    folder: str | Path,
    *,
    exact: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    time_limit_seconds: float = TIME_LIMIT_SECONDS,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
    max_pixels: int | None = None,
) -> ExportReport:
    """Makes a file of each moment, named by rank, video and time: `001_holiday_00-01-12.4.mp4`.

    A copy keeps the video's own bytes and is quick; it begins with the key frame before the moment,
    so maybe seconds early, and the report says where. With `exact` each is encoded anew as H.264
    and AAC and begins and ends to the frame. All sound is kept, subtitles and data are not.

    Args:
        hits: what was found, best first; those that are no moment of a video are counted.
        folder: made if it is not there.
        exact: whether to encode anew.
        overwrite: whether a file of the same name may be replaced.
        on_progress: called with the moments done and all, after each.
        time_limit_seconds: for one moment.
        memory_limit_bytes: that the process that cuts may take.
        max_pixels: of one frame; what says it is larger is refused.

    Returns:
        What became of each moment; `start_seconds` and `end_seconds` are those of the file. One
        that cannot be cut is an outcome and does not end the others.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    moments, num_left_out = moments_of(hits)
    folder = absolute(folder)
    if moments:
        folder.mkdir(parents=True, exist_ok=True)
    width = max(3, len(str(max((m.rank for m in moments), default=0))))
    done = []
    with Cutter(
        time_limit_seconds=time_limit_seconds,
        memory_limit_bytes=memory_limit_bytes,
        max_pixels=max_pixels,
        write_folder=folder,
    ) as cutter:
        for moment in moments:
            done.append(_cut_one(cutter, moment, folder, width, exact=exact, overwrite=overwrite))
            if on_progress is not None:
                on_progress(len(done), len(moments))
    return ExportReport(tuple(done), num_left_out)


def read_clocks(
    moments: Iterable[Moment], *, time_limit_seconds: float = TIME_LIMIT_SECONDS
) -> dict[Path, VideoClocks | MediaError]:
    """What the videos of these moments say of their times, or why they do not."""
    found: dict[Path, VideoClocks | MediaError] = {}
    with Cutter(time_limit_seconds=time_limit_seconds) as cutter:
        for moment in moments:
            if moment.source not in found:
                try:
                    found[moment.source] = cutter.clocks(moment.source)
                except MediaError as error:
                    found[moment.source] = error
    return found


def _cut_one(
    cutter: Cutter, moment: Moment, folder: Path, width: int, *, exact: bool, overwrite: bool
) -> Exported:
    time = clock(moment.start_seconds).replace(":", "-")
    stem = f"{moment.rank:0{width}d}_{safe_stem(moment.source)}_{time}"
    source, start, end = moment.source, moment.start_seconds, moment.end_seconds
    try:
        if exact:  # the name is known before the work is done
            refuse_taken(folder / f"{stem}.mp4", overwrite=overwrite)
        with durable.pending(folder) as new:
            start, end, extension, note = cutter.cut(source, new.path, start, end, exact=exact)
            path = folder / f"{stem}.{extension}"
            refuse_taken(path, overwrite=overwrite)
            publish(new, path, overwrite=overwrite)
            return Exported(path, source, start, end, WRITTEN, note)
    except ExportError as error:
        return Exported(None, source, start, end, "exists", str(error))
    except MediaError as error:
        return Exported(None, source, start, end, error.outcome, error.reason)


def _nonsense() -> MediaError:
    return MediaError("crashed", "its cutter lost its way")
