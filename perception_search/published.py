"""Scores that the authors of models published, with their source; measures nothing.

The figures stand in `published.toml`.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType


@dataclass(frozen=True)
class ScoreTable:
    """Scores of several models on the same benchmarks, as one source gives them.

    Attributes:
        source: where they stand.
        benchmarks: names of the columns.
        rows: the scores of each model, by its name as released, in percent; NaN where the source
            has none.
        title: what is measured.
        evaluator: who measured.
        by_others: who measured a model where that was somebody else.
        elsewhere: with what the columns are measured, where `eval` here does not.
    """

    source: str
    benchmarks: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]
    title: str = ""
    evaluator: str = ""
    by_others: Mapping[str, str] = field(default_factory=dict)
    elsewhere: str = ""

    def scores(self, model: str) -> dict[str, float]:
        """The scores of a model by benchmark, in percent; empty where the source has none."""
        pairs = zip(self.benchmarks, self.rows.get(model, ()), strict=model in self.rows)
        return {benchmark: score for benchmark, score in pairs if not math.isnan(score)}


def _tables() -> dict[str, ScoreTable]:
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    tables = {}
    for entry in tomllib.loads(text)["table"]:
        rows = {model: tuple(map(float, scores)) for model, scores in entry["rows"].items()}
        tables[entry["name"]] = ScoreTable(
            source=entry["source"],
            benchmarks=tuple(entry["benchmarks"]),
            rows=MappingProxyType(rows),
            title=entry["title"],
            evaluator=entry["evaluator"],
            by_others=MappingProxyType(entry.get("by_others", {})),
            elsewhere=entry.get("elsewhere", ""),
        )
    return tables


TABLES: Mapping[str, ScoreTable] = MappingProxyType(_tables())
"""Every table, by a name of ours."""

MODEL_CARDS = TABLES["model-cards"]
"""Without training on the benchmark: the share of pictures or videos given the right class, and for
COCO and VTT the share of captions whose own picture or video is found first (recall@1)."""


def published(model: str, benchmark: str) -> float | None:
    """What was published of a PE model, or one that PE's paper compares with, in percent.

    Args:
        model: its name as released.
        benchmark: a column of the model cards, or of the paper's tables: `IN-R`, `Flickr I2T`.
    """
    for name in ("model-cards", "image", "video"):
        scores = TABLES[name].scores(model)
        if benchmark in scores:
            return scores[benchmark]
    return None
