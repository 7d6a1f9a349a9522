"""A video container that is open: what it says of itself, and its frames, with PyAV.

FFmpeg is told the container's format and gets the open file, never a name: it has no say in
which demuxer reads it, and nothing else can be opened.
"""

import bisect
import functools
import itertools
import time
from collections.abc import Collection, Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import IO, Any, Literal, NamedTuple, Self

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from perception_search.cuts import CutFinder
from perception_search.errors import MediaError
from perception_search.frames import FrameSpec, prepare_image
from perception_search.media_facts import Facts, container_facts
from perception_search.signatures import ONE_THREAD, Signatures
from perception_search.video_sampling import (
    EPSILON_SECONDS,
    Clock,
    Shown,
    Tally,
)

SIGN_OF_LIFE_SECONDS = 2.0

_BUFFER_BYTES = 1 << 18
_KEY_STILL_SECONDS = 60.0  # between key frames; longer ones are few in a real video
_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}

# from PyAV 19 on the argument is gone, and what cannot be decoded comes as surrogates
_METADATA_ERRORS: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)


class Timetable(NamedTuple):
    """When a video's frames are shown, in ticks of its stream's clock.

    Attributes:
        stamps: of every frame, ascending, no two alike.
        keys: of the key frames, ascending, at least one.
        last_seconds: how long the last frame stays.
    """

    stamps: list[int]
    keys: list[int]
    last_seconds: float


@dataclass(frozen=True)
class VideoSummary:
    """What is known of a video after all of it went by; `cuts` as in `MediaItem`."""

    width: int
    height: int
    duration_seconds: float
    facts: Facts
    cuts: tuple[float, ...] | None = None


