"""One stretch of a video becomes a file of its own, with PyAV; runs in a worker process.

Two ways: the packets as they are, from the key frame before the stretch on, or decoded and encoded
anew, to the frame. Times are seconds from the first frame that the video shows, everywhere.
"""

import contextlib
import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import av

from perception_search.decode_video import SEEKS_SECONDS
from perception_search.errors import MediaError
from perception_search.export.copying import BEYOND_SECONDS, Copier, decoding_seconds, extension_for
from perception_search.export.encoding import Encoder
from perception_search.video_reader import VideoReader, stamp_seconds
from perception_search.video_sampling import EPSILON_SECONDS

_EARLY_SECONDS = {"mpeg": 1.0, "mpegts": 1.0}  # after a seek FFmpeg guesses their first times
_REORDERED = 4  # frames that AVI stores before those that are shown before them
_SAY_EXACT = "cut it exactly instead, which encodes it anew"


_Timed = tuple[Any, Any, float]  # stream, frame, seconds


@dataclass(frozen=True)
class Piece:
    """What was cut.

    Attributes:
        start_seconds: when the source shows its first frame.
        end_seconds: the first moment after it.
        extension: which its name is to have.
        note: what is to be known of it; empty mostly.
    """

    start_seconds: float
    end_seconds: float
    extension: str
    note: str = ""


@dataclass(frozen=True)
class Clocks:
    """What an editor needs to know to find a moment in a file.

    Attributes:
        rate: (numerator, denominator) of its frames a second; None where it is not told.
        zero_seconds: the first frame's time by the clock that players show.
        lead_seconds: how long before that its pictures begin, by what the container says; more
            than 0 where the first of them cannot be decoded.
        duration_seconds: from the first frame on, as its container says; None where it does not.
        timecode: of the first frame, where the camera wrote one.
    """

    rate: tuple[int, int] | None
    zero_seconds: float
    lead_seconds: float
    duration_seconds: float | None
    timecode: str | None


def clocks(file: IO[bytes], format_name: str, *, max_pixels: int) -> Clocks:
    """Reads what `Clocks` holds.

    Raises:
        MediaError: as `decode_video`.
        Exception: whatever FFmpeg raises at damaged bytes.
    """
    with SpanReader(file, format_name, max_pixels) as reader:
        return reader.clocks()


def cut(
    file: IO[bytes],
    format_name: str,
    out: IO[bytes],
    start_seconds: float,
    end_seconds: float,
    *,
    exact: bool,
    max_pixels: int,
    num_threads: int,
) -> Piece:
    """Writes a stretch of a video.

    Args:
        file: open for reading, seekable.
        format_name: as `media.identify` calls it; no other demuxer is tried.
        out: open for writing, seekable.
        start_seconds: of the stretch.
        end_seconds: the first moment after it; past the end of the video, its end.
        exact: whether it is encoded anew, to begin and end there; else it begins with the key
            frame before, and what is in the file stays as it is.
        max_pixels: of one frame; what says it is larger is refused.
        num_threads: for FFmpeg's decoder and encoder.

    Raises:
        MediaError: as `decode_video`; `unsupported` also if its packets fit into no file.
        Exception: whatever FFmpeg raises at damaged bytes.
    """

    def opened(seek_seconds: float = 0.0) -> SpanReader:
        reader = SpanReader(file, format_name, max_pixels)
        seek_seconds -= _EARLY_SECONDS.get(format_name, 0.0)
        if seek_seconds > 0:
            reader.seek(zero + seek_seconds)
        return reader

    with opened() as reader:
        zero = reader.zero_seconds()
        extension = reader.extension()
    first, after = zero + start_seconds, zero + end_seconds
    for back_seconds in SEEKS_SECONDS:
        seek_seconds = start_seconds - back_seconds
        is_first_enough = seek_seconds <= 0
        piece = None
        out.seek(0)
        out.truncate()
        if exact:
            with opened(seek_seconds) as reader:
                piece = reader.encode(
                    out, first, after, num_threads, is_first_enough=is_first_enough
                )
        else:
            with opened(seek_seconds) as reader:
                key = reader.key_before(first, is_first_enough=is_first_enough)
            if key is not None:
                # a QuickTime file can hold frames that are not shown, as its source may
                shown = max(key, zero) if extension in ("mp4", "mov") else key
                with opened(seek_seconds) as reader:
                    piece = reader.copy(out, extension, key, shown, after)
        if piece is not None and piece.end_seconds > first:
            return Piece(
                piece.start_seconds - zero, piece.end_seconds - zero, piece.extension, piece.note
            )
        if is_first_enough:
            break
    raise MediaError("unreadable", f"it shows nothing from {start_seconds:.1f} s on")


