"""What a search finds; knows neither how nor where."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    import pandas as pd

    from perception_search.snapshot import Caption


@dataclass(frozen=True)
class Hit:
    """One item that was found, at its best moment; or one moment of a video.

    Attributes:
        row_id: the stored row that scored best, or that holds the moment's best frame; never given
            to another row.
        path: a file that holds the item; the first of them where there are copies.
        kind: `image` or `video`.
        score: cosine similarity of the query to the row, or to the moment's frames, less what
            `minus` took; higher is better.
        start_seconds: for a video, where its best moment begins; else None.
        end_seconds: the first instant after it.
        best_seconds: when the frame is shown that is most like the query.
        caption: what the item shows in words, where the collection has captions; of several the
            one that was found, or else the one that shares most time with the hit.
        caption_model: what wrote it; `own` for a person.
        caption_licence: what it may be used for; `own` where that is the owner's business.
        vector_rank: the place among the hits by vectors, from 1, where two rankings were fused;
            None where it was too far down to count.
        word_rank: the place among the hits by words of captions, in the same way.
        relevance: where it was asked for, the share of everyday captions that find nothing as good
            here for themselves, 0 to 1; see `perception_search.relevance`.
        rerank_score: a second opinion on the score, where one was asked for.
    """

    row_id: int
    path: Path
    kind: str
    score: float
    start_seconds: float | None = None
    end_seconds: float | None = None
    best_seconds: float | None = None
    caption: str | None = None
    caption_model: str | None = None
    caption_licence: str | None = None
    vector_rank: int | None = None
    word_rank: int | None = None
    rerank_score: float | None = None
    relevance: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON; a name that is no text keeps its surrogates."""
        return asdict(self) | {"path": str(self.path)}


class CaptionFields(TypedDict, total=False):
    """The fields of a hit that tell of its caption."""

    caption: str
    caption_model: str
    caption_licence: str


def caption_fields(
    captions: "Sequence[Caption]", start_seconds: float = 0.0, end_seconds: float = math.inf
) -> CaptionFields:
    """The fields of the caption that shares most time with a stretch; the first of several, and
    none where there is no caption. One of the whole item shares all of it.
    """

    def shared(caption: "Caption") -> float:
        if caption.start_seconds is None or caption.end_seconds is None:
            return end_seconds - start_seconds
        return min(caption.end_seconds, end_seconds) - max(caption.start_seconds, start_seconds)

    if not captions:
        return {}
    chosen = max(captions, key=shared)
    return {
        "caption": chosen.text,
        "caption_model": chosen.model,
        "caption_licence": chosen.licence,
    }


class Hits(list[Hit]):
    """Hits, best first."""

    def to_pandas(self) -> "pd.DataFrame":
        """One row a hit, one column a field of `Hit`, `path` as text."""
        import pandas as pd

        return pd.DataFrame([hit.as_dict() for hit in self], columns=list(Hit.__annotations__))


def clock(seconds: float) -> str:
    """A time as people read it, to a tenth of a second: `00:01:12.4`."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 10:02d}.{rest % 10}"
