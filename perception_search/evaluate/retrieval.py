"""Retrieval of pictures and videos by their captions: PE's protocol, and what a search finds.

Media are taken into a collection exactly as the reference reads them: no turning by EXIF, no JPEG
decoded at reduced size, whole videos by eight frames `int(i * (N - 1) / 7)`. Scored are unit
embeddings of pictures, and of videos the mean of unit frames, which is not of unit length. The
published figures are re-weighted over all captions; a search of one query cannot be, so what it
finds stands in a column of its own.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from perception_search import ingest as ingesting
from perception_search import media as media_files
from perception_search import tables, zero_shot
from perception_search.collection import Collection
from perception_search.errors import QueryError
from perception_search.evaluate.captions import Captions, find_media
from perception_search.media import absolute, display
from perception_search.metrics import bootstrap_interval
from perception_search.published import MODEL_CARDS
from perception_search.survey import Options
from perception_search.writer import Writer

if TYPE_CHECKING:
    from perception_search.snapshot import Snapshot

Kind = Literal["image", "video"]
BENCHMARKS = {"coco": "COCO T2I", "msrvtt": "VTT T2V"}
"""The column of the model cards for each data set."""
SIZES = {"coco": (5000, 25_010), "coco-val2017": (5000, 25_014), "msrvtt": (1000, 1000)}
"""Media and captions of the whole data set: only then a published figure stands beside."""
HEADLINE = "re-weighted, own"
_SCORES: Mapping[str, float | None] = {"re-weighted": 1.0, "plain": None}
_MOST_NAMED = 5


@dataclass(frozen=True)
class RetrievalReport:
    """Figures of one evaluation; shares are fractions of 1.

    Attributes:
        dataset: `coco`, `coco-val2017`, `msrvtt`, or another name.
        model: what embedded.
        kind: `image` or `video`.
        num_media: media compared.
        num_captions: captions asked.
        num_missing: media of the annotations that were not there, and were left out.
        unreadable: media that could not be read, with the reason; they were left out.
        figures: by way of scoring, by CLIP_benchmark's names. `search` is what the collection's
            own search finds for each caption, by raw cosine, `own` captions.
        intervals: 95 % bootstrap intervals of the headline's recall@1; captions of one picture
            are drawn together.
        index: what `search` was answered by.
        published: recall@1 of the model card in percent, where this is the same set.
        seconds: of scoring, embedding not counted.
    """

    dataset: str
    model: str
    kind: Kind
    num_media: int
    num_captions: int
    num_missing: int
    unreadable: Mapping[str, str]
    figures: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, tuple[float, float]]
    index: str
    published: float | None
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
        """A Markdown table, shares in %.

        Args:
            explain: every way of scoring, not the headline, the plain products and the search.
        """
        ways = [way for way in self.figures if explain or way in (HEADLINE, "plain, own", "search")]
        lines = [
            f"{self.dataset}, {self.model}: {self.num_captions} captions of {self.num_media} "
            f"{self.kind}s; scored in {self.seconds:.1f} s",
            "",
            "| | " + " | ".join([*ways, "published", "difference"]) + " |",
            "|---" * (len(ways) + 3) + "|",
        ]
        for measure in self.figures[HEADLINE]:
            values = [self.figures[way].get(measure) for way in ways]
            cells = ["-" if value is None else f"{100 * value:.1f}" for value in values]
            is_published = measure == f"{self.kind}_retrieval_recall@1" and self.published
            if is_published:
                difference = 100 * self.figures[HEADLINE][measure] - (self.published or 0)
                cells += [f"{self.published}", f"{difference:+.1f}"]
            else:
                cells += ["", ""]
            lines.append(f"| {measure} | " + " | ".join(cells) + " |")
        for measure, (low, high) in self.intervals.items():
            lines.append(f"\n{measure}, 95 % interval: {100 * low:.1f} to {100 * high:.1f}")
        lines.append(f"\n`search`: the collection's own, {self.index}, by cosine.")
        return "\n".join(lines)


def evaluate_retrieval(
    collection: Collection,
    captions: Captions,
    folder: Path,
    *,
    dataset: str,
    allow_missing: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> RetrievalReport:
    """Take the media into the collection, as far as they are not there, and score.

    Args:
        collection: holds these media and no others; a stopped run is gone on with.
        captions: of the data set.
        folder: holds the media, at any depth.
        dataset: its name.
        allow_missing: leave out media that are not there, and count them.
        on_progress: called with (files done, files in all).

    Raises:
        QueryError: media are missing, or the collection holds others.
    """
    found = find_media(captions.names, folder)
    missing = [name for name in captions.names if name not in found]
    if missing and (not allow_missing or not found):
        named = ", ".join(map(display, missing[:_MOST_NAMED]))
        raise QueryError(
            f"{len(found)} of {len(captions.names)} files were found below {display(folder)}; "
            f"missing are {named}{' and others' * (len(missing) > _MOST_NAMED)}. Leave them out "
            "with --allow-missing."
        )
    paths = {name: absolute(path) for name, path in found.items()}
    reasons = _ingest(collection, sorted(paths.values()), on_progress)
    snapshot = collection.snapshot
    kind, rows = _rows_of(snapshot, paths)
    others = snapshot.live_items.num_rows - len(set(rows.values()))
    if others:
        raise QueryError(
            f"{collection.path} holds {others} other items; an evaluation needs one of its own"
        )
    scored = captions.only(rows)
    positions = np.array([rows[name] for name in scored.names], np.int64)
    media = snapshot.rows.embeddings(positions)
    if kind == "video":
        media = media * snapshot.rows.norm[positions][:, None]
    texts = np.stack([embedding for _, embedding in collection.query_encoder().texts(scored.texts)])
    start = time.perf_counter()
    figures, intervals = _scored(texts, media, scored, kind)
    seconds = time.perf_counter() - start
    figures["search"] = _searched(collection, scored, snapshot.rows.row_id[positions], kind)
    record = collection.info()["index"]
    card = MODEL_CARDS.scores(collection.identity.model).get(BENCHMARKS.get(dataset, ""))
    is_whole = SIZES.get(dataset) == (len(scored.names), len(scored.texts))
    return RetrievalReport(
        dataset=dataset,
        model=collection.identity.model,
        kind=kind,
        num_media=len(scored.names),
        num_captions=len(scored.texts),
        num_missing=len(missing),
        unreadable=reasons,
        figures=figures,
        intervals=intervals,
        index=record["recipe"] if record else "exact",
        published=card if is_whole else None,
        seconds=seconds,
    )


def _ingest(
    collection: Collection,
    files: Sequence[Path],
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, str]:
    """Take files in as the reference reads them; what could not be read, and why."""
    with Writer(collection.path) as writer:
        report = ingesting.ingest(
            writer,
            collection.encoder_for("vision"),
            list(media_files.find(files)),
            files,
            Options(fast_jpeg=False),
            sampling=collection.sampling,
            segmentation=collection.segmentation,
            apply_exif=False,
            on_progress=on_progress,
        )
    return {display(file.path): file.reason or file.outcome for file in report.failed}


def _rows_of(snapshot: "Snapshot", paths: Mapping[str, Path]) -> tuple[Kind, dict[str, int]]:
    """What the media are, and the position of each one's row that stands for all of it."""
    records = snapshot.path_records
    hashes = {
        name: records[path].content_hash
        for name, path in paths.items()
        if path in records and records[path].outcome == "ingested"
    }
    kinds = set(snapshot.live_items["kind"].to_pylist())
    if len(kinds) != 1:
        raise QueryError(f"{snapshot.folder} holds {' and '.join(sorted(kinds)) or 'nothing'}")
    kind: Kind = "video" if kinds == {"video"} else "image"
    scope = tables.VIDEO if kind == "video" else tables.IMAGE
    wanted = np.flatnonzero(snapshot.rows.scope == scope)
    of_rows = snapshot.rows.content_hash.take(wanted).to_pylist()
    place = dict(zip(of_rows, wanted.tolist(), strict=True))
    return kind, {name: place[one] for name, one in hashes.items() if one in place}


