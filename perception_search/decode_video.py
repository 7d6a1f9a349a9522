"""A video becomes sampled frames: all seen in one forward pass, or a few jumped to.

Runs in a decode worker.
"""

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import IO, Literal

from perception_search.cuts import CutFinder
from perception_search.decode_image import jpeg_thumbnail
from perception_search.errors import MediaError
from perception_search.frames import Frames, FrameSpec, Sampling
from perception_search.video_reader import VideoReader, VideoSummary, in_seconds, nominal_seconds
from perception_search.video_sampling import (
    Clock,
    Tally,
    Wanted,
    in_chunks,
    sample,
    sample_uniform,
)

SEEKS_SECONDS = (0.0, 10.0, 60.0, math.inf)
"""How long before a moment to seek, one after the other: not every key frame is found."""

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

    The frames are counted first, from the container's index or by demuxing; where decoding yields
    another number, a second pass fetches the whole-video protocol's frames. Without a grid they
    are jumped to; where one is not found as the container says, all frames are decoded.

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
    if sampling.grid == "none":
        with VideoReader(file, format_name, max_pixels) as reader:
            jumped = yield from _jumped(reader, spec, sampling, num_threads)
        if jumped is not None:
            yield from jumped
            return
    only_keys = sampling.grid == "keyframes"
    opened = functools.partial(VideoReader, file, format_name, max_pixels)
    tally = Tally()
    finder = None if only_keys else CutFinder()
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(opened())
        num_expected = reader.num_indexed(only_keys=only_keys)
        if num_expected is None:
            for num_packets in reader.count_packets(only_keys=only_keys):
                num_expected = num_packets
                yield "progress"
            stack.close()
            reader = stack.enter_context(opened())
        num_expected = max(num_expected or 0, 1)
        seconds_per_frame = nominal_seconds(reader.stream)
        uniform = sampling.numbers(num_expected, seconds_per_frame)
        shown = (
            reader.shown_keys(spec, num_threads)
            if only_keys
            else reader.shown(spec, num_threads, finder)
        )
        yield from _steps(sample(shown, sampling, uniform, tally))
        summary = reader.summary(tally, finder)
    if not tally.num_frames:
        if only_keys:  # a video can be without; then all its frames are looked at
            sampling = replace(sampling, grid="by-time")
            yield from decode_video(
                file, format_name, spec, sampling, max_pixels=max_pixels, num_threads=num_threads
            )
            return
        raise MediaError("unreadable", "no frame of the video can be decoded")
    if tally.num_frames != num_expected:
        yield "forget_uniform"
        uniform = sampling.numbers(tally.num_frames, seconds_per_frame)
        with opened() as reader:
            show = reader.shown_keys if only_keys else reader.shown
            yield from _steps(sample_uniform(show(spec, num_threads), uniform))
    yield summary


def _jumped(
    reader: VideoReader, spec: FrameSpec, sampling: Sampling, num_threads: int
) -> Generator[Step, None, list[Step] | None]:
    """The whole-video protocol's frames and the summary; None where one was not found.

    Yields signs of life only: what it finds counts when it has found all.
    """
    timetable = yield from reader.timetable()
    if timetable is None:
        return None
    seconds_per_frame = nominal_seconds(reader.stream)
    clock = Clock(seconds_per_frame)
    base = reader.stream.time_base
    seconds = [clock.seconds(in_seconds(stamp, base)) for stamp in timetable.stamps]
    uniform = Counter(sampling.numbers(len(seconds), seconds_per_frame))
    numbers = list(uniform)
    found: list[Wanted | None] = []
    for frame in reader.jump(timetable, numbers, num_threads):
        if frame is None:
            yield "progress"
            continue
        number = numbers[len(found)]
        found.append(Wanted(reader.pixels(frame, spec), seconds[number], False, uniform[number]))
    if len(found) < len(uniform):
        return None
    tally = Tally(len(seconds), seconds[-1] + timetable.last_seconds)
    return [*(frames for frames in in_chunks(found) if frames), reader.summary(tally)]


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
