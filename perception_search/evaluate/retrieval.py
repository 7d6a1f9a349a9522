"""Retrieval of pictures and videos by their captions: PE's protocol, and what a search finds.

Scored are unit embeddings of pictures, and of videos the mean of unit frames, which is not of unit
length. The published figures are re-weighted over all captions; a search of one query cannot be,
so what it finds stands in columns of its own.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_search import zero_shot
from perception_search.collection import Collection
from perception_search.errors import QueryError
from perception_search.evaluate.caption_sets import CAPTION_SETS
from perception_search.evaluate.captions import VIDEO_SUFFIXES, Captions, find_media
from perception_search.evaluate.embeddings import TakenIn, grid_means, take_in, whole_rows
from perception_search.evaluate.ways import ask_in_every_way, items_of
from perception_search.media import display
from perception_search.metrics import bootstrap_interval
from perception_search.published import published

HEADLINE = "re-weighted, own"
"""The way of scoring that figures were published by."""
_SCORES: Mapping[str, float | None] = {"re-weighted": 1.0, "plain": None}
_SHOWN = (HEADLINE, "plain, own")
_MOST_NAMED = 5


@dataclass(frozen=True)
class RetrievalReport:
    """Figures of one evaluation; shares are fractions of 1.

    Attributes:
        dataset: `coco`, `msrvtt`, ..., or another name.
        model: what embedded.
        kind: `image` or `video`.
        preprocessing: how pixels were made, and which frames were taken, one line.
        num_media: media compared.
        num_captions: captions asked.
        num_missing: media of the annotations that were not there, and were left out.
        unreadable: media that could not be read, with the reason; they were left out.
        figures: by way of scoring, by CLIP_benchmark's names: re-weighted or plain, captions that
            read the same with their `own` media or `shared` ones; with other embeddings' name
            before it where they were scored too.
        searched: by way of answering, captions looking for media: what the collection's own search
            finds for each, by raw cosine or `normalised`, `own` media.
        intervals: 95 % bootstrap intervals of the headline's recalls@1; captions of one medium are
            drawn together.
        index: what `indexed` was answered by; None where there is no index.
        published: recall@1 of texts that look for media in percent, where this is the same set.
        published_of_media: the same of media that look for texts.
        remarks: what a reader should know of the figures.
        num_embedded: media embedded by this run; others were in the collection.
        embedding_seconds: that took.
        seconds: of scoring.
    """

    dataset: str
    model: str
    kind: zero_shot.Kind
    preprocessing: str
    num_media: int
    num_captions: int
    num_missing: int
    unreadable: Mapping[str, str]
    figures: Mapping[str, Mapping[str, float]]
    searched: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, tuple[float, float]]
    index: str | None
    published: float | None
    published_of_media: float | None
    remarks: tuple[str, ...]
    num_embedded: int
    embedding_seconds: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """CLIP_benchmark's fields, with all else beside them."""
        fields = asdict(self)
        return {
            "dataset": self.dataset,
            "model": self.model,
            "pretrained": self.model,
            "task": "zeroshot_retrieval",
            "metrics": dict(self.figures[HEADLINE]),
            "language": "en",
            **{name: fields[name] for name in fields if name not in ("dataset", "model")},
        }

    def table(self, *, explain: bool = False) -> str:
        """Markdown, shares in %.

        Args:
            explain: after the usual table one with every way of scoring.
        """
        lines = [
            f"{self.dataset}, {self.model}: {self.num_captions} captions of {self.num_media} "
            f"{self.kind}s; {self._speed()}",
            f"{self.preprocessing}",
            "",
            *self._compared(),
            "",
            f"`search`: the collection's own; {self._searched_by()}",
            "By cosine; normalised by cosine less what everyday captions get, for one query alone.",
            *self.remarks,
        ]
        return "\n".join([*lines, *self._explained()] if explain else lines)

    def _compared(self) -> Iterator[str]:
        found = {f"search, {way}": some for way, some in self.searched.items()}
        ways = {way: self.figures[way] for way in _SHOWN} | found
        yield "| | " + " | ".join([*ways, "95 % interval", "published", "difference"]) + " |"
        yield "|---" * (len(ways) + 4) + "|"
        given = {
            f"{self.kind}_retrieval_recall@1": self.published,
            "text_retrieval_recall@1": self.published_of_media,
        }
        for measure, ours in self.figures[HEADLINE].items():
            cells = [_percent(figures.get(measure)) for figures in ways.values()]
            low, high = self.intervals.get(measure, (None, None))
            cells.append("" if low is None else f"{_percent(low)} to {_percent(high)}")
            theirs = given.get(measure)
            cells += ["", ""] if theirs is None else [f"{theirs}", f"{100 * ours - theirs:+.1f}"]
            yield f"| {measure} | " + " | ".join(cells) + " |"

    def _explained(self) -> Iterator[str]:
        measures = list(self.figures[HEADLINE])
        yield ""
        yield "| scored | " + " | ".join(measures) + " |"
        yield "|---" * (len(measures) + 1) + "|"
        for way, figures in self.figures.items():
            yield f"| {way} | " + " | ".join(_percent(figures[one]) for one in measures) + " |"
        yield ""
        yield "Re-weighted: by a softmax over all queries, as published. Plain: products alone."
        yield "Own: a caption's own medium alone is right, as published. Shared: that of every one"
        yield "that reads the same, as PE's evaluator has counted since December 2025."

    def _searched_by(self) -> str:
        if self.kind == "video":
            asked = (
                "`whole` by a video's frames spread over all of it, the others by its best stretch"
            )
        else:
            asked = "every picture compared"
        return f"{asked}; indexed by {self.index}." if self.index else f"{asked}; no index."

    def _speed(self) -> str:
        scored = f"scored in {self.seconds:.1f} s"
        if not self.num_embedded:
            return f"none embedded anew, {scored}"
        rate = self.num_embedded / max(self.embedding_seconds, 1e-9)
        return (
            f"{self.num_embedded} embedded in {self.embedding_seconds:.1f} s, {rate:.1f} a second, "
            f"{scored}"
        )