class SpanReader(VideoReader):
    """A container of which a stretch is wanted; its times here are those of the container."""

    def zero_seconds(self) -> float:
        """The time of the first frame that is shown."""
        self._set_threads(1)
        for frame in self._frames():
            if frame is not None:
                seconds = stamp_seconds(frame, self._stream.time_base)
                return self._start_seconds() if seconds is None else seconds
        raise MediaError("unreadable", "no frame of the video can be decoded")

    def _start_seconds(self) -> float:
        return float((self._stream.start_time or 0) * self._stream.time_base)

    def clocks(self) -> Clocks:
        """What an editor needs."""
        stream, container = self._stream, self._container
        rate = stream.average_rate or stream.guessed_rate
        timecodes = [
            said.get("timecode")  # QuickTime keeps it in a track of its own
            for said in (
                container.metadata,
                stream.metadata,
                *(s.metadata for s in container.streams),
            )
        ]
        begin_seconds = 0.0  # QuickTime's clock; others begin with what they hold first
        if container.start_time is not None and "mov" not in container.format.name:
            begin_seconds = container.start_time / av.time_base
        zero_seconds = self.zero_seconds()
        end_seconds = None
        if stream.duration:
            end_seconds = self._start_seconds() + float(stream.duration * stream.time_base)
        elif container.duration:
            end_seconds = (container.start_time or 0) / av.time_base
            end_seconds += container.duration / av.time_base
        return Clocks(
            rate=(rate.numerator, rate.denominator) if rate else None,
            zero_seconds=zero_seconds - begin_seconds,
            lead_seconds=max(zero_seconds - self._start_seconds(), 0.0),
            duration_seconds=end_seconds and end_seconds - zero_seconds,
            timecode=next(filter(None, timecodes), None),
        )

    def seek(self, seconds: float) -> None:
        """Goes to a key frame before a moment, as far as the container knows of one."""
        stream = self._stream
        with contextlib.suppress(av.error.FFmpegError):  # then it is read from its start
            self._container.seek(int(seconds / stream.time_base), stream=stream)

    def key_before(self, seconds: float, *, is_first_enough: bool) -> float | None:
        """The time of the last key frame at or before a moment; None if none comes.

        Args:
            seconds: the moment.
            is_first_enough: whether the first key frame will do if none is before.
        """
        found = None
        for packet in self._packets([self._stream]):
            shown = stamp_seconds(packet, self._stream.time_base)
            decoded = decoding_seconds(packet, self._stream)
            if shown is None or decoded is None:
                continue
            if packet.is_keyframe:
                if shown <= seconds + EPSILON_SECONDS:
                    found = shown
                elif found is None and is_first_enough:
                    return shown
            if decoded > seconds + EPSILON_SECONDS and (found is not None or not is_first_enough):
                break
        return found

    def extension(self) -> str:
        """What a copy's name is to end in; after `zero_seconds`."""
        return extension_for(self._container.format.name, self._stream, self._sounds())

    def copy(
        self,
        out: IO[bytes],
        extension: str,
        key_seconds: float,
        shown_seconds: float,
        after_seconds: float,
    ) -> Piece | None:
        """The packets from a key frame on; None if that is not found again.

        Args:
            out: open for writing, seekable, empty.
            extension: of the same reader or another.
            key_seconds: from `key_before`, after the same seek.
            shown_seconds: the time of the first frame to be shown.
            after_seconds: the first moment that is not wanted.
        """
        sounds = self._sounds()
        try:
            copier = Copier(
                out,
                extension,
                self._stream,
                sounds,
                key_seconds,
                shown_seconds,
                after_seconds,
            )
            for packet in self._packets([self._stream, *sounds]):
                copier.add(packet)
                if copier.is_full:
                    break
            end_seconds = copier.finish()
        except MemoryError:
            raise
        except (av.error.FFmpegError, ValueError) as error:
            # it is what is written that is refused here: reading ends quietly where it must
            said = getattr(error, "strerror", None) or error
            raise MediaError(
                "unsupported", f"its packets cannot be copied ({said}); {_SAY_EXACT}"
            ) from None
        return None if end_seconds is None else Piece(shown_seconds, end_seconds, extension)

    def encode(
        self,
        out: IO[bytes],
        first_seconds: float,
        after_seconds: float,
        num_threads: int,
        *,
        is_first_enough: bool,
    ) -> Piece | None:
        """Frames and sound from one moment to another, encoded; None if they begin later.

        Args:
            out: open for writing, seekable, empty.
            first_seconds: the moment.
            after_seconds: the other.
            num_threads: for FFmpeg.
            is_first_enough: whether the first frame will do if none is before.
        """
        sounds = self._sounds()
        encoder = Encoder(out, self._stream, sounds, first_seconds, after_seconds, num_threads)
        self._set_threads(num_threads)
        is_begun = is_first_enough
        decoded = self._decoded([self._stream, *sounds], after_seconds)
        if self._container.format.name == "avi":
            decoded = _in_order(decoded, self._stream)
        for stream, frame, seconds in decoded:
            if stream is not self._stream:
                encoder.add_sound(stream.index, frame, seconds)
            else:
                is_begun = is_begun or seconds <= first_seconds + EPSILON_SECONDS
                if not is_begun:
                    return None
                encoder.add_picture(frame, seconds)
            if encoder.is_full:
                break
        end_seconds = encoder.finish()
        if end_seconds is None or encoder.first_seconds is None:
            return None
        return Piece(encoder.first_seconds, end_seconds, "mp4", encoder.note)

    def _sounds(self) -> list[Any]:
        return [s for s in self._container.streams.audio if s.codec_context is not None]

    def _decoded(self, streams: list[Any], after_seconds: float) -> Iterator[_Timed]:
        """Frames until all that comes is well after a moment."""
        for packet in self._packets(streams):
            yield from _decode(packet.stream, packet)
            decoded = decoding_seconds(packet, packet.stream)
            if decoded is not None and decoded > after_seconds + BEYOND_SECONDS:
                return  # what decoders still hold is later
        for stream in streams:
            yield from _decode(stream, None)


def _decode(stream: Any, packet: Any) -> Iterator[_Timed]:
    try:
        frames = stream.codec_context.decode(packet)
    except MemoryError:
        raise
    except av.error.FFmpegError:  # a damaged packet costs its own frame
        return
    for frame in frames:
        seconds = stamp_seconds(frame, stream.time_base)
        if seconds is not None:
            yield stream, frame, seconds


def _in_order(decoded: Iterator[_Timed], pictures: Any) -> Iterator[_Timed]:
    """The same frames; those that show something have the same times too, but in rising order."""
    waiting: deque[Any] = deque()
    times: list[float] = []
    for stream, frame, seconds in decoded:
        if stream is not pictures:
            yield stream, frame, seconds
            continue
        waiting.append(frame)
        heapq.heappush(times, seconds)
        if len(waiting) > _REORDERED:
            yield pictures, waiting.popleft(), heapq.heappop(times)
    for frame in waiting:
        yield pictures, frame, heapq.heappop(times)
