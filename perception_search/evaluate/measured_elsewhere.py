"""Published tables with what was measured beside them: by `eval`, by CLIP_benchmark, by lmms-eval.

Reads their files of results; measures nothing.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from perception_search.errors import QueryError
from perception_search.evaluate.class_names import key
from perception_search.evaluate.class_sets import BENCHMARKS, dataset_of
from perception_search.media import display
from perception_search.published import TABLES, ScoreTable

_RETRIEVAL = {  # the column of a data set, and what it is of
    "coco": ("COCO", "image"),
    "flickr30k": ("Flickr", "image"),
    "msrvtt": ("VTT", "video"),
    "msvd": ("MSVD", "video"),
    "activitynet": ("ActivityNet", "video"),
}
_LMMS_TASKS = {  # beginnings of lmms-eval's names, letters and digits, -> columns
    "infovqa": "InfoQA",
    "coco2017cap": "COCO cap",
    "coco2014cap": "COCO cap",
    "cocokarpathy": "COCO cap",
    "seedbench": "SEED",
    "perceptiontest": "PerceptionTest",
    "charadessta": "Charades-STA",
    "activitynetqa": "ActivityNetQA",
}
_PLM = re.compile(r"Perception-LM-\d+B")
_MODEL = re.compile(r"(?:pretrained|model)=([^,\s]+)")


class Figure(NamedTuple):
    """One figure that somebody measured, in percent, and the file that says so."""

    model: str
    column: str
    percent: float
    file: Path


class TaskFigure(NamedTuple):
    """One figure of lmms-eval, by its own names, and the published column that it belongs to."""

    model: str
    task: str
    metric: str
    value: float
    column: str | None
    published: float | None


def own_results(folder: Path) -> list[Figure]:
    """Figures of the JSON files of `eval --out`, or of CLIP_benchmark, in a folder and below.

    Raises:
        QueryError: the folder has none.
    """
    figures = []
    for file, content in _json_files(folder):
        if "dataset" not in content or not isinstance(content.get("metrics"), dict):
            continue
        dataset = dataset_of(str(content["dataset"]))
        for column, measure in _measures(dataset):
            value = content["metrics"].get(measure)
            if isinstance(value, int | float):
                figures.append(Figure(str(content["model"]), column, 100 * value, file))
    if not figures:
        raise QueryError(f"{display(folder)} holds no results of `eval --out` or CLIP_benchmark")
    return figures


def lmms_results(folder: Path) -> list[TaskFigure]:
    """Figures of lmms-eval's files of results in a folder and below, whatever the tasks.

    Raises:
        QueryError: the folder has none.
    """
    figures = []
    for _, content in _json_files(folder):
        tasks = content.get("results")
        if not isinstance(tasks, dict):
            continue
        model = _lmms_model(content)
        for task, metrics in tasks.items():
            column = lmms_column(task)
            published = _published(model, column) if column else None
            for metric, value in metrics.items():
                if isinstance(value, int | float) and "stderr" not in metric:
                    name = metric.partition(",")[0]
                    figures.append(TaskFigure(model, task, name, value, column, published))
    if not figures:
        raise QueryError(f"{display(folder)} holds no results.json of lmms-eval")
    return figures


def lmms_column(task: str) -> str | None:
    """The published column of an lmms-eval task, by the beginning of its name; None for none."""
    name = key(task)
    for beginning, column in _LMMS_TASKS.items():
        if name.startswith(beginning):
            return column
    columns = [
        column
        for table in ("plm-image", "plm-video", "plm-videobench")
        for column in TABLES[table].benchmarks
    ]
    fitting = [column for column in columns if name.startswith(key(column))]
    return max(fitting, key=len, default=None)


def published_tables(results: Path | None = None) -> str:
    """Every published table as Markdown, and below a model's row what was measured here.

    Args:
        results: a folder of results, as `own_results` reads them.
    """
    figures = own_results(results) if results is not None else []
    return "\n\n".join(_table(table, figures) for table in TABLES.values())


def lmms_table(folder: Path) -> str:
    """lmms-eval's results as Markdown, each beside what was published of the model.

    Values stand as lmms-eval writes them: shares or percent, whichever the task gives.
    """
    lines = ["| model | task | metric | lmms-eval | published as | published |", "|---" * 6 + "|"]
    for one in lmms_results(folder):
        published = "" if one.published is None else _shown(one.published)
        lines.append(
            f"| {one.model} | {one.task} | {one.metric} | {one.value:.4g} | {one.column or ''} | "
            f"{published} |"
        )
    return "\n".join(lines)


def _table(table: ScoreTable, figures: list[Figure]) -> str:
    lines = [f"### {table.title}", "", f"Source: {table.source}. Measured by {table.evaluator}."]
    if table.elsewhere:
        lines.append(f"To measure: {table.elsewhere}.")
    lines += ["", "| model | " + " | ".join(table.benchmarks) + " |"]
    lines.append("|---" * (1 + len(table.benchmarks)) + "|")
    models = [*table.rows, *dict.fromkeys(one.model for one in figures)]
    for model in dict.fromkeys(models):
        if model in table.rows:
            scores = table.scores(model)
            cells = [_shown(scores.get(name)) for name in table.benchmarks]
            said = f" ({table.by_others[model]})" if model in table.by_others else ""
            lines.append(f"| {model}{said} | " + " | ".join(cells) + " |")
        ours = {one.column: one.percent for one in figures if one.model == model}
        if set(ours) & set(table.benchmarks):
            cells = [f"{ours[name]:.1f}" if name in ours else "" for name in table.benchmarks]
            lines.append(f"| {model}, measured here | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(score: float | None) -> str:
    """A figure as papers print it: points, such as MME's, without decimals."""
    if score is None:
        return "-"
    return f"{score:.0f}" if score >= 200 else f"{score:.1f}"


def _measures(dataset: str) -> Iterator[tuple[str, str]]:
    """Columns of the published tables with CLIP_benchmark's names of their measures."""
    if dataset in BENCHMARKS:
        yield BENCHMARKS[dataset].column, "acc1"
    if dataset in _RETRIEVAL:
        column, kind = _RETRIEVAL[dataset]
        letter = kind[0].upper()
        yield f"{column} T2{letter}", f"{kind}_retrieval_recall@1"
        yield f"{column} {letter}2T", "text_retrieval_recall@1"


def _published(model: str, column: str) -> float | None:
    for name in ("plm-image", "plm-video", "plm-videobench"):
        scores = TABLES[name].scores(model)
        if column in scores:
            return scores[column]
    return None


def _lmms_model(content: Mapping[str, Any]) -> str:
    config = content.get("config") or {}
    said = " ".join(
        str(place.get(name, ""))
        for place in (config, content)
        for name in ("model_args", "model_name", "model_name_sanitized", "model")
    )
    released = _PLM.search(said)
    if released:
        return released[0]
    named = _MODEL.search(said)
    return named[1] if named else said.strip() or "?"


def _json_files(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    if not folder.is_dir():
        raise QueryError(f"{display(folder)} is no folder")
    for file in sorted(folder.rglob("*.json")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # other files of the evaluator's
        if isinstance(content, dict):
            yield file, content
