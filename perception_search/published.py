"""Scores that the authors of models published, with their source; measures nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class ScoreTable:
    """Scores of several models on the same benchmarks, as one source gives them.

    Attributes:
        source: where they stand.
        benchmarks: names of the columns, as the source has them.
        rows: the scores of each model, by its name as released, in percent.
    """

    source: str
    benchmarks: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]

    def scores(self, model: str) -> dict[str, float]:
        """The scores of a model by benchmark, in percent; empty where the source has none."""
        return dict(zip(self.benchmarks, self.rows.get(model, ()), strict=model in self.rows))


MODEL_CARDS = ScoreTable(
    source="the models' cards on the Hugging Face hub; arXiv 2504.13181, tables 5 and 6",
    benchmarks=("IN-1k", "IN-v2", "IN-A", "ObjectNet", "COCO T2I", "K400", "VTT T2V"),
    rows=MappingProxyType(
        {
            "PE-Core-T16-384": (62.1, 54.7, 21.1, 43.9, 33.0, 41.5, 28.8),
            "PE-Core-S16-384": (72.7, 65.0, 49.5, 60.0, 42.6, 55.0, 39.3),
            "PE-Core-B16-224": (78.4, 71.7, 62.4, 71.9, 50.9, 65.6, 47.6),
            "PE-Core-L14-336": (83.5, 77.9, 89.0, 84.7, 57.1, 73.4, 50.3),
            "PE-Core-G14-448": (85.4, 80.2, 92.6, 88.2, 58.1, 76.9, 51.2),
        }
    ),
)
"""Without training on the benchmark: the share of pictures or videos given the right class, and for
COCO and VTT the share of captions whose own picture or video is found first (recall@1)."""
