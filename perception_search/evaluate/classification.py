"""Zero-shot classification by PE's protocol: pictures and videos against prompts of class names.

A class is the mean of its prompts' unit embeddings, made unit; a picture its unit embedding; a
video the mean of its eight frames as they are, made unit. Source: `apps/pe/clip_benchmark` of
perception_models. What the reference does with an unreadable video, another in its place, is not
done: it is left out, named and counted.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_search import zero_shot
from perception_search.collection import Collection
from perception_search.errors import QueryError
from perception_search.evaluate.class_sets import BENCHMARKS, ClassSet
from perception_search.evaluate.embeddings import (
    TakenIn,
    class_vectors,
    grid_means,
    take_in,
    whole_rows,
)
from perception_search.metrics import bootstrap_interval
from perception_search.published import published

_PLAIN = "a photo of a {c}."


@dataclass(frozen=True)
class ClassificationReport:
    """Figures of one evaluation; shares are fractions of 1.

    Attributes:
        dataset: `imagenet`, ..., or another name.
        model: what embedded.
        kind: `image` or `video`.
        preprocessing: how pixels were made, one line.
        num_media: media classified.
        num_classes: classes to choose from.
        num_missing: files that should be there and are not, or folders where files differ.
        unreadable: media that could not be read, with the reason; they were left out.
        figures: by way of scoring, the published protocol first, CLIP_benchmark's `acc1`, `acc5`
            and `mean_per_class_recall`.
        intervals: 95 % bootstrap intervals of the first way's `acc1` and `acc5`.
        published: accuracy in percent that the model's authors give, where this is the same set,
            but for what is unreadable or, of videos, missing.
        num_embedded: media embedded by this run; others were in the collection.
        embedding_seconds: that took.
        seconds: of scoring.
    """

    dataset: str
    model: str
    kind: str
    preprocessing: str
    num_media: int
    num_classes: int
    num_missing: int
    unreadable: Mapping[str, str]
    figures: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, tuple[float, float]]
    published: float | None
    num_embedded: int
    embedding_seconds: float
    seconds: float

    @property
    def headline(self) -> Mapping[str, float]:
        """The figures by the published protocol."""
        return next(iter(self.figures.values()))

    @property
    def difference(self) -> float | None:
        """Percentage points between `acc1` and the published figure."""
        return None if self.published is None else 100 * self.headline["acc1"] - self.published

    def as_dict(self) -> dict[str, Any]:
        """CLIP_benchmark's fields, with all else beside them; None for what is no number."""
        fields = asdict(self)
        fields["figures"] = {way: _numbers(figures) for way, figures in self.figures.items()}
        return {
            "dataset": self.dataset,
            "model": self.model,
            "pretrained": self.model,
            "task": "zeroshot_classification",
            "metrics": _numbers(self.headline),
            "language": "en",
            **{name: fields[name] for name in fields if name not in ("dataset", "model")},
        }

    def table(self, *, explain: bool = False) -> str:
        """A Markdown table, shares in %.

        Args:
            explain: every way of scoring, one a column, not the published protocol alone.
        """
        ways = list(self.figures) if explain else list(self.figures)[:1]
        lines = [
            f"{self.dataset}, {self.model}: {self.num_media} {self.kind}s of {self.num_classes} "
            f"classes; {self._speed()}",
            "",
            "| | " + " | ".join([*ways, "published", "difference"]) + " |",
            "|---" * (len(ways) + 3) + "|",
        ]
        for measure in self.headline:
            cells = [_percent(self.figures[way][measure]) for way in ways]
            stands = measure == "acc1" and self.difference is not None
            cells += [f"{self.published}", f"{self.difference:+.1f}"] if stands else ["", ""]
            lines.append(f"| {measure} | " + " | ".join(cells) + " |")
        for measure, (low, high) in self.intervals.items():
            lines.append(f"\n{measure}, 95 % interval: {100 * low:.1f} to {100 * high:.1f}")
        if self.published is not None:
            border = " and without its red frame" * (self.dataset == "objectnet")
            lines.append(f"\nPublished is the better of squash and centre crop{border}.")
        return "\n".join(lines)

    def _speed(self) -> str:
        if not self.num_embedded:
            return f"none embedded anew, scored in {self.seconds:.1f} s"
        rate = self.num_embedded / max(self.embedding_seconds, 1e-9)
        return (
            f"{self.num_embedded} embedded in {self.embedding_seconds:.1f} s, {rate:.1f} a second, "
            f"scored in {self.seconds:.1f} s"
        )