class VideoReader:
    """One container, open from its start; knows its video stream."""

    def __init__(self, file: IO[bytes], format_name: str, max_pixels: int) -> None:
        file.seek(0)
        self._container: Any = av.open(
            file,
            format=format_name,
            container_options={"protocol_whitelist": "none"},  # `options` crashes PyAV < 17.1
            **_METADATA_ERRORS,
            buffer_size=_BUFFER_BYTES,
            io_open=_open_nothing,
        )
        try:
            self._stream = self._choose_stream(max_pixels)
        except BaseException:
            self._container.close()
            raise
        self._size: tuple[int, int] | None = None
        self._reformatter = VideoReformatter()
        self._knows_cuts = True
        self._only_keys = False
        self._last_seconds: float | None = None
        self._end_seconds: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def _choose_stream(self, max_pixels: int) -> Any:
        streams = [s for s in self._container.streams.video if not _is_cover(s)]
        if not streams:
            raise MediaError("skipped", "it holds no moving pictures")
        best = self._container.streams.best("video")
        stream = best if best in streams else streams[0]
        context = stream.codec_context
        if context is None:
            raise MediaError("unsupported", "FFmpeg has no decoder for its video")
        if context.width * context.height > max_pixels:
            raise MediaError(
                "too_large", f"{context.width} x {context.height}, more than {max_pixels:,} pixels"
            )
        context.options = {"max_pixels": str(2 * max_pixels + (1 << 20))}  # of all its buffers
        return stream

    @property
    def stream(self) -> Any:
        """The stream that is read."""
        return self._stream

    def num_indexed(self, *, only_keys: bool) -> int | None:
        """How many frames, or key frames, the container's index says it holds.

        None without an index that is whole: then `count_packets` tells.
        """
        entries: Any = getattr(self._stream, "index_entries", None)  # not in older PyAVs
        if entries is None or self._container.format.name.split(",")[0] != "mov":
            return None
        if not 0 < self._stream.frames == len(entries):  # in fragments, or edited
            return None
        wanted = [entry for entry in entries if entry.is_keyframe or not only_keys]
        return sum(bool(entry.size > 0 and not entry.is_discard) for entry in wanted)

    def count_packets(self, *, only_keys: bool = False) -> Iterator[int]:
        """How many frames the container says it holds: so far, now and then, and at the end.

        Args:
            only_keys: count key frames alone.
        """
        num_packets = 0
        alive = time.monotonic()
        for packet in self._packets([self._stream]):
            if packet.is_keyframe or not only_keys:
                num_packets += not packet.is_discard
            if time.monotonic() - alive > SIGN_OF_LIFE_SECONDS:
                yield num_packets
                alive = time.monotonic()
        yield num_packets

    def timetable(self) -> Generator[Literal["progress"], None, Timetable | None]:
        """When each frame is shown, by demuxing; None where the container does not tell.

        The reader stands at the end then, and `jump` alone reads on.
        """
        stamps, keys, last = [], [], None
        alive = time.monotonic()
        try:
            for packet in self._container.demux(self._stream):
                if not packet.size or packet.is_discard:
                    continue
                if packet.pts is None:
                    return None
                stamps.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
                if last is None or packet.pts > last.pts:
                    last = packet
                if time.monotonic() - alive > SIGN_OF_LIFE_SECONDS:
                    yield "progress"
                    alive = time.monotonic()
        except MemoryError:
            raise
        except av.error.FFmpegError:  # torn off: what is there may not be what it says
            return None
        if not keys or len(set(stamps)) < len(stamps):
            return None
        seconds = _duration_seconds(last, self._stream.time_base, nominal_seconds(self._stream))
        return Timetable(sorted(stamps), sorted(keys), seconds)

    def jump(self, timetable: Timetable, numbers: Iterable[int], num_threads: int) -> Iterator[Any]:
        """The frames of these ascending numbers; None as a sign of life.

        Ends early where a frame is not found at its time. Goes on decoding where that is the
        shorter way, and else jumps to the key frame before; what lies between is decoded only where
        other frames need it.
        """
        self._set_threads(num_threads)
        stamps = [timetable.stamps[number] for number in numbers]
        frames: Iterator[Any] = iter(())
        position: int | None = None
        alive = time.monotonic()
        for stamp in stamps:
            key = timetable.keys[max(0, bisect.bisect_right(timetable.keys, stamp) - 1)]
            if position is None or key > position:
                try:
                    self._container.seek(key, stream=self._stream)
                except av.error.FFmpegError:
                    return
                frames = self._frames(wanted=frozenset(stamps))
            for frame in frames:
                if time.monotonic() - alive > SIGN_OF_LIFE_SECONDS:
                    yield None
                    alive = time.monotonic()
                position = position if frame is None else frame.pts
                if position is not None and position >= stamp:
                    break
            if position != stamp:
                return
            yield frame

    def shown(
        self, spec: FrameSpec, num_threads: int, finder: CutFinder | None = None
    ) -> Iterator[Shown | None]:
        """Every frame that can be decoded; None as a sign of life.

        Args:
            spec: the pixels wanted.
            num_threads: for FFmpeg's decoder.
            finder: is fed all frames.
        """
        return self._timed(spec, num_threads, Clock(nominal_seconds(self._stream)), finder)

    def shown_keys(self, spec: FrameSpec, num_threads: int) -> Iterator[Shown | None]:
        """The key frames alone; the last stays on screen to the end of the video."""
        self._only_keys = True
        self._stream.codec_context.skip_frame = "NONKEY"
        clock = Clock(nominal_seconds(self._stream), _KEY_STILL_SECONDS)
        last: Shown | None = None
        for key in self._timed(spec, num_threads, clock):
            if key is None:
                yield None
                continue
            if last is not None:
                yield last
            last = key
        if last is not None:
            left_seconds = (self._end_seconds or 0.0) - (self._last_seconds or 0.0)
            yield last._replace(duration_seconds=max(last.duration_seconds, left_seconds))

    def _timed(
        self, spec: FrameSpec, num_threads: int, clock: Clock, finder: CutFinder | None = None
    ) -> Iterator[Shown | None]:
        base = self._stream.time_base
        signatures = Signatures()
        alive = time.monotonic()
        self._set_threads(num_threads)
        for frame in self._frames():
            if frame is not None:
                self._last_seconds = stamp_seconds(frame, base)
                seconds = clock.seconds(self._last_seconds)
                if finder is not None and self._knows_cuts:
                    self._look(frame, seconds, signatures, finder)
                duration = _duration_seconds(frame, base, clock.frame_seconds)
                yield Shown(seconds, duration, functools.partial(self.pixels, frame, spec))
            if time.monotonic() - alive > SIGN_OF_LIFE_SECONDS:
                yield None
                alive = time.monotonic()

    def _look(self, frame: Any, seconds: float, signatures: Signatures, finder: CutFinder) -> None:
        try:
            signature = signatures.of(frame)
        except (av.error.FFmpegError, ValueError):  # a layout that FFmpeg cannot convert
            self._knows_cuts = False
        else:
            finder.feed(signature, seconds)

    def _set_threads(self, num_threads: int) -> None:
        context = self._stream.codec_context
        context.thread_type = "AUTO"
        context.thread_count = num_threads

    def _frames(self, wanted: Collection[int] | None = None) -> Iterator[Any]:
        """Frames in the order of showing; None after a packet that yields none.

        Where `wanted` is given, frames at other timestamps may be left out.
        """
        context = self._stream.codec_context
        # after the last packet comes what the decoder still holds
        for packet in itertools.chain(self._packets([self._stream]), [None]):
            if packet is not None and self._only_keys:
                self._note_end(packet)
                if not packet.is_keyframe:  # not every decoder skips what it is told to
                    yield None
                    continue
            if wanted is not None and packet is not None:
                context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            try:
                frames = context.decode(packet)
            except MemoryError:
                raise
            except av.error.FFmpegError:  # a damaged packet costs its own frame
                frames = []
            for frame in frames:
                self._note_size(frame)
                yield frame
            if not frames:
                yield None

    def _packets(self, streams: list[Any]) -> Iterator[Any]:
        """What the container holds of these streams, until it ends or is torn off.

        Without empty packets, which to a decoder would be the end.
        """
        packets = self._container.demux(streams)
        while True:
            try:
                packet = next(packets, None)
            except MemoryError:
                raise
            except av.error.FFmpegError:
                return
            if packet is None:
                return
            if packet.size:
                yield packet

    def picture_at(self, at_seconds: float, seek_seconds: float) -> Image.Image | None:
        """The upright frame on screen at a moment; None if seeking led nowhere or past it."""
        stream = self._stream
        start = stream.start_time or 0
        if seek_seconds > 0:
            try:
                self._container.seek(start + int(seek_seconds / stream.time_base), stream=stream)
            except av.error.FFmpegError:
                return None
        chosen = None
        zero_seconds = float(start * stream.time_base)
        self._set_threads(1)
        for frame in self._frames():
            if frame is None:
                continue
            stamp = stamp_seconds(frame, stream.time_base)
            if stamp is not None and stamp - zero_seconds > at_seconds + EPSILON_SECONDS:
                if chosen is None and seek_seconds <= 0:
                    chosen = frame
                break
            chosen = frame
        return None if chosen is None else self._picture(chosen)

    def _note_end(self, packet: Any) -> None:
        """Of packets whose frames are not looked at only the end is known."""
        base = self._stream.time_base
        seconds = stamp_seconds(packet, base)
        if seconds is not None and not packet.is_discard:
            end_seconds = seconds + _duration_seconds(packet, base, nominal_seconds(self._stream))
            self._end_seconds = max(self._end_seconds or end_seconds, end_seconds)

    def _note_size(self, frame: Any) -> None:
        if self._size is None:
            turned = frame.rotation % 180 == 90
            size = (frame.width, frame.height)
            self._size = size[::-1] if turned else size

    def facts(self) -> Facts:
        """What the container says of the video."""
        return container_facts({**self._stream.metadata, **self._container.metadata})

    def summary(self, tally: Tally, finder: CutFinder | None = None) -> VideoSummary:
        """What there is to say once the frames went by."""
        width, height = self._size or (0, 0)
        cuts = None if finder is None or not self._knows_cuts else finder.times()
        return VideoSummary(width, height, tally.duration_seconds, self.facts(), cuts)

    def _picture(self, frame: Any) -> Image.Image:
        rgb = self._reformatter.reformat(frame, format="rgb24", **ONE_THREAD)
        image = Image.fromarray(rgb.to_ndarray())
        turn = _TURNS.get(frame.rotation % 360)
        return image if turn is None else image.transpose(turn)

    def pixels(self, frame: Any, spec: FrameSpec) -> NDArray[np.uint8]:
        """A decoded frame as uint8 (3, H, W) RGB."""
        return prepare_image(self._picture(frame), spec)


