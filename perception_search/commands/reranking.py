"""What `search` does with --rerank: makes the judge, and shows how far it is."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception_search.commands.language import language_model
from perception_search.media import display
from perception_search.show import say

if TYPE_CHECKING:
    from perception_search.hits import Hit, Hits
    from perception_search.reranking import Reranked, SecondLook

Rerank = Annotated[
    int | None,
    typer.Option(min=1, help="Have a second model judge this many of the best hits."),
]
Budget = Annotated[
    str | None, typer.Option("--rerank-budget", help="Seconds for that at most: 10s, 2m.")
]
RerankerName = Annotated[
    str,
    typer.Option(
        "--reranker",
        help="Perception-LM-1B, -3B, -8B, a folder of one, hf:NAME, or a larger PE-Core model.",
    ),
]
RerankerWeights = Annotated[
    Path | None, typer.Option(help="A larger PE-Core model's weights, if not the hub's.")
]
Detail = Annotated[
    str,
    typer.Option(
        "--rerank-detail", help="low, or high: 36 tiles of a picture, 32 frames of a video."
    ),
]

_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(s|m|h)?")
_SECONDS = {None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Reranking:
    """What was asked for; `prepared` before the search, since a licence comes first."""

    name: str
    look: "SecondLook"

    def of(self, hits: "Sequence[Hit]", query: str, k: int) -> "Hits":
        """The best `k` hits after a second look; how it goes is told on stderr."""
        from perception_search.hits import Hits

        told = False
        state: Reranked | None = None
        for state in self.look.at(hits, query):
            if state.num_judged == 0:
                self._first_look(state)
            elif not told and state.predicted_seconds is not None:
                told = True
                budget = self.look.budget_seconds
                limit = "" if budget is None else f"; {budget:g} s given"
                say(
                    f"{self.name}: about {state.predicted_seconds:.1f} s for "
                    f"{state.num_to_judge} hits{limit}."
                )
        assert state is not None
        for file in state.unusable:
            say(f"not judged: {display(str(file.path))}: {file.reason}")
        if state.problem is not None:
            say(f"{state.problem}.")
        else:
            say(f"{self.name} judged {state.num_judged} of {len(hits)} hits.")
        return Hits(state.hits[:k])

    def _first_look(self, state: "Reranked") -> None:
        """The first hits at once, for who watches."""
        if not sys.stderr.isatty():
            return
        say("So far:")
        for hit in state.hits[:5]:
            say(f"  {hit.score:.3f}  {display(str(hit.path))}")


def prepared(
    collection_path: Path,
    *,
    depth: int | None,
    budget: str | None,
    name: str,
    detail: str,
    accept_license: bool,
    weights: Path | None,
    device: str,
    dtype: str,
) -> Reranking | None:
    """The judge, loaded; None where none was asked for.

    Raises:
        LicenceNotAccepted: before anything else.
        ValueError: the budget is no time.
    """
    if depth is None:
        return None
    seconds = None if budget is None else _seconds(budget)
    from perception_search.encoder.config import MODELS
    from perception_search.reranking import SecondLook

    reranker: Any
    if name in MODELS or name == "starter":
        from perception_search.encoder import load_encoder
        from perception_search.rerank_encoder import EncoderReranker

        encoder = load_encoder(name, weights=weights, device=device, dtype=dtype)
        reranker = EncoderReranker(collection_path, encoder)
    else:
        reranker = language_model(
            name, accept_license=accept_license, device=device, dtype=dtype, detail=detail
        )
    return Reranking(name, SecondLook(reranker, depth, seconds))


def _seconds(text: str) -> float:
    match = _TIME.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if seconds <= 0:
        raise ValueError(f"--rerank-budget {text}: give a time above 0, such as 10s or 2m")
    return seconds
