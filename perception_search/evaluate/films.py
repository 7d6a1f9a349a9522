"""Films made of captioned clips, so that anyone can measure moment search on videos of their own.

Clips are joined in random order into one video; each caption then has a right answer that is known
to the frame. Cuts between clips are sharper than those within real videos: figures compare models
and settings, and say less of how well moments of a real video are found.
"""

import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_search.decode import Decoded, DecodePool, Failed, FrameSpec, Restarted, Sampling
from perception_search.errors import MediaError, QueryError
from perception_search.evaluate.annotations import Annotations, MomentQuery, Window
from perception_search.evaluate.moments import MomentReport, evaluate_moments
from perception_search.media import absolute, display

if TYPE_CHECKING:
    from perception_search.collection import Collection

CAPTIONS = "captions.json"

_WIDTH, _HEIGHT, _FRAMES_PER_SECOND = 384, 288, 10


class Clip(NamedTuple):
    """A short video and what it shows."""

    path: Path
    caption: str


class Part(NamedTuple):
    """Where a clip is in its film: [start_seconds, end_seconds)."""

    clip: Clip
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Film:
    """A video made of clips.

    Attributes:
        path: of the video.
        parts: the clips in order; each starts where the one before ends, the first at 0.
    """

    path: Path
    parts: tuple[Part, ...]

    @property
    def duration_seconds(self) -> float:
        """Where the last part ends."""
        return self.parts[-1].end_seconds


def read_clips(folder: str | Path) -> list[Clip]:
    """The clips that a folder's `captions.json` lists: `[{"file": ..., "caption": ...}, ...]`.

    Raises:
        QueryError: there is no such list, an entry of it is malformed, or its file is not there.
    """
    path = absolute(folder) / CAPTIONS
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise QueryError(
            f'{display(path)} cannot be read ({error.strerror}): list the clips there, [{{"file": '
            '"dog.mp4", "caption": "a dog runs"}, ...].'
        ) from error
    except ValueError as error:
        raise QueryError(f"{display(path)} is not JSON: {error}.") from error
    if not isinstance(entries, list) or len(entries) < 2:
        raise QueryError(f"{display(path)} does not list two clips or more.")
    clips = []
    for number, entry in enumerate(entries, 1):
        file, caption = (
            (entry.get("file"), entry.get("caption")) if isinstance(entry, dict) else (None, None)
        )
        if not (isinstance(file, str) and isinstance(caption, str) and file and caption.strip()):
            raise QueryError(
                f"{display(path)}, entry {number}: `file` and `caption` are wanted, both text."
            )
        if not (path.parent / file).is_file():
            raise QueryError(f"{display(path)}, entry {number}: there is no file {display(file)}.")
        clips.append(Clip(path.parent / file, " ".join(caption.split())))
    return clips


def make_films(
    clips: Sequence[Clip],
    folder: str | Path,
    *,
    num_films: int = 10,
    clips_per_film: int = 20,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Film]:
    """Joins clips at random into films: H.264 in MP4, 384 x 288 pixels, 10 frames a second.

    A film has no clip twice; films may share clips. Clips are squashed to the films' size, as the
    encoders squash frames, so that a clip looks to them as it would by itself.

    Args:
        clips: at least two.
        folder: where `film_001.mp4`, ... are written; is made if need be.
        num_films: at least 1.
        clips_per_film: at least 1; all clips where there are fewer.
        seed: the same seed gives the same films.
        on_progress: called with (films made, films in all).

    Raises:
        ValueError: a number is too small.
        QueryError: a film is there already.
        MediaError: a clip cannot be decoded; it says which and why.
    """
    if len(clips) < 2 or num_films < 1 or clips_per_film < 1:
        raise ValueError(
            f"{num_films} films of {clips_per_film} out of {len(clips)} clips; at least 1, 1 and 2"
        )
    target = absolute(folder)
    target.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    films = []
    for number in range(1, num_films + 1):
        chosen = draw.sample(list(clips), min(clips_per_film, len(clips)))
        path = target / f"film_{number:03d}.mp4"
        if path.exists():
            raise QueryError(f"{display(path)} exists already; films need a folder of their own.")
        films.append(Film(path, _joined(chosen, path)))
        if on_progress is not None:
            on_progress(number, num_films)
    return films


