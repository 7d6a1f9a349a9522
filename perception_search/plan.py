"""What each model would cost a folder on this machine: hours, disk, time of a query.

Puts together what was counted and measured; opens no file itself and needs no weights.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_search import machine
from perception_search.counting import Library, count
from perception_search.encoder.auto import STARTER
from perception_search.encoder.config import MODELS
from perception_search.errors import ModelNotFound
from perception_search.frames import FrameSpec, Sampling
from perception_search.machine import DecodeCost, EncodeCost
from perception_search.media import absolute, display
from perception_search.published import MODEL_CARDS
from perception_search.segments import Segmentation, windows
from perception_search.video_sampling import EPSILON_SECONDS

if TYPE_CHECKING:
    from perception_search.encoder import PerceptionEncoder

NIGHT_SECONDS = 8 * 3600.0

NUM_HITS = 10
"""Of a query; the frames of videos among them are scored too, for the best moment."""

_FILE_BYTES = 180  # beside its embeddings: its hash in three tables, its path, its facts
_ROW_BYTES = 12  # beside the embedding, of a segment or a frame: its times, its norm, cuts


@dataclass(frozen=True)
class Contents:
    """What a collection of a library would hold; all are estimates.

    Attributes:
        num_images: pictures that can be read.
        num_videos: videos that can be read.
        video_seconds: their length.
        num_points: points of the videos' time grids: as many embeddings are stored.
        num_segments: stretches that videos are found by.
        num_frames: pictures and frames that have to be embedded.
    """

    num_images: int
    num_videos: int
    video_seconds: float
    num_points: int
    num_segments: int
    num_frames: int

    def disk_bytes(self, dim: int) -> int:
        """Size of the collection, without an index."""
        files = self.num_images + self.num_videos
        parts = self.num_points + self.num_segments
        return 2 * dim * (files + parts) + _FILE_BYTES * files + _ROW_BYTES * parts

    @property
    def num_rows(self) -> int:
        """Rows that a query is compared with: those of pictures and of segments."""
        return self.num_images + self.num_segments

    @property
    def num_scored(self) -> float:
        """Embeddings that a query is compared with: rows, then frames of videos that are hits."""
        num_items = self.num_images + self.num_videos
        frames_of_hits = self.num_points * min(NUM_HITS / num_items, 1) if num_items else 0
        return self.num_rows + frames_of_hits


@dataclass(frozen=True)
class ModelPlan:
    """What one model would cost.

    Attributes:
        model: its name as released.
        decode_seconds: to make pixels of all files, by all cores.
        encode_seconds: to embed all frames.
        ingest_seconds: of both; on a CPU they share the cores, beside a GPU they overlap.
        disk_bytes: of the collection.
        query_ms: to embed a query that was not asked before, and to score all rows.
        scores: what its authors published, in percent, by benchmark.
    """

    model: str
    decode_seconds: float
    encode_seconds: float
    ingest_seconds: float
    disk_bytes: int
    query_ms: float
    scores: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return {**asdict(self), "ingest_hours": self.ingest_seconds / 3600}


@dataclass(frozen=True)
class Plan:
    """What each model would cost, and what that rests on.

    Attributes:
        path: what was looked at.
        models: smallest first.
        library: what was counted.
        contents: what a collection would hold.
        sampling: which frames of videos would be taken.
        num_decoded: files that were decoded to measure.
        num_unreadable: files of those tried that could not be read.
        device: that was measured.
        dtype: that was measured.
        load_average: of the machine before, over a minute; None where that is not known.
    """

    path: Path
    models: tuple[ModelPlan, ...]
    library: Library
    contents: Contents
    sampling: Sampling
    num_decoded: int
    num_unreadable: int
    device: str
    dtype: str
    load_average: float | None

    @property
    def overnight(self) -> str | None:
        """The name of the largest model that ends within `NIGHT_SECONDS`; None where none does."""
        ending = [each for each in self.models if each.ingest_seconds <= NIGHT_SECONDS]
        return ending[-1].model if ending else None

    def as_dict(self) -> dict[str, Any]:
        """All but the models by name, ready for JSON."""
        return {
            "path": str(self.path),
            "num_files": self.library.num_files,
            "num_identified": self.library.num_identified,
            "num_durations": len(self.library.durations),
            "is_sampled": self.library.is_sampled,
            "num_decoded": self.num_decoded,
            "num_unreadable": self.num_unreadable,
            **asdict(self.contents),
            "sampling": asdict(self.sampling),
            "device": self.device,
            "dtype": self.dtype,
            "load_average": self.load_average,
            "overnight": self.overnight,
        }


def plan(
    path: str | Path,
    *,
    models: Sequence[str] = (),
    device: str = "auto",
    dtype: str = "auto",
    sampling: Sampling | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """What each model would cost the files under `path` on this machine; takes about 15 seconds.

    Args:
        path: a folder or a file.
        models: names that `PerceptionEncoder` takes; none for all.
        device: `auto`, `cpu`, `cuda` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `int8`.
        sampling: which frames of videos would be taken; one a second by default.
        on_progress: called with (steps done, steps in all).

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ModelNotFound: no such model, or one that embeds no text.
        ValueError: there is nothing to ingest under `path`.
    """
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    encoders = _encoders(models, device, dtype)
    sampling = sampling or Sampling()
    specs = list(dict.fromkeys(encoder.frame_spec for encoder in encoders))
    library = count(path)
    steps = _steps(1 + len(specs) + len(encoders), on_progress)
    videos = machine.decode_cost(
        list(library.durations),
        max(specs, key=lambda spec: spec.height),  # beside decoding a video its size is little
        sampling,
        seconds=machine.VIDEOS_SECONDS,
    )
    next(steps)
    images: dict[FrameSpec, DecodeCost] = {}
    for spec in specs:
        images[spec] = machine.decode_cost(
            library.images, spec, sampling, seconds=machine.IMAGES_SECONDS
        )
        next(steps)
    contents = contents_of(library, sampling, images.values(), videos)
    if not contents.num_images + contents.num_videos:
        raise ValueError(
            f"{display(absolute(path))} holds no picture and no video that can be read, among "
            f"{library.num_files} files; give a folder that holds some"
        )
    made = []
    for encoder in encoders:
        cost = machine.encode_cost(encoder)
        made.append(_model_plan(encoder, contents, images[encoder.frame_spec], videos, cost))
        next(steps)
    return Plan(
        path=absolute(path),
        models=tuple(made),
        library=library,
        contents=contents,
        sampling=sampling,
        num_decoded=max(cost.num_images for cost in images.values()) + videos.num_videos,
        num_unreadable=max(cost.num_unreadable for cost in images.values()) + videos.num_unreadable,
        device=encoders[0].provenance["device"],
        dtype=encoders[0].dtype,
        load_average=load_average,
    )


def _encoders(models: Sequence[str], device: str, dtype: str) -> "list[PerceptionEncoder]":
    """An encoder of each model, smallest first; none of them loads its weights."""
    from perception_search.encoder import PerceptionEncoder

    if STARTER in models:
        raise ModelNotFound(f"{STARTER} is no released model; plan is for PE-Core models")
    names = models or [name for name, model in MODELS.items() if model.text is not None]
    chosen = [PerceptionEncoder(name, device=device, dtype=dtype) for name in names]
    by_name = {encoder.config.name: encoder for encoder in chosen}
    return [by_name[name] for name in MODELS if name in by_name]


def _steps(count: int, on_progress: Callable[[int, int], None] | None) -> Iterator[None]:
    """Tells of one more step done each time it is asked."""
    for done in range(1, count + 1):
        if on_progress is not None:
            on_progress(done, count)
        yield


def contents_of(
    library: Library, sampling: Sampling, images: Iterable[DecodeCost], videos: DecodeCost
) -> Contents:
    """What a collection of a library would hold.

    Args:
        library: what was counted.
        sampling: which frames of videos would be taken.
        images: what decoding samples of its pictures showed.
        videos: what decoding a sample of its videos showed.
    """
    images = list(images)
    num_read = sum(cost.num_images for cost in images)
    num_tried = num_read + sum(cost.num_unreadable for cost in images)
    num_images = round(library.num_images * num_read / num_tried) if num_tried else 0
    num_videos = round(library.num_videos * videos.readable_share)
    video_seconds = library.video_seconds * videos.readable_share
    durations = library.durations.values()
    scale = video_seconds / sum(durations) if durations else 0.0
    num_points = round(scale * sum(_num_points(seconds, sampling) for seconds in durations))
    num_segments = scale * sum(len(windows(Segmentation(), seconds)) for seconds in durations)
    num_taken = num_points + num_videos * videos.frames_off_grid
    return Contents(
        num_images=num_images,
        num_videos=num_videos,
        video_seconds=video_seconds,
        num_points=num_points,
        num_segments=round(num_segments),
        num_frames=num_images + round(num_taken * videos.new_share),
    )


def _num_points(seconds: float, sampling: Sampling) -> int:
    """Points of the time grid of a video of this length."""
    return max(math.ceil((seconds - EPSILON_SECONDS) * sampling.frames_per_second), 1)


def ingest_seconds(decode_seconds: float, encode_seconds: float, *, share_cores: bool) -> float:
    """How long an ingest takes that decodes and embeds at once.

    Each of the two is the time with all cores at work. Where they share the cores none is idle,
    and it takes both; a GPU waits for the cores, or they for it.
    """
    if share_cores:
        return decode_seconds + encode_seconds
    return max(decode_seconds, encode_seconds)


def _model_plan(
    encoder: "PerceptionEncoder",
    contents: Contents,
    images: DecodeCost,
    videos: DecodeCost,
    cost: EncodeCost,
) -> ModelPlan:
    files = contents.num_images + contents.num_videos
    busy_seconds = (
        contents.num_images * images.image_seconds + contents.video_seconds * videos.video_seconds
    )
    decode_seconds = busy_seconds / min(os.cpu_count() or 1, files)
    encode_seconds = contents.num_frames * cost.frame_seconds
    query_seconds = cost.text_seconds + contents.num_scored * machine.score_cost(encoder.dim)
    return ModelPlan(
        model=encoder.config.name,
        decode_seconds=decode_seconds,
        encode_seconds=encode_seconds,
        ingest_seconds=ingest_seconds(
            decode_seconds, encode_seconds, share_cores=encoder.device.type == "cpu"
        ),
        disk_bytes=contents.disk_bytes(encoder.dim),
        query_ms=1000 * query_seconds,
        scores=MODEL_CARDS.scores(encoder.config.name),
    )
