"""Moments become a timeline that video editors open: OpenTimelineIO, or a CMX 3600 edit list.

Both are written by OpenTimelineIO and its adapter. A clip's times are counted in frames from the
first of its file, or from that frame's timecode where the camera wrote one.
"""

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from perception_search.errors import ExportError, MediaError, MissingExtra
from perception_search.export.cutting import VideoClocks, read_clocks
from perception_search.export.report import (
    WRITTEN,
    Exported,
    ExportReport,
    Moment,
    moments_of,
    one_line,
    refuse_taken,
    write_new,
)
from perception_search.hits import Hit
from perception_search.media import absolute, display

MAX_EDL_EVENTS = 999

_EDL_RATES = (
    Fraction(24000, 1001),
    Fraction(24),
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(30),
    Fraction(48000, 1001),
    Fraction(48),
    Fraction(50),
    Fraction(60000, 1001),
    Fraction(60),
)
_DEFAULT_RATE = Fraction(25)
_SAME = Fraction(1, 2000)  # containers round: 29.971 is 30000/1001
_REEL = 8


class _Placed(NamedTuple):
    """A moment, with what is known of its file's clock.

    Attributes:
        rate: frames a second of its file.
        timecode_frames: of the file's first frame.
        start_seconds: of the moment, from the file's first frame.
        available_seconds: the file's length; None where it is not told.
    """

    moment: Moment
    rate: Fraction
    timecode_frames: int
    start_seconds: float
    end_seconds: float
    available_seconds: float | None


def write_otio(
    hits: Iterable[Hit], path: str | Path, query: str, *, overwrite: bool = False
) -> ExportReport:
    """One track of clips in the order of the hits, as an `.otio` file.

    Each clip names its file by URL, keeps the file's own frame rate, and carries a marker and
    metadata with the query, rank and score.

    Args:
        hits: what was found, best first; those that are no moment of a video are counted.
        path: of the file.
        query: what was asked for.
        overwrite: whether a file of that name may be replaced.

    Returns:
        What became of each moment; a video that cannot be read is left out of the timeline. No
        file is written if no moment is left.

    Raises:
        MissingExtra: OpenTimelineIO is not installed.
        ExportError: the file is there already, or its folder is not.
    """
    otio = _otio()
    target = absolute(path)
    refuse_taken(target, overwrite=overwrite)
    moments, num_left_out = moments_of(hits)
    placed, failed = _placed(otio, moments)
    if placed:
        timeline = _timeline(otio, placed, query, edl_rate=None)
        write_new(target, timeline.to_json_string().encode(), overwrite=overwrite)
    return _report(moments, failed, target, num_left_out)


