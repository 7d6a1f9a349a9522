"""What a search finds; knows neither how nor where."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


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
        caption: what the item shows in words, where the collection has captions.
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
    rerank_score: float | None = None
    relevance: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON; a name that is no text keeps its surrogates."""
        return asdict(self) | {"path": str(self.path)}


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