def film_annotations(films: Sequence[Film]) -> Annotations:
    """For every film and caption in it the question where that is.

    A caption that other films show as well has right answers there too, which count where all
    videos are asked.
    """
    truth: dict[str, dict[str, list[Window]]] = {}  # by caption, by film
    for film in films:
        for clip, start, end in film.parts:
            in_film = truth.setdefault(clip.caption, {}).setdefault(film.path.name, [])
            in_film.append((start, end))
    duration = {film.path.name: film.duration_seconds for film in films}
    queries = [
        MomentQuery(
            query_id=f"{name}: {caption}",
            text=caption,
            video=name,
            duration_seconds=duration[name],
            windows=tuple(windows),
            elsewhere=tuple(
                (other, tuple(theirs)) for other, theirs in by_film.items() if other != name
            ),
        )
        for caption, by_film in truth.items()
        for name, windows in by_film.items()
    ]
    return Annotations(f"{len(films)} films", "films", tuple(queries))


def evaluate_films(
    clips: Sequence[Clip],
    create: "Callable[[Path], Collection]",
    *,
    num_films: int = 10,
    clips_per_film: int = 20,
    seed: int = 0,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> MomentReport:
    """Makes films of clips, ingests them, and asks for every caption.

    Films and collection are temporary. More films make the figures steadier against the order of
    clips; their intervals narrow only with more clips.

    Args:
        clips: from `read_clips`.
        create: makes an empty collection in a new folder, as `Collection.create` does: there the
            model is chosen and how densely films are looked at.
        num_films: as of `make_films`, and so `clips_per_film` and `seed`.
        clips_per_film: clips joined into a film.
        seed: the same seed gives the same films.
        on_progress: called with (what is done: `films`, `files` or `questions`; how many; of how
            many).

    Raises:
        MediaError: a clip cannot be decoded.
        PerceptionSearchError: what `create` raises.
    """

    def progress(what: str) -> Callable[[int, int], None] | None:
        return None if on_progress is None else partial(on_progress, what)

    with tempfile.TemporaryDirectory(prefix="perception-search-") as scratch:
        folder = Path(scratch) / "films"
        collection = create(Path(scratch) / "films.ps")
        films = make_films(
            clips,
            folder,
            num_films=num_films,
            clips_per_film=clips_per_film,
            seed=seed,
            on_progress=progress("films"),
        )
        collection.ingest(folder, on_progress=progress("files"))
        return evaluate_moments(
            collection, film_annotations(films), on_progress=progress("questions")
        )


# Making one film


def _joined(clips: Sequence[Clip], path: Path) -> tuple[Part, ...]:
    """Writes the clips one after another as one video; where each is in it."""
    import av

    counts = dict.fromkeys(range(len(clips)), 0)
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=_FRAMES_PER_SECOND)
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "20"}
        for index, (number, pixels) in enumerate(_frames(clips)):
            counts[number] += 1
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, _FRAMES_PER_SECOND)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    ends = (np.cumsum(list(counts.values())) / _FRAMES_PER_SECOND).tolist()
    return tuple(
        Part(clip, start, end) for clip, start, end in zip(clips, [0.0, *ends], ends, strict=False)
    )


def _frames(clips: Sequence[Clip]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The number of the clip and its pixels (H, W, 3), for each frame of the film in order.

    One worker decodes one clip after another, so that never more than some frames are in memory.
    """
    spec = FrameSpec(_HEIGHT, _WIDTH)
    sampling = Sampling(float(_FRAMES_PER_SECOND), num_uniform_frames=1)
    number = 0
    with DecodePool(spec, sampling, num_workers=1) as pool:
        for event in pool.decode([clip.path for clip in clips]):
            shown = display(clips[number].path)
            match event:
                case Failed():
                    raise MediaError(event.outcome, f"{shown} cannot be used: {event.reason}")
                case Restarted():
                    raise MediaError("crashed", f"{shown} cannot be used: it crashed its decoder")
                case Decoded():
                    on_grid = event.frames.pixels[event.frames.on_grid]
                    for pixels in on_grid.transpose(0, 2, 3, 1):  # (T, 3, H, W) -> (T, H, W, 3)
                        yield number, np.ascontiguousarray(pixels)
                    number += event.last
                case _:
                    pass
