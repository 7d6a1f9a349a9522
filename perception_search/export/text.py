"""Moments as text that other programs read: WebVTT chapters, and lines for moment retrieval."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from perception_search.errors import ExportError, MediaError
from perception_search.export.cutting import read_clocks
from perception_search.export.report import (
    WRITTEN,
    Exported,
    ExportReport,
    Moment,
    by_video,
    moments_of,
    one_line,
    refuse_taken,
    safe_stem,
    write_new,
)
from perception_search.hits import Hit
from perception_search.media import absolute, display

_MAX_STEM_BYTES = 200


def write_vtt(
    hits: Iterable[Hit], target: str | Path, query: str, *, overwrite: bool = False
) -> ExportReport:
    """The moments of each video as WebVTT chapters, in the order of time.

    A cue's times are those that players show. Its text is the query and the score.

    Args:
        hits: what was found; those that are no moment of a video are counted.
        target: a file whose name ends in `.vtt`, for the moments of one video; else a folder, made
            if it is not there, which gets one file a video, named as the video.
        query: what was asked for.
        overwrite: whether files of those names may be replaced.

    Returns:
        What became of each moment. A video that cannot be read gets no file, and no file of a
        folder is written twice: a second video of the same name gets a number.

    Raises:
        ExportError: the moments are of several videos and the target is one file; or that is there
            already, or its folder is not.
        OSError: the folder cannot be made or written to.
    """
    moments, num_left_out = moments_of(hits)
    videos = by_video(moments)
    path = absolute(target)
    is_file = path.suffix.lower() == ".vtt" and not path.is_dir()
    if is_file:
        if len(videos) > 1:
            raise ExportError(
                f"The moments are of {len(videos)} videos, and {display(path)} is one file; name a "
                "folder, which gets a file for each"
            )
        refuse_taken(path, overwrite=overwrite)
    elif videos:
        path.mkdir(parents=True, exist_ok=True)
    clocks = read_clocks(moments)
    title = one_line(query) or "moment"
    done: dict[Moment, Exported] = {}
    taken: set[str] = set()
    for source, found in videos.items():
        known = clocks[source]
        outcome, reason, file = WRITTEN, "", None
        if isinstance(known, MediaError):
            outcome, reason = known.outcome, known.reason
        else:
            file = path if is_file else path / _free_name(source, taken)
            content = _chapters(found, known.zero_seconds, title)
            try:
                write_new(file, content.encode("utf-8"), overwrite=overwrite)
            except ExportError as error:
                if is_file:
                    raise
                outcome, reason, file = "exists", str(error), None
        for moment in found:
            start, end = moment.start_seconds, moment.end_seconds
            done[moment] = Exported(file, source, start, end, outcome, reason)
    return ExportReport(tuple(done[moment] for moment in moments), num_left_out)


def write_jsonl(
    hits: Iterable[Hit], path: str | Path, query: str, *, overwrite: bool = False
) -> ExportReport:
    """One line a video, in the form that QVHighlights takes predictions in.

    A line has `qid` (1 for the video of the best hit, and so on), `query`, `vid` (the video's name
    without its ending), `pred_relevant_windows` (`[[start_seconds, end_seconds, score], …]`, best
    first) and, beyond that form, `path`, and `captions` where there are any: of each window the
    text, its model and licence, or null. It is ASCII: a name that is no text keeps its surrogates
    and can be read back exactly. The videos are not opened.

    Args:
        hits: what was found, best first; those that are no moment of a video are counted.
        path: of the file.
        query: what was asked for.
        overwrite: whether a file of that name may be replaced.

    Raises:
        ExportError: the file is there already, or its folder is not.
    """
    target = absolute(path)
    moments, num_left_out = moments_of(hits)
    lines = []
    for qid, (source, found) in enumerate(by_video(moments).items(), start=1):
        best_first = sorted(found, key=lambda moment: -moment.score)
        line: dict[str, Any] = {
            "qid": qid,
            "query": query,
            "vid": source.stem,
            "pred_relevant_windows": [
                [m.start_seconds, m.end_seconds, m.score] for m in best_first
            ],
            "path": str(source),
        }
        if any(moment.caption for moment in found):
            line["captions"] = [_caption(moment) for moment in best_first]
        lines.append(json.dumps(line) + "\n")
    write_new(target, "".join(lines).encode("ascii"), overwrite=overwrite)
    done = [Exported(target, m.source, m.start_seconds, m.end_seconds, WRITTEN) for m in moments]
    return ExportReport(tuple(done), num_left_out)


def _caption(moment: Moment) -> dict[str, str | None] | None:
    if moment.caption is None:
        return None
    return {
        "text": moment.caption,
        "model": moment.caption_model,
        "licence": moment.caption_licence,
    }


def _free_name(source: Path, taken: set[str]) -> str:
    """The video's own name where it is one, so that players find it; no two alike."""
    stem = source.stem
    if display(stem) != stem or len(stem.encode()) > _MAX_STEM_BYTES:
        stem = safe_stem(source)
    name, number = stem, 1
    while name.casefold() in taken:  # where case may not count either
        number += 1
        name = f"{stem}-{number}"
    taken.add(name.casefold())
    return f"{name}.vtt"


def _chapters(moments: Iterable[Moment], zero_seconds: float, title: str) -> str:
    """A WebVTT file; no other library writes one that escapes what is in it."""
    text = title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    parts = ["WEBVTT\n"]
    in_time = sorted(moments, key=lambda moment: (moment.start_seconds, moment.end_seconds))
    for number, moment in enumerate(in_time, start=1):
        start = max(round((moment.start_seconds + zero_seconds) * 1000), 0)
        end = max(round((moment.end_seconds + zero_seconds) * 1000), start + 1)
        times = f"{_timestamp(start)} --> {_timestamp(end)}"
        parts.append(f"{number}\n{times}\n{text} ({moment.score:.3f})\n")
    return "\n".join(parts)


def _timestamp(milliseconds: int) -> str:
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}.{rest % 1000:03d}"