def _scored(
    texts: NDArray[np.float32], media: NDArray[np.float32], captions: Captions, kind: Kind
) -> tuple[dict[str, dict[str, float]], dict[str, tuple[float, float]]]:
    owner = np.array(captions.owner, np.int64)
    scores = texts @ media.T
    rights = [zero_shot.right_media(captions.texts, owner, rule) for rule in zero_shot.RULES]
    others = [zero_shot.right_captions(right, len(media)) for right in rights]
    figures, intervals = {}, {}
    for said, reweight in _SCORES.items():
        of_texts = zero_shot.ranks(scores, *rights, reweight=reweight)
        of_media = zero_shot.ranks(scores.T, *others, reweight=reweight)
        for rule, asked, answered in zip(zero_shot.RULES, of_texts, of_media, strict=True):
            figures[f"{said}, {rule}"] = zero_shot.recalls(asked, answered, kind=kind)
            if f"{said}, {rule}" == HEADLINE:
                groups = [captions.names[one] for one in captions.owner]
                interval = bootstrap_interval(asked == 1, groups=groups)
                intervals[f"{kind}_retrieval_recall@1"] = interval
    return figures, intervals


def _searched(
    collection: Collection, captions: Captions, row_ids: NDArray[np.int64], kind: Kind
) -> dict[str, float]:
    """Recall of the collection's own search, captions looking for media."""
    k = min(max(zero_shot.KS), len(row_ids))
    found: list[int] = []
    own: Sequence[int] = [int(row_ids[one]) for one in captions.owner]
    answers = collection.search_many(list(captions.texts), k=k, whole=kind == "video")
    for hits, right in zip(answers, own, strict=True):
        ids = [hit.row_id for hit in hits]
        found.append(ids.index(right) + 1 if right in ids else k + 1)
    ranks = np.array(found)
    return {
        f"{kind}_retrieval_recall@{k}": zero_shot.recall(ranks, k)
        for k in zero_shot.KS
        if k <= len(row_ids)
    }
