"""PLM-VideoBench: answers that a model gave, scored by the benchmark's own measures; runs no model.

Its annotations lie as the data set publishes them, as JSON lines or Parquet:
`<root>/fgqa/plm_fgqa_test.jsonl`, `sgqa/...`, `rcap/...`, `rtloc/...`, `rdcap/...`. Predictions are
JSON lines `{"task": "rtloc", "uid": 7, "prediction": "[3, 9]"}`. Three tasks are judged by a
language model, which is the caller's: `Judge`, or a file of what one said.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception_search.caption_metrics import (
    Judge,
    frame_ious,
    grouped_accuracy,
    is_right_option,
    mean_recall,
    soda_c,
)
from perception_search.errors import QueryError
from perception_search.media import display

TASKS = ("fgqa", "sgqa", "rcap", "rtloc", "rdcap")
JUDGED = ("sgqa", "rcap", "rdcap")
NUM_FRAMES = 32
"""Frames that a model is shown of a video; windows are in their numbers."""

_SPLITS = ("test", "val")
_WINDOW = re.compile(r"\[\d+(?:\.\d+)?,\s*\d+(?:\.\d+)?\]")
_DENSE = re.compile(r"\[(\d+),\s*(\d+)\]([^\[]*)")

Record = Mapping[str, Any]
Predictions = Mapping[tuple[str, str], str]


@dataclass(frozen=True)
class VideoBenchReport:
    """How one task went.

    Attributes:
        task: one of `TASKS`.
        num_instances: questions.
        num_missing: of them those without a prediction; they count as wrong.
        figures: fractions of 1. fgqa: `MBAcc` and `accuracy`; sgqa: `accuracy`; rcap: `score`;
            rtloc: `mean_recall` and `mean_iou`; rdcap: `SODA_c`.
        num_unparsed: predictions in which no window could be read; they count as wrong.
    """

    task: str
    num_instances: int
    num_missing: int
    figures: Mapping[str, float]
    num_unparsed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return asdict(self)


def read_annotations(root: Path) -> dict[str, list[Record]]:
    """The annotations of every task that is there, its test split, or else val.

    Raises:
        QueryError: there are none, or a file cannot be read.
    """
    found: dict[str, list[Record]] = {}
    for task in TASKS:
        names = [f"plm_{task}_{split}{ending}" for split in _SPLITS for ending in _READERS]
        paths = [folder / name for name in names for folder in (root / task, root)]
        for path in paths:
            if path.is_file():
                found[task] = _READERS[path.suffix](path)
                break
    if not found:
        raise QueryError(
            f"{display(root)} has no annotations of PLM-VideoBench; there would be "
            f"fgqa/plm_fgqa_test.jsonl and the like"
        )
    return found


def _read_lines(path: Path) -> list[Record]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise QueryError(f"{display(path)} cannot be read: {error}") from error


def _read_parquet(path: Path) -> list[Record]:
    import pyarrow.parquet as pq

    try:
        records: list[Record] = pq.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise QueryError(f"{display(path)} cannot be read: {error}") from error
    return records


_READERS = {".jsonl": _read_lines, ".parquet": _read_parquet}


def read_predictions(path: Path) -> dict[tuple[str, str], str]:
    """Predictions by task and uid, from JSON lines with `task`, `uid` and `prediction`.

    Raises:
        QueryError: a line lacks one of them.
    """
    predictions = {}
    for number, line in enumerate(_read_lines(path), 1):
        try:
            predictions[line["task"], str(line["uid"])] = str(line["prediction"])
        except (KeyError, TypeError) as error:
            raise QueryError(
                f"{display(path)}, line {number}: task, uid and prediction are needed"
            ) from error
    return predictions


def read_judgements(path: Path) -> Judge:
    """A judge that says what a file says: JSON lines with `truth`, `prediction` and `score`, the
    score from 0 to 1.

    Raises:
        QueryError: a line lacks one of them; and from the judge, for a pair that is not there.
    """
    scores = {}
    for number, line in enumerate(_read_lines(path), 1):
        try:
            score = float(line["score"])
            scores[line["truth"], line["prediction"]] = score
        except (KeyError, TypeError, ValueError) as error:
            raise QueryError(
                f"{display(path)}, line {number}: truth, prediction and score are needed"
            ) from error
        if not 0 <= score <= 1:
            raise QueryError(f"{display(path)}, line {number}: the score is {score}, not 0 to 1")

    def judge(truth: str, prediction: str) -> float:
        try:
            return scores[truth, prediction]
        except KeyError:
            raise QueryError(
                f"{display(path)} has no judgement of {prediction!r} against {truth!r}"
            ) from None

    return judge


def to_be_judged(
    annotations: Mapping[str, Sequence[Record]], predictions: Predictions
) -> list[dict[str, str]]:
    """Every pair of truth and prediction that a judge is asked about, once, in order; a question
    is told where there is one.
    """
    asked: dict[tuple[str, str], dict[str, str]] = {}
    question = ""

    def note(truth: str, prediction: str) -> float:
        pair = {"truth": truth, "prediction": prediction}
        asked.setdefault((truth, prediction), pair | ({"question": question} if question else {}))
        return 0.0

    for task in JUDGED:
        for record in annotations.get(task, ()):
            question = record.get("question", "")
            score_task(task, [record], predictions, note)
    return list(asked.values())


def score_task(
    task: str, records: Sequence[Record], predictions: Predictions, judge: Judge | None = None
) -> VideoBenchReport:
    """Score one task's predictions.

    Args:
        task: one of `TASKS`.
        records: its annotations, at least one.
        predictions: what the model wrote, by task and uid.
        judge: what scores texts; needed for those in `JUDGED`.

    Raises:
        ValueError: no such task, or a judge is needed.
        QueryError: an annotation lacks a field.
    """
    if task not in TASKS:
        raise ValueError(f"the task is {task!r}; it must be one of {', '.join(TASKS)}")
    if task in JUDGED and judge is None:
        raise ValueError(f"{task} needs a judge")
    answers = [predictions.get((task, str(record["uid"]))) for record in records]
    texts = [answer or "" for answer in answers]
    try:
        figures, num_unparsed = _SCORERS[task](records, texts, judge)
    except (KeyError, TypeError) as error:
        raise QueryError(f"an annotation of {task} lacks a field: {error}") from error
    num_missing = answers.count(None)
    return VideoBenchReport(task, len(records), num_missing, figures, num_unparsed - num_missing)


Scored = tuple[dict[str, float], int]


def _fgqa(records: Sequence[Record], texts: Sequence[str], _: Any) -> Scored:
    are_right = []
    for record, text in zip(records, texts, strict=True):
        options = record["options"]
        right = next(name for name, option in options.items() if option == record["answer"])
        letter = chr(ord("A") + int(right.rpartition("_")[2]))
        are_right.append(is_right_option(text, letter))
    groups = [str(record["qa_uid"]) for record in records]
    figures = {"MBAcc": grouped_accuracy(are_right, groups), "accuracy": float(np.mean(are_right))}
    return figures, sum(not text for text in texts)


def _judged(records: Sequence[Record], texts: Sequence[str], judge: Judge, field: str) -> float:
    pairs = zip(records, texts, strict=True)
    return float(np.mean([judge(record[field], text) if text else 0.0 for record, text in pairs]))


def _sgqa(records: Sequence[Record], texts: Sequence[str], judge: Judge) -> Scored:
    return {"accuracy": _judged(records, texts, judge, "answer")}, sum(not t for t in texts)


def _rcap(records: Sequence[Record], texts: Sequence[str], judge: Judge) -> Scored:
    return {"score": _judged(records, texts, judge, "caption")}, sum(not t for t in texts)


def _rtloc(records: Sequence[Record], texts: Sequence[str], _: Any) -> Scored:
    ious, num_unparsed = [], 0
    for record, text in zip(records, texts, strict=True):
        window = _WINDOW.search(text)
        if window is None:
            num_unparsed += 1
            ious.append(0.0)
        else:
            ious.append(float(frame_ious(json.loads(window[0]), _rescaled(record, record))[0, 0]))
    recalls = [mean_recall(iou) for iou in ious]
    figures = {"mean_recall": float(np.mean(recalls)), "mean_iou": float(np.mean(ious))}
    return figures, num_unparsed


def _rdcap(records: Sequence[Record], texts: Sequence[str], judge: Judge) -> Scored:
    figures, num_unparsed = [], 0
    for record, text in zip(records, texts, strict=True):
        predicted = dense_captions(text)
        if not predicted:
            num_unparsed += 1
        truths = record["dense_captions"]
        scores = [[judge(t["caption"], words) for _, words in predicted] for t in truths]
        windows = [_rescaled(truth, record) for truth in truths]
        figures.append(soda_c(scores, frame_ious(windows, [window for window, _ in predicted])))
    return {"SODA_c": float(np.mean(figures))}, num_unparsed


_SCORERS: Mapping[str, Any] = {
    "fgqa": _fgqa,
    "sgqa": _sgqa,
    "rcap": _rcap,
    "rtloc": _rtloc,
    "rdcap": _rdcap,
}


def dense_captions(text: str) -> list[tuple[tuple[int, int], str]]:
    """The windows and captions of an answer like `Frame [0, 9]: a man sits Frame [10, 31]: ...`."""
    found = []
    for start, end, words in _DENSE.findall(text):
        caption = words.replace(":", " ").replace("\nFrame ", "").strip().removesuffix(",")
        found.append(((int(start), int(end)), caption.strip().replace("\n", " ").strip()))
    return found


def _rescaled(window: Record, video: Record) -> tuple[int, int]:
    """A window of a video's frames in the numbers of the 32 that are shown, rounded down."""
    factor = video["total_frames"] / NUM_FRAMES
    return int(window["start_frame"] / factor), int(window["end_frame"] / factor)


def table(reports: Iterable[VideoBenchReport]) -> str:
    """A Markdown table, shares in %."""
    lines = ["| task | measure | % | questions | missing | unparsed |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {report.task} | {name} | {100 * value:.1f} | {report.num_instances} | "
        f"{report.num_missing} | {report.num_unparsed} |"
        for report in reports
        for name, value in report.figures.items()
    ]
    return "\n".join(lines)
