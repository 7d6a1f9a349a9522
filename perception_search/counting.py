"""Counts what lies under a folder: pictures, videos, seconds of video; decodes no more than one
frame of a few videos, and knows no collection.

Files are found and identified as an ingest does it. Of many, a sample is looked at: the same one
every time.
"""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perception_search import media
from perception_search.errors import MediaError
from perception_search.export.cutting import Cutter
from perception_search.media import Found

MOST_IDENTIFIED = 500
"""Of the files with one extension; more are taken to be what these are."""

MOST_ASKED = 100
"""Videos that are asked for their length; of more, the others are as long for their bytes."""

ASK_SECONDS = 2.0
_ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class Library:
    """What lies under a folder; counts are estimates where `is_sampled`.

    Attributes:
        num_files: regular files, of any kind.
        num_images: pictures, by their leading bytes.
        num_videos: videos that say how long they are.
        video_seconds: length of all videos together.
        num_identified: files whose leading bytes were read.
        images: the pictures among those.
        durations: length in seconds of each video that was asked for it.
        is_sampled: whether some files were judged by others.
    """

    num_files: int
    num_images: int
    num_videos: int
    video_seconds: float
    num_identified: int
    images: tuple[Path, ...]
    durations: Mapping[Path, float]
    is_sampled: bool


def count(path: str | Path, *, seed: int = 0) -> Library:
    """What lies under `path`, a folder or a file.

    Args:
        path: hidden files and collections below it are left out, as in an ingest.
        seed: decides which files are looked at where there are many.

    Raises:
        FileNotFoundError: there is nothing at `path`.
    """
    rng = random.Random(seed)
    by_extension: dict[str, list[Found]] = {}
    for file in media.find([path]):
        if file.outcome is None:
            by_extension.setdefault(file.path.suffix.lower(), []).append(file)
    images: list[Found] = []
    videos: list[Found] = []
    num_files = num_identified = 0
    num_images = num_videos = video_bytes = 0.0
    for files in by_extension.values():
        sample = rng.sample(files, min(MOST_IDENTIFIED, len(files)))
        kinds = [_kind_of(file.path) for file in sample]
        images += (some := [f for f, kind in zip(sample, kinds, strict=True) if kind == "image"])
        videos += (more := [f for f, kind in zip(sample, kinds, strict=True) if kind == "video"])
        num_files += len(files)
        num_identified += len(sample)
        num_images += len(some) * len(files) / len(sample)
        num_videos += len(more) * len(files) / len(sample)
        if more:
            video_bytes += _bytes_of(more) * _bytes_of(files) / _bytes_of(sample)
    durations, bytes_asked, num_asked = _durations(rng.sample(videos, min(MOST_ASKED, len(videos))))
    return Library(
        num_files=num_files,
        num_images=round(num_images),
        num_videos=round(num_videos * len(durations) / num_asked) if num_asked else 0,
        video_seconds=sum(durations.values()) * video_bytes / bytes_asked if bytes_asked else 0.0,
        num_identified=num_identified,
        images=tuple(file.path for file in images),
        durations=durations,
        is_sampled=num_identified < num_files or num_asked < len(videos),
    )


def _kind_of(path: Path) -> media.Kind:
    try:
        with path.open("rb") as file:
            return media.sniff(file.read(media.HEAD_BYTES))
    except OSError:  # gone, or not ours to read: an ingest will say so
        return ""


def _bytes_of(files: Sequence[Found]) -> int:
    return sum(file.size_bytes for file in files)


def _durations(videos: Sequence[Found]) -> tuple[dict[Path, float], int, int]:
    """How long videos say they are; the bytes and the number of all that were asked.

    A video that does not tell counts as one that cannot be read. After `ASK_SECONDS` no more are
    asked than one.
    """
    durations: dict[Path, float] = {}
    num_asked = 0
    deadline = time.monotonic() + ASK_SECONDS
    with Cutter(time_limit_seconds=_ANSWER_SECONDS) as cutter:
        for video in videos:
            if durations and time.monotonic() > deadline:
                break
            num_asked += 1
            try:
                seconds = cutter.clocks(video.path).duration_seconds
            except MediaError:
                continue
            if seconds:
                durations[video.path] = seconds
    return durations, _bytes_of(videos[:num_asked]), num_asked
