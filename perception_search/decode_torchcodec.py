"""A video becomes sampled frames with torchcodec: the same frames and times as with PyAV.

Runs in a decode worker that was asked for it; imports torch, and needs FFmpeg on the system.
torchcodec lets FFmpeg choose the demuxer by itself, so what could be taken for a playlist is
refused here; PyAV reads the facts.
"""

import heapq
import importlib
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any

from PIL import Image

from perception_search.decode_video import Step
from perception_search.errors import MediaError, MissingExtra
from perception_search.frames import FrameSpec, Sampling, prepare_image
from perception_search.video_reader import (
    SIGN_OF_LIFE_SECONDS,
    VideoReader,
    VideoSummary,
    nominal_seconds,
)
from perception_search.video_sampling import EPSILON_SECONDS, MAX_STILL_SECONDS, Wanted, in_chunks

try:
    import torch

    VideoDecoder: Any = importlib.import_module("torchcodec.decoders").VideoDecoder
except Exception as error:  # without FFmpeg, or with another CUDA, it raises all kinds
    raise MissingExtra(
        "torchcodec cannot be used: pip install 'perception-search[video]' and install FFmpeg "
        f"(apt-get install ffmpeg), or use the video backend pyav ({type(error).__name__}: "
        f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'})"
    ) from error

_FOLLOWED = re.compile(rb"c=IN IP|#EXTM3U|ffconcat|<MPD|CompositionPlaylist", re.IGNORECASE)
_HEAD_BYTES = 1 << 16

torch.set_num_threads(1)


def decode_video(
    file: IO[bytes],
    format_name: str,
    spec: FrameSpec,
    sampling: Sampling,
    *,
    max_pixels: int,
    num_threads: int,
) -> Iterator[Step]:
    """The sampled frames of a video; arguments and results are those of `decode_video` of PyAV.

    Raises:
        MediaError: as there, and `unsupported` for formats that FFmpeg could mistake for a
            playlist, and for sampling by key frames.
        Exception: whatever torchcodec raises at damaged bytes.
    """
    if sampling.grid == "keyframes":
        raise MediaError(
            "unsupported", "torchcodec takes frames by time; the backend pyav takes key frames"
        )
    file.seek(0)
    if format_name.startswith("mpeg") or _FOLLOWED.search(file.read(_HEAD_BYTES)):
        raise MediaError("unsupported", f"torchcodec is not trusted with {format_name}; pyav is")
    with VideoReader(file, format_name, max_pixels) as reader:
        stream_index = int(reader.stream.index)
        facts = reader.facts()
        seconds_per_frame = nominal_seconds(reader.stream)
    file.seek(0)
    decoder = VideoDecoder(file, stream_index=stream_index, num_ffmpeg_threads=num_threads)
    if not len(decoder):
        raise MediaError("unreadable", "no frame of the video can be decoded")
    video = _Video(decoder, spec)
    num_uniform = Counter(sampling.numbers(len(decoder), seconds_per_frame))
    uniform = [video.at_index(index, count) for index, count in num_uniform.items()]
    grid = video.grid(sampling) if sampling.grid == "by-time" else ()
    merged = heapq.merge(uniform, grid, key=lambda frame: frame[0])
    for frames in in_chunks(_with_signs_of_life(_combined(merged))):
        yield "progress" if frames is None else frames
    yield VideoSummary(video.width, video.height, video.duration_seconds, facts)


class _Video:
    """An open decoder and the pixels wanted of it; times count from the first frame."""

    def __init__(self, decoder: Any, spec: FrameSpec) -> None:
        self._decoder = decoder
        self._spec = spec
        self._begin_seconds: float = decoder.metadata.begin_stream_seconds
        self.duration_seconds: float = decoder.metadata.end_stream_seconds - self._begin_seconds
        if self.duration_seconds > 6 * MAX_STILL_SECONDS + len(decoder) * 10:
            raise MediaError("unreadable", "its timestamps are those of no real video")
        self.height, self.width = decoder[0].shape[1:]

    def at_index(self, index: int, num_uniform: int) -> tuple[float, Wanted]:
        """A frame by number, with its time."""
        frame = self._decoder.get_frame_at(index)
        pts_seconds = frame.pts_seconds - self._begin_seconds
        return pts_seconds, Wanted(self._pixels(frame.data), pts_seconds, False, num_uniform)

    def grid(self, sampling: Sampling) -> Iterator[tuple[float, Wanted]]:
        """The frame at each grid point, each with the time at which it appears."""
        point = 0
        while True:
            seconds = point / sampling.frames_per_second
            if point and seconds + EPSILON_SECONDS >= self.duration_seconds:
                return
            at_seconds = min(seconds + EPSILON_SECONDS, self.duration_seconds * (1 - 1e-9))
            frame = self._decoder.get_frame_played_at(self._begin_seconds + at_seconds)
            pts_seconds = frame.pts_seconds - self._begin_seconds
            yield pts_seconds, Wanted(self._pixels(frame.data), seconds, True, 0)
            point += 1

    def _pixels(self, data: torch.Tensor) -> Any:
        return prepare_image(Image.fromarray(data.permute(1, 2, 0).numpy()), self._spec)


def _combined(merged: Iterator[tuple[float, Wanted]]) -> Iterator[Wanted]:
    """A frame that is wanted twice, for grid and whole video, as one."""
    last: tuple[float, Wanted] | None = None
    for pts_seconds, frame in merged:
        if last is not None and last[0] == pts_seconds and not (last[1].on_grid and frame.on_grid):
            both = last[1].num_uniform + frame.num_uniform
            grid = last[1] if last[1].on_grid else frame
            last = pts_seconds, grid._replace(num_uniform=both)
            continue
        if last is not None:
            yield last[1]
        last = pts_seconds, frame
    if last is not None:
        yield last[1]


def _with_signs_of_life(frames: Iterator[Wanted]) -> Iterator[Wanted | None]:
    alive = time.monotonic()
    for frame in frames:
        yield frame
        if time.monotonic() - alive > SIGN_OF_LIFE_SECONDS:
            yield None
            alive = time.monotonic()
