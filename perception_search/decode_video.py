"""A video becomes sampled frames with PyAV, in one forward pass; runs in a decode worker.

FFmpeg is told the container's format and gets the open file, never a name: it has no say in
which demuxer reads it, and nothing else can be opened.
"""

import functools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import IO, Any, Literal, Self

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perception_search.decode_image import jpeg_thumbnail
from perception_search.errors import MediaError
from perception_search.frames import Frames, FrameSpec, Sampling, prepare_image, uniform_indices
from perception_search.media_facts import Facts, container_facts
from perception_search.video_sampling import (
    EPSILON_SECONDS,
    Clock,
    Shown,
    Tally,
    Wanted,
    in_chunks,
    sample,
    sample_uniform,
)

SIGN_OF_LIFE_SECONDS = 2.0

SEEKS_SECONDS = (0.0, 10.0, 60.0, math.inf)
"""How long before a moment to seek, one after the other: not every key frame is found."""

_BUFFER_BYTES = 1 << 18
_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}

# from PyAV 19 on the argument is gone, and what cannot be decoded comes as surrogates
_METADATA_ERRORS: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)


@dataclass(frozen=True)
class VideoSummary:
    """What is known of a video after all of it went by."""

    width: int
    height: int
    duration_seconds: float
    facts: Facts


Step = Frames | VideoSummary | Literal["progress", "forget_uniform"]
"""What decoding a video yields: frames as they come, signs of life, the summary last.

`forget_uniform`: the flags `num_uniform` sent so far are void, the right frames follow.
"""


def decode_video(
    file: IO[bytes],
    format_name: str,
    spec: FrameSpec,
    sampling: Sampling,
    *,
    max_pixels: int,
    num_threads: int,
) -> Iterator[Step]:
    """The sampled frames of a video, in constant memory.

    The frames are counted first by demuxing; where decoding yields another number, a second pass
    fetches the whole-video protocol's frames.

    Args:
        file: open for reading, seekable.
        format_name: as `media.identify` calls it; no other demuxer is tried.
        spec: the pixels wanted.
        sampling: the frames wanted.
        max_pixels: of one frame; what says it is larger is refused.
        num_threads: for FFmpeg's decoder.

    Raises:
        MediaError: `unreadable`, `unsupported`, `too_large`, or `skipped` if it is sound only.
        Exception: whatever FFmpeg raises at damaged bytes.
    """
    with VideoReader(file, format_name, max_pixels) as reader:
        for num_packets in reader.count_packets():
            num_expected = max(num_packets, 1)
            yield "progress"
    uniform = uniform_indices(num_expected, sampling.num_uniform_frames)
    tally = Tally()
    with VideoReader(file, format_name, max_pixels) as reader:
        wanted = sample(reader.shown(spec, num_threads), sampling, uniform, tally)
        yield from _steps(wanted)
        summary = reader.summary(tally)
    if not tally.num_frames:
        raise MediaError("unreadable", "no frame of the video can be decoded")
    if tally.num_frames != num_expected:
        yield "forget_uniform"
        uniform = uniform_indices(tally.num_frames, sampling.num_uniform_frames)
        with VideoReader(file, format_name, max_pixels) as reader:
            yield from _steps(sample_uniform(reader.shown(spec, num_threads), uniform))
    yield summary


def _steps(wanted: Iterator[Wanted | None]) -> Iterator[Step]:
    for frames in in_chunks(wanted):
        yield "progress" if frames is None else frames


