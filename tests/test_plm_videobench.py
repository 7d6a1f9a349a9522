"""PLM-VideoBench on a set made by hand, its figures worked out on paper."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perception_search.errors import QueryError
from perception_search.evaluate.plm_videobench import (
    TASKS,
    dense_captions,
    read_annotations,
    read_judgements,
    read_predictions,
    score_task,
    to_be_judged,
)


def question(uid, group, answer):
    options = {"option_0": "stirs", "option_1": "pours"}
    return {"uid": uid, "qa_uid": group, "video": "v.mp4", "question": "What does he do?",
            "options": options, "answer": answer, "answer_idx": 0}  # fmt: skip


ANNOTATIONS = {
    # two groups, of which one has a wrong answer
    "fgqa": [
        question("1", "g", "stirs"), question("2", "g", "pours"),
        question("3", "h", "stirs"), question("4", "h", "pours"),
    ],
    "sgqa": [
        {"uid": "1", "question": "Where am I?", "answer": "a kitchen"},
        {"uid": "2", "question": "What is it?", "answer": "a pan"},
    ],
    "rcap": [{"uid": 1, "caption": "a man sits", "total_frames": 64, "start_frame": 0,
              "end_frame": 9}],
    # 64 frames: two of the video's are one of the 32 shown
    "rtloc": [
        {"uid": 1, "caption": "x", "total_frames": 64, "start_frame": 10, "end_frame": 41},
        {"uid": 2, "caption": "x", "total_frames": 64, "start_frame": 0, "end_frame": 20},
        {"uid": 3, "caption": "x", "total_frames": 64, "start_frame": 0, "end_frame": 20},
    ],
    "rdcap": [
        {"uid": 1, "total_frames": 32, "dense_captions": [
            {"start_frame": 0, "end_frame": 10, "caption": "a man sits"},
            {"start_frame": 10, "end_frame": 30, "caption": "he stands"}]},
        {"uid": 2, "total_frames": 32, "dense_captions": [
            {"start_frame": 0, "end_frame": 10, "caption": "a man sits"}]},
    ],
}  # fmt: skip
PREDICTIONS = {
    ("fgqa", "1"): "(A) stirs", ("fgqa", "2"): "B", ("fgqa", "3"): "A.", ("fgqa", "4"): "(A)",
    ("sgqa", "1"): "the kitchen", ("sgqa", "2"): "a bus",
    ("rcap", "1"): "someone sits down",
    ("rtloc", "1"): "from [5, 20] on", ("rtloc", "2"): "[5, 15]", ("rtloc", "3"): "at the start",
    ("rdcap", "1"): "Frame [0, 10]: a man sits\nFrame [10, 20]: he rises",
}  # fmt: skip
SCORES = {
    ("a kitchen", "the kitchen"): 1.0, ("a pan", "a bus"): 0.0,
    ("a man sits", "someone sits down"): 0.7,
    ("a man sits", "a man sits"): 1.0, ("he stands", "he rises"): 0.5,
    ("a man sits", "he rises"): 0.1, ("he stands", "a man sits"): 0.1,
}  # fmt: skip
FIGURES = {
    "fgqa": {"MBAcc": 1 / 2, "accuracy": 3 / 4},
    "sgqa": {"accuracy": 1 / 2},
    "rcap": {"score": 0.7},
    # [5, 20] is the truth; [5, 15] has 5 / 15 with [0, 10]: above 0.3 only; the third is no window
    "rtloc": {"mean_recall": (1 + 1 / 4 + 0) / 3, "mean_iou": (1 + 1 / 3 + 0) / 3},
    # pairs: 1.0 x 1 and 0.5 x 10 / 20, so 1.25 of 2 and 2; the second has no prediction
    "rdcap": {"SODA_c": (0.625 + 0) / 2},
}


@pytest.fixture
def files(tmp_path):
    """The set on disk, partly as Parquet, with predictions and judgements."""
    for task, records in ANNOTATIONS.items():
        folder = tmp_path / task
        folder.mkdir()
        if task == "rtloc":
            pq.write_table(pa.Table.from_pylist(records), folder / "plm_rtloc_test.parquet")
        else:
            lines = "".join(json.dumps(record) + "\n" for record in records)
            (folder / f"plm_{task}_test.jsonl").write_text(lines)
    lines = [
        {"task": task, "uid": uid, "prediction": text} for (task, uid), text in PREDICTIONS.items()
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines = [{"truth": t, "prediction": p, "score": s} for (t, p), s in SCORES.items()]
    (tmp_path / "j.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_scored_as_on_paper(task):
    report = score_task(task, ANNOTATIONS[task], PREDICTIONS, lambda t, p: SCORES[t, p])
    assert report.figures == pytest.approx(FIGURES[task], abs=1e-7)
    missing = {"rdcap": 1}.get(task, 0)
    unparsed = {"rtloc": 1}.get(task, 0)
    assert (report.num_missing, report.num_unparsed) == (missing, unparsed)


def test_dense_captions_are_read_from_an_answer():
    text = "Frame [0, 9]: a man: sits,\nFrame [10,31]: he\nstands. [2] x"
    assert dense_captions(text) == [((0, 9), "a man  sits"), ((10, 31), "he stands.")]


def test_the_files_are_read_and_the_judge_is_asked_for_each_pair_once(files):
    annotations = read_annotations(files)
    predictions = read_predictions(files / "p.jsonl")
    assert (annotations, predictions) == (ANNOTATIONS, PREDICTIONS)
    pairs = to_be_judged(annotations, predictions)
    assert {(pair["truth"], pair["prediction"]) for pair in pairs} == set(SCORES)
    assert pairs[0]["question"] == "Where am I?"
    assert "question" not in pairs[-1]
    judge = read_judgements(files / "j.jsonl")
    with pytest.raises(QueryError, match="has no judgement of 'x' against 'y'"):
        judge("y", "x")
    (files / "bad.jsonl").write_text('{"task": "fgqa"}\n')
    with pytest.raises(QueryError, match="line 1: task, uid and prediction are needed"):
        read_predictions(files / "bad.jsonl")
    with pytest.raises(QueryError, match="has no annotations of PLM-VideoBench"):
        read_annotations(files / "rtloc" / "nowhere")


def test_the_command_scores_what_it_can_and_says_what_it_cannot(run, files):
    command = ["eval", "plm-videobench", "--root", files, "--predictions", files / "p.jsonl"]
    code, out, err = run(*command, "--json", "--to-judge", files / "pairs.jsonl")
    assert code == 0
    assert [json.loads(line)["task"] for line in out.splitlines()] == ["fgqa", "rtloc"]
    assert "they need a judge (--judge): sgqa, rcap, rdcap" in err
    assert len((files / "pairs.jsonl").read_text().splitlines()) == len(SCORES)
    code, out, _ = run(*command, "--judge", files / "j.jsonl")
    assert code == 0
    assert "| rdcap | SODA_c | 31.2 | 2 | 1 | 0 |" in out
    assert "| fgqa | MBAcc | 50.0 | 4 | 0 | 0 |" in out
    _, _, err = run(*command, "--judge", "words")
    assert "no figure compares with a published one" in err