def evaluate_classes(
    collection: Collection,
    class_set: ClassSet,
    *,
    beside: Mapping[str, Collection] | None = None,
    allow_missing: bool = False,
    explain: bool = False,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> ClassificationReport:
    """Take the media into the collection, as far as they are not there, and classify them.

    Args:
        collection: of any model with a text tower.
        class_set: the media and their classes.
        beside: with `explain`, collections of the same media made ready otherwise, by what was
            done; those that do not hold all of them are passed over.
        allow_missing: go on with what is there.
        explain: score in every way that these embeddings allow: all prompts, one prompt, the bare
            names; of videos the time grid's frames too.
        on_progress: called with (files or classes, done, in all).

    Raises:
        QueryError: media are missing, none can be read, or `class_set` is empty.
    """
    if not allow_missing:
        class_set.check()
    if not class_set.paths:
        raise QueryError(f"{class_set.dataset}: there are no media to classify")
    show = on_progress or (lambda *_: None)
    labels = [class_set.class_names[label] for label in class_set.labels]
    taken = take_in(
        collection,
        class_set.paths,
        {"label": labels},
        lambda done, total: show("files", done, total),
    )
    snapshot = collection.snapshot
    positions = whole_rows(snapshot, class_set.paths)
    is_in = positions >= 0
    if not is_in.any():
        reason = next(iter(taken.unreadable.values()), "")
        raise QueryError(f"{class_set.dataset}: no file could be read; of the first: {reason}")
    right = np.array(class_set.labels, np.int64)[is_in]
    media = _media(collection, positions[is_in], class_set, explain=explain)
    if explain:
        for said, other in (beside or {}).items():
            there = whole_rows(other.snapshot, class_set.paths)[is_in]
            if (there >= 0).all():
                media[said] = other.snapshot.rows.embeddings(there)
    prompts = _prompts(class_set, explain=explain)
    classes = {
        said: class_vectors(
            collection,
            class_set.class_names,
            some,
            lambda done, total: show("classes", done, total),
        )
        for said, some in prompts.items()
    }
    return _report(collection, class_set, taken, media, classes, right)


def _report(
    collection: Collection,
    class_set: ClassSet,
    taken: TakenIn,
    media: Mapping[str, NDArray[np.float32]],
    classes: Mapping[str, NDArray[np.float32]],
    right: NDArray[np.int64],
) -> ClassificationReport:
    start = time.perf_counter()
    figures: dict[str, dict[str, float]] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for how, embeddings in media.items():
        for said, vectors in classes.items():
            found = zero_shot.class_ranks(embeddings, vectors, right)
            if not figures:
                intervals["acc1"] = bootstrap_interval(found == 1)
                if len(vectors) >= 5:
                    intervals["acc5"] = bootstrap_interval(found <= 5)
            way = f"{how}, {said}"
            figures[way] = zero_shot.accuracies(found, right, len(vectors))
    known = BENCHMARKS.get(class_set.dataset)
    given = published(collection.identity.model, known.column) if known else None
    return ClassificationReport(
        dataset=class_set.dataset,
        model=collection.identity.model,
        kind=class_set.kind,
        preprocessing=collection.identity.preprocessing,
        num_media=len(right),
        num_classes=len(class_set.class_names),
        num_missing=class_set.num_missing,
        unreadable=taken.unreadable,
        figures=figures,
        intervals=intervals,
        published=given if class_set.is_comparable else None,
        num_embedded=taken.num_embedded,
        embedding_seconds=taken.seconds,
        seconds=time.perf_counter() - start,
    )


def _media(
    collection: Collection, positions: NDArray[np.int64], class_set: ClassSet, *, explain: bool
) -> dict[str, NDArray[np.float32]]:
    """The embeddings (N, dim), by how they were made."""
    snapshot = collection.snapshot
    embeddings = snapshot.rows.embeddings(positions)
    if class_set.kind == "image":
        spec = collection.encoder_for("vision").frame_spec
        return {ready(spec.resize, spec.border): embeddings}
    pooling = "raw frames" if collection.identity.pools_raw_frames else "unit frames"
    media = {f"{collection.sampling.num_uniform_frames} frames, {pooling}": embeddings}
    if explain:
        rate = f"{collection.sampling.frames_per_second:g} a second"
        for said, means in grid_means(snapshot, positions).items():
            media[f"{rate}, {said}"] = means
    return media


def ready(resize: str, border: int) -> str:
    """How a picture is made ready, in words: `squash`, or `centre crop without border`."""
    return resize.replace("_", " ") + " without border" * bool(border)


def _prompts(class_set: ClassSet, *, explain: bool) -> dict[str, tuple[str, ...]]:
    every = class_set.templates
    prompts = {f"{len(every)} prompts" if len(every) > 1 else f"{every[0]!r}": every}
    if explain:
        one = _PLAIN if _PLAIN in every else every[0]
        if len(every) > 1:
            prompts[f"{one!r}"] = (one,)
        if every != ("{c}",):
            prompts["bare names"] = ("{c}",)
    return prompts


def _numbers(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
