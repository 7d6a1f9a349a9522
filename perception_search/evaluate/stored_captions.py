"""The captions that a collection holds, against those that people wrote of the same media."""

from dataclasses import asdict, dataclass
from typing import Any

from perception_search.caption_metrics import Tokenizer, cider
from perception_search.errors import QueryError
from perception_search.evaluate.captions import Captions
from perception_search.named_items import NamedItems
from perception_search.snapshot import Snapshot


@dataclass(frozen=True)
class CaptionsReport:
    """How good captions are.

    Attributes:
        cider: CIDEr-D of the first caption of each item; 1 is what papers print as 100.
        num_captions: items scored.
        num_without: media of the references that are not in the collection or have no caption.
        tokenizer: how words were told apart; `ptb` in published figures.
    """

    cider: float
    num_captions: int
    num_without: int
    tokenizer: Tokenizer

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return asdict(self)


def evaluate_captions(
    snapshot: Snapshot, references: Captions, *, tokenizer: Tokenizer | None = None
) -> CaptionsReport:
    """Score the stored captions by CIDEr.

    Args:
        snapshot: of the collection.
        references: what people wrote.
        tokenizer: as for `caption_metrics.cider`.

    Raises:
        QueryError: fewer than two items have both, or a name fits several items.
        MissingExtra: pycocoevalcap is not installed.
    """
    items = NamedItems(snapshot)
    known = snapshot.captions_of(snapshot.live_items["content_hash"].to_pylist())
    texts: dict[str, list[str]] = {}
    for text, owner in zip(references.texts, references.owner, strict=True):
        texts.setdefault(references.names[owner], []).append(text)
    truths: dict[str, list[str]] = {}
    num_without = 0
    for name, some in texts.items():
        content_hash = items.find(name) if items.fitting(name) else ""
        if content_hash in known:
            truths[content_hash] = some
        else:
            num_without += 1
    if len(truths) < 2:
        raise QueryError("fewer than two of the pictures named are here and have a caption")
    written = [known[content_hash][0].text for content_hash in truths]
    score, how = cider(written, list(truths.values()), tokenizer=tokenizer)
    return CaptionsReport(score, len(truths), num_without, how)