def _open_nothing(url: str, flags: int, options: dict[str, str]) -> None:
    raise PermissionError("a video may not open other files")


def _is_cover(stream: Any) -> bool:
    disposition = av.stream.Disposition
    covers = disposition.attached_pic | disposition.timed_thumbnails | disposition.still_image
    return bool(stream.disposition & covers)


def nominal_seconds(stream: Any) -> float:
    """How long a frame stays by the container's rate; 1 / 25 where that is none."""
    rate: Fraction | None = stream.average_rate or stream.guessed_rate or stream.base_rate
    return 1 / float(rate) if rate and 1e-3 < rate < 1000 else 1 / 25


def stamp_seconds(frame: Any, base: Fraction) -> float | None:
    """When a frame or packet is shown, by its container's clock; None where it does not tell.

    Args:
        frame: either.
        base: seconds of a tick of its stream.
    """
    stamp = frame.dts if frame.pts is None else frame.pts
    return None if stamp is None else in_seconds(stamp, base)


def _duration_seconds(frame: Any, base: Fraction, nominal_seconds: float) -> float:
    duration = frame.duration or 0
    return in_seconds(duration, base) if duration > 0 else nominal_seconds


def in_seconds(ticks: int, base: Fraction) -> float:
    """Ticks of a stream's clock as seconds."""
    return ticks * base.numerator / base.denominator