def write_edl(
    hits: Iterable[Hit],
    path: str | Path,
    query: str,
    *,
    frames_per_second: float | Fraction | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """One track of cuts in the order of the hits, as a CMX 3600 edit list.

    Timecodes are non-drop, and the list says so: at 29.97 frames a second they count frames, and
    fall behind the wall clock by 3.6 s an hour. An edit list has one rate: times of videos of
    another rate are rounded to it, and the report notes that. Each event names its file, query,
    rank and score in comments.

    Args:
        hits: what was found, best first; those that are no moment of a video are counted.
        path: of the file.
        query: what was asked for.
        frames_per_second: of the list: 23.976, 24, 25, 29.97, 30, 47.952, 48, 50, 59.94 or 60; by
            default that of the best moment's video, or the nearest of these.
        overwrite: whether a file of that name may be replaced.

    Returns:
        What became of each moment; a video that cannot be read is left out of the list. No file is
        written if no moment is left.

    Raises:
        MissingExtra: OpenTimelineIO or its CMX 3600 adapter is not installed.
        ExportError: the file is there already, or its folder is not, or there are more moments
            than such a list holds.
        ValueError: no edit list has such a rate.
    """
    otio = _otio("cmx_3600")
    rate = None if frames_per_second is None else _edl_rate(Fraction(frames_per_second))
    target = absolute(path)
    refuse_taken(target, overwrite=overwrite)
    moments, num_left_out = moments_of(hits)
    if len(moments) > MAX_EDL_EVENTS:
        raise ExportError(
            f"{len(moments)} moments; an edit list holds {MAX_EDL_EVENTS}, so ask for fewer, or "
            "write OpenTimelineIO"
        )
    placed, failed = _placed(otio, moments)
    note = ""
    if placed:
        rate = rate or min(_EDL_RATES, key=lambda known: abs(known - placed[0].rate))
        timeline = _timeline(otio, placed, query, edl_rate=rate)
        text = otio.adapters.write_to_string(timeline, "cmx_3600", rate=_base(rate))
        first, rest = text.split("\n", 1)
        text = f"{first}\nFCM: NON-DROP FRAME\n{rest}"
        write_new(target, text.encode("utf-8"), overwrite=overwrite)
        num_other = len({p.moment.source for p in placed if p.rate != rate})
        note = f"Timecodes are non-drop, at {float(rate):.6g} frames a second."
        if num_other:
            note += f" Videos of another rate, rounded to it: {num_other}."
    return _report(moments, failed, target, num_left_out, note)


def _otio(adapter: str | None = None) -> Any:
    try:
        import opentimelineio
    except ImportError:
        raise MissingExtra(
            "timelines need OpenTimelineIO: pip install 'perception-search[export]'"
        ) from None
    if adapter and adapter not in opentimelineio.adapters.available_adapter_names():
        raise MissingExtra(
            "edit lists need OpenTimelineIO's CMX 3600 adapter: "
            "pip install 'perception-search[export]'"
        )
    return opentimelineio


def _report(
    moments: Sequence[Moment],
    failed: dict[Path, MediaError],
    target: Path,
    num_left_out: int,
    note: str = "",
) -> ExportReport:
    done = []
    for moment in moments:
        source, start, end = moment.source, moment.start_seconds, moment.end_seconds
        error = failed.get(source)
        if error is None:
            done.append(Exported(target, source, start, end, WRITTEN))
        else:
            done.append(Exported(None, source, start, end, error.outcome, error.reason))
    return ExportReport(tuple(done), num_left_out, note)


def _placed(otio: Any, moments: list[Moment]) -> tuple[list[_Placed], dict[Path, MediaError]]:
    placed: list[_Placed] = []
    failed: dict[Path, MediaError] = {}
    clocks = read_clocks(moments)
    for moment in moments:
        known = clocks[moment.source]
        if isinstance(known, MediaError):
            failed[moment.source] = known
        else:
            placed.append(_place(otio, moment, known))
    return placed, failed


def _place(otio: Any, moment: Moment, clocks: VideoClocks) -> _Placed:
    rate = clocks.rate if clocks.rate and 1 <= clocks.rate <= 1000 else _DEFAULT_RATE
    rate = _standard(rate) or rate
    lead, available = clocks.lead_seconds, clocks.duration_seconds
    end_seconds = moment.end_seconds
    if available is not None and available > moment.start_seconds:
        end_seconds = min(end_seconds, available)
    return _Placed(
        moment,
        rate,
        _timecode_frames(otio, clocks.timecode, rate),
        moment.start_seconds + lead,
        end_seconds + lead,
        None if available is None else available + lead,
    )


def _timecode_frames(otio: Any, timecode: str | None, rate: Fraction) -> int:
    """The number of a file's first frame; 0 where the camera wrote none, or nonsense."""
    if timecode is None or not re.fullmatch(r"\d\d:\d\d:\d\d[:;]\d\d", timecode, re.ASCII):
        return 0
    counted = float(rate) if ";" in timecode else _base(rate)
    try:
        return max(int(otio.opentime.from_timecode(timecode, counted).value), 0)
    except ValueError:
        return 0


def _base(rate: Fraction) -> int:
    """What non-drop timecode counts to in a second."""
    return max(round(rate), 1)


def _standard(rate: Fraction) -> Fraction | None:
    """The rate that an edit list can have which this one is, but for rounding."""
    return next((known for known in _EDL_RATES if abs(known - rate) <= known * _SAME), None)


def _edl_rate(rate: Fraction) -> Fraction:
    known = _standard(rate)
    if known is None:
        said = ", ".join(f"{float(known):.5g}" for known in _EDL_RATES)
        raise ValueError(f"{float(rate):g} frames a second; an edit list has one of {said}")
    return known


def _timeline(otio: Any, placed: list[_Placed], query: str, *, edl_rate: Fraction | None) -> Any:
    title = one_line(query) or "moments"
    timeline = otio.schema.Timeline(title)
    track = otio.schema.Track("moments", kind=otio.schema.TrackKind.Video)
    timeline.tracks.append(track)
    reels = _reels([place.moment.source for place in placed])
    for place in placed:
        if edl_rate is None:
            track.append(_otio_clip(otio, place, title))
        else:
            reel = reels[place.moment.source]
            track.append(_edl_clip(otio, place, title, edl_rate, reel))
    return timeline


def _frames(place: _Placed, rate: Fraction) -> tuple[int, int]:
    """The first frame of the moment, counted from the file's first, and how many it has."""
    start = round(place.start_seconds * rate)
    return start, max(round(place.end_seconds * rate) - start, 1)


def _otio_clip(otio: Any, place: _Placed, title: str) -> Any:
    moment, rate = place.moment, float(place.rate)
    time, span = otio.opentime.RationalTime, otio.opentime.TimeRange
    start, count = _frames(place, place.rate)
    source = span(time(place.timecode_frames + start, rate), time(count, rate))
    available = None
    if place.available_seconds is not None:
        length = max(round(place.available_seconds * place.rate), start + count)
        available = span(time(place.timecode_frames, rate), time(length, rate))
    said = {
        "query": title,
        "rank": moment.rank,
        "score": moment.score,
        "start_seconds": moment.start_seconds,
        "end_seconds": moment.end_seconds,
        "path": display(moment.source),
    }
    clip = otio.schema.Clip(
        name=display(moment.source.name),
        media_reference=otio.schema.ExternalReference(moment.source.as_uri(), available),
        source_range=source,
        metadata={"perception_search": said},
    )
    clip.markers.append(
        otio.schema.Marker(
            name=f"{title} ({moment.score:.3f})",
            marked_range=source,
            color=otio.schema.MarkerColor.GREEN,
            metadata={"perception_search": said},
        )
    )
    return clip


def _edl_clip(otio: Any, place: _Placed, title: str, rate: Fraction, reel: str) -> Any:
    moment, base = place.moment, _base(rate)
    time = otio.opentime.RationalTime
    start, count = _frames(place, rate)
    start += round(place.timecode_frames / place.rate * rate)
    comments = [
        f"QUERY: {title}",
        f"RANK: {moment.rank}",
        f"SCORE: {moment.score:.6f}",
    ]
    return otio.schema.Clip(
        name=display(moment.source.name),
        media_reference=otio.schema.ExternalReference(moment.source.as_uri()),
        # counted as if the rate were whole: so the adapter writes non-drop timecode
        source_range=otio.opentime.TimeRange(time(start, base), time(count, base)),
        metadata={"cmx_3600": {"reel": reel, "comments": comments}},
    )


def _reels(sources: list[Path]) -> dict[Path, str]:
    """A name of eight letters and digits for each video, no two alike."""
    reels: dict[Path, str] = {}
    taken = {"AX", "BL"}  # which mean something in an edit list
    for source in dict.fromkeys(sources):
        wanted = re.sub(r"[^A-Z0-9]", "", source.stem.upper())[:_REEL] or "VIDEO"
        reel, number = wanted, 1
        while reel in taken:
            number += 1
            reel = wanted[: _REEL - len(str(number))] + str(number)
        taken.add(reel)
        reels[source] = reel
    return reels