def video_thumbnail(
    file: IO[bytes], format_name: str, at_seconds: float, max_side: int, *, max_pixels: int
) -> bytes:
    """A JPEG of the frame that is on screen at a moment (of the last one, past the end)."""
    for back_seconds in SEEKS_SECONDS:
        with VideoReader(file, format_name, max_pixels) as reader:
            picture = reader.picture_at(at_seconds, at_seconds - back_seconds)
        if picture is not None:
            return jpeg_thumbnail(picture, max_side)
    raise MediaError("unreadable", "no frame of the video can be decoded")


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
    def stream_index(self) -> int:
        """Number of the stream that is read."""
        return int(self._stream.index)

    def count_packets(self) -> Iterator[int]:
        """How many frames the container says it holds: so far, now and then, and at the end."""
        num_packets = 0
        alive = time.monotonic()
        try:
            for packet in self._container.demux(self._stream):
                num_packets += packet.size > 0 and not packet.is_discard
                if time.monotonic() - alive > SIGN_OF_LIFE_SECONDS:
                    yield num_packets
                    alive = time.monotonic()
        except MemoryError:
            raise
        except av.error.FFmpegError:  # torn off; what was there before counts
            pass
        yield num_packets

    def shown(self, spec: FrameSpec, num_threads: int) -> Iterator[Shown | None]:
        """Every frame that can be decoded; None as a sign of life."""
        clock = Clock(_nominal_seconds(self._stream))
        alive = time.monotonic()
        for frame in self._frames(num_threads):
            if frame is not None:
                self._note_size(frame)
                seconds = clock.seconds(stamp_seconds(frame, self._stream))
                duration = _duration_seconds(frame, self._stream, clock.frame_seconds)
                yield Shown(seconds, duration, functools.partial(_pixels, frame, spec))
            if time.monotonic() - alive > SIGN_OF_LIFE_SECONDS:
                yield None
                alive = time.monotonic()

    def _frames(self, num_threads: int) -> Iterator[Any]:
        """Frames in the order of showing; None after a packet that yields none."""
        context = self._stream.codec_context
        context.thread_type = "AUTO"
        context.thread_count = num_threads
        packets = self._container.demux(self._stream)
        is_over = False
        while not is_over:
            try:
                packet = next(packets, None)
            except MemoryError:
                raise
            except av.error.FFmpegError:  # torn off; what the decoder still holds is to come
                packet = None
            is_over = packet is None
            if packet is not None and not packet.size:  # to a decoder this would be the end
                continue
            try:
                frames = context.decode(packet)
            except MemoryError:
                raise
            except av.error.FFmpegError:  # a damaged packet costs its own frame
                frames = []
            yield from frames
            if not frames:
                yield None

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
        for frame in self._frames(1):
            if frame is None:
                continue
            stamp = stamp_seconds(frame, stream)
            if stamp is not None and stamp - zero_seconds > at_seconds + EPSILON_SECONDS:
                if chosen is None and seek_seconds <= 0:
                    chosen = frame
                break
            chosen = frame
        return None if chosen is None else _picture(chosen)

    def _note_size(self, frame: Any) -> None:
        if self._size is None:
            turned = frame.rotation % 180 == 90
            size = (frame.width, frame.height)
            self._size = size[::-1] if turned else size

    def facts(self) -> Facts:
        """What the container says of the video."""
        return container_facts({**self._stream.metadata, **self._container.metadata})

    def summary(self, tally: Tally) -> VideoSummary:
        """What there is to say once the frames went by."""
        width, height = self._size or (0, 0)
        return VideoSummary(width, height, tally.duration_seconds, self.facts())


def _open_nothing(url: str, flags: int, options: dict[str, str]) -> None:
    raise PermissionError("a video may not open other files")


def _is_cover(stream: Any) -> bool:
    disposition = av.stream.Disposition
    covers = disposition.attached_pic | disposition.timed_thumbnails | disposition.still_image
    return bool(stream.disposition & covers)


def _nominal_seconds(stream: Any) -> float:
    rate: Fraction | None = stream.average_rate or stream.guessed_rate or stream.base_rate
    return 1 / float(rate) if rate and 1e-3 < rate < 1000 else 1 / 25


def stamp_seconds(frame: Any, stream: Any) -> float | None:
    """When a frame or packet is shown, by its container's clock; None where it does not tell."""
    stamp = frame.dts if frame.pts is None else frame.pts
    return None if stamp is None else _seconds(stamp, stream)


def _duration_seconds(frame: Any, stream: Any, nominal_seconds: float) -> float:
    duration = frame.duration or 0
    return _seconds(duration, stream) if duration > 0 else nominal_seconds


def _seconds(ticks: int, stream: Any) -> float:
    base = stream.time_base
    return ticks * int(base.numerator) / int(base.denominator)


def _picture(frame: Any) -> Image.Image:
    image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    turn = _TURNS.get(frame.rotation % 360)
    return image if turn is None else image.transpose(turn)


def _pixels(frame: Any, spec: FrameSpec) -> NDArray[np.uint8]:
    return prepare_image(_picture(frame), spec)