def find_all(captions: Captions, folder: Path, *, allow_missing: bool) -> dict[str, Path]:
    """Where each medium lies that has captions.

    Args:
        captions: of the data set.
        folder: holds the media, at any depth.
        allow_missing: go on with those that are there.

    Raises:
        QueryError: some are missing, or all.
    """
    if not folder.is_dir():
        raise QueryError(f"{display(folder)} is no folder; it should hold the media")
    found = find_media(captions.names, folder)
    missing = [name for name in captions.names if name not in found]
    if missing and (not allow_missing or not found):
        named = ", ".join(map(display, missing[:_MOST_NAMED]))
        raise QueryError(
            f"{len(found)} of {len(captions.names)} files were found below {display(folder)}; "
            f"missing are {named}{' and others' * (len(missing) > _MOST_NAMED)}. Leave them out "
            "with --allow-missing."
        )
    return found


def evaluate_retrieval(
    collection: Collection,
    captions: Captions,
    folder: Path,
    *,
    dataset: str,
    recipe: str | None = None,
    beside: Mapping[str, Collection] | None = None,
    allow_missing: bool = False,
    explain: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> RetrievalReport:
    """Take the media into the collection, as far as they are not there, and score.

    Args:
        collection: holds these media and no others; a stopped run is gone on with.
        captions: of the data set.
        folder: holds the media, at any depth.
        dataset: its name.
        recipe: of an index to be built first, so that the same can be asked by it.
        beside: with `explain`, collections of the same media made ready otherwise, by what was
            done; those that do not hold all of them are passed over.
        allow_missing: leave out media that are not there, and count them.
        explain: score every set of embeddings that there is, not the protocol's alone.
        on_progress: called with (files done, files in all).

    Raises:
        QueryError: media are missing, or the collection holds others.
    """
    found = find_all(captions, folder, allow_missing=allow_missing)
    by_length = collection.identity.pools_raw_frames
    if by_length and any(path.suffix.lower() in VIDEO_SUFFIXES for path in found.values()):
        raise QueryError(
            f"{collection.path} counts frames by their length; retrieval counts each once"
        )
    taken = take_in(collection, sorted(set(found.values())), on_progress=on_progress)
    snapshot = collection.snapshot
    names = list(found)
    positions = whole_rows(snapshot, [found[name] for name in names])
    in_it = positions >= 0
    names, positions = [n for n, is_in in zip(names, in_it, strict=True) if is_in], positions[in_it]
    kind = _kind(collection)
    if recipe is not None:
        collection.index(recipe)
    num_others = snapshot.live_items.num_rows - len(set(positions.tolist()))
    if num_others:
        raise QueryError(
            f"{collection.path} holds {num_others} other items; an evaluation needs one of its own"
        )
    scored = captions.only(names)
    place = dict(zip(names, positions.tolist(), strict=True))
    positions = np.array([place[name] for name in scored.names], np.int64)
    paths = [found[name] for name in scored.names]
    media = {"": _media(collection, positions, kind)}
    remarks: list[str] = []
    if explain:
        media |= _other_media(collection, positions, kind)
        media |= _media_beside(beside or {}, paths, kind)
        remarks = list(_not_explained(collection, kind, media))
    texts = np.stack([embedding for _, embedding in collection.query_encoder().texts(scored.texts)])
    start = time.perf_counter()
    figures: dict[str, dict[str, float]] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for said, embeddings in media.items():
        some, chance = score(texts, embeddings, scored, kind)
        figures |= {f"{said}; {way}" if said else way: one for way, one in some.items()}
        intervals = intervals or chance
    seconds = time.perf_counter() - start
    return RetrievalReport(
        dataset=dataset,
        model=collection.identity.model,
        kind=kind,
        preprocessing=_preprocessing(collection, kind),
        num_media=len(scored.names),
        num_captions=len(scored.texts),
        num_missing=len(captions.names) - len(found),
        unreadable=taken.unreadable,
        figures=figures,
        searched=_searched(collection, scored, positions, kind),
        intervals=intervals,
        index=_index(collection),
        seconds=seconds,
        **_published(collection, dataset, scored, taken, remarks),
    )


def _published(
    collection: Collection,
    dataset: str,
    captions: Captions,
    taken: TakenIn,
    remarks: Iterable[str],
) -> dict[str, Any]:
    """The fields that depend on which data set this is."""
    known = CAPTION_SETS.get(dataset)
    is_whole = (
        known is not None
        and len(captions.names) == known.num_media
        and known.num_captions in (None, len(captions.texts))
    )
    columns = (known.of_texts, known.of_media) if known is not None and is_whole else ("", "")
    given = [published(collection.identity.model, one) if one else None for one in columns]
    said = list(remarks)
    if known is not None and not is_whole:
        wanted = "" if known.num_captions is None else f" and {known.num_captions:,} captions"
        said.append(
            f"Not all of the set: it has {known.num_media:,} {known.kind}s{wanted}; no published "
            "figure stands beside."
        )
    if known is not None and known.remark:
        said.append(known.remark)
    return {
        "published": given[0],
        "published_of_media": given[1],
        "remarks": tuple(said),
        "num_embedded": taken.num_embedded,
        "embedding_seconds": taken.seconds,
    }


# The embeddings


def _kind(collection: Collection) -> zero_shot.Kind:
    kinds = set(collection.snapshot.live_items["kind"].to_pylist())
    if len(kinds) != 1:
        raise QueryError(f"{collection.path} holds {' and '.join(sorted(kinds)) or 'nothing'}")
    return "video" if kinds == {"video"} else "image"


def _media(
    collection: Collection, positions: NDArray[np.int64], kind: zero_shot.Kind
) -> NDArray[np.float32]:
    rows = collection.snapshot.rows
    embeddings = rows.embeddings(positions)
    return embeddings * rows.norm[positions][:, None] if kind == "video" else embeddings


def _other_media(
    collection: Collection, positions: NDArray[np.int64], kind: zero_shot.Kind
) -> dict[str, NDArray[np.float32]]:
    """What else these rows and their grids give."""
    if kind == "image":
        return {}
    means = grid_means(collection.snapshot, positions)
    rate = f"{collection.sampling.frames_per_second:g} frames a second"
    return {
        "mean made unit": collection.snapshot.rows.embeddings(positions),
        rate: means["unit frames"],
        f"{rate}, counted by their length": means["raw frames"],
    }


def _media_beside(
    beside: Mapping[str, Collection], paths: Sequence[Path], kind: zero_shot.Kind
) -> dict[str, NDArray[np.float32]]:
    media = {}
    for said, other in beside.items():
        positions = whole_rows(other.snapshot, paths)
        if (positions >= 0).all():
            media[said] = _media(other, positions, kind)
    return media


def _not_explained(
    collection: Collection, kind: zero_shot.Kind, media: Mapping[str, Any]
) -> Iterator[str]:
    """What these embeddings cannot say."""
    resize = collection.encoder_for("vision").frame_spec.resize
    other = "centre crop" if resize == "squash" else "squash"
    if not any(other in said for said in media):
        yield (
            f"Not compared: pictures made ready by {other}; run with --resize "
            f"{other.replace(' ', '-')} and it stands beside. Published is the better of both."
        )
    if kind == "video":
        yield (
            "Not compared: the frames int(i * N / n) of PE's demo; no row holds them, the time "
            "grid's do."
        )


def _preprocessing(collection: Collection, kind: zero_shot.Kind) -> str:
    said = collection.identity.preprocessing
    if kind == "image":
        return said
    return f"{said}; {collection.sampling.num_uniform_frames} frames int(i * (N - 1) / (n - 1))"


# The figures


def score(
    texts: NDArray[np.float32],
    media: NDArray[np.float32],
    captions: Captions,
    kind: zero_shot.Kind,
) -> tuple[dict[str, dict[str, float]], dict[str, tuple[float, float]]]:
    """Recalls by every way of scoring, and intervals of the headline's.

    Args:
        texts: (captions, dim), unit length.
        media: (media, dim).
        captions: of the data set.
        kind: of the media.
    """
    owner = np.array(captions.owner, np.int64)
    scores = texts @ media.T
    rights = [zero_shot.right_media(captions.texts, owner, rule) for rule in zero_shot.RULES]
    others = [zero_shot.right_captions(right, len(media)) for right in rights]
    scalings = _SCORES.values()
    of_texts = [zero_shot.ranks(scores, *rights, reweight=scale) for scale in scalings]
    scores = zero_shot.transposed(scores)
    of_media = [zero_shot.ranks(scores, *others, reweight=scale) for scale in scalings]
    figures, intervals = {}, {}
    for said, by_rule, back_by_rule in zip(_SCORES, of_texts, of_media, strict=True):
        for rule, asked, answered in zip(zero_shot.RULES, by_rule, back_by_rule, strict=True):
            figures[f"{said}, {rule}"] = zero_shot.recalls(asked, answered, kind=kind)
            if f"{said}, {rule}" == HEADLINE:
                groups = [captions.names[one] for one in captions.owner]
                interval = bootstrap_interval(asked == 1, groups=groups)
                intervals[f"{kind}_retrieval_recall@1"] = interval
                intervals["text_retrieval_recall@1"] = bootstrap_interval(answered == 1)
    return figures, intervals


def _searched(
    collection: Collection,
    captions: Captions,
    positions: NDArray[np.int64],
    kind: zero_shot.Kind,
) -> dict[str, dict[str, float]]:
    """Recall of the collection's own search by way, captions looking for media."""
    k = min(max(zero_shot.KS), len(positions))
    right = collection.snapshot.item_of_row[positions][list(captions.owner)]
    answered = ask_in_every_way(collection, captions.texts, k=k)
    if kind == "video":
        of_wholes = ask_in_every_way(collection, captions.texts, k=k, whole=True)
        answered = {"whole": of_wholes["exact"]} | answered
    figures = {}
    for way, some in answered.items():
        ranks = np.full(len(right), k + 1)
        for number, hits in enumerate(some.hits):
            place = np.flatnonzero(items_of(collection, hits) == right[number])
            ranks[number] = place[0] + 1 if len(place) else k + 1
        figures[way] = {
            f"{kind}_retrieval_recall@{most}": zero_shot.recall(ranks, most)
            for most in zero_shot.KS
            if most <= k
        }
    return figures


def _index(collection: Collection) -> str | None:
    record = collection.info()["index"]
    return record["recipe"] if record else None


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
