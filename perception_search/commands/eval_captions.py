"""Commands that measure captions and answers, by what others publish of them."""

import json
from pathlib import Path
from typing import Annotated

import typer

from perception_search.commands.common import AsJson, Folder, open_collection
from perception_search.commands.evaluate import evaluate
from perception_search.media import display
from perception_search.show import print_json, print_line, say


@evaluate.command("plm-videobench")
def plm_videobench(
    root: Annotated[Path, typer.Option(help="The folder of the data set's annotations.")],
    predictions: Annotated[Path, typer.Option(help="JSON lines with task, uid and prediction.")],
    judge: Annotated[
        str,
        typer.Option(help="A file of judgements, or words for a count of shared words."),
    ] = "",
    to_judge: Annotated[
        Path | None, typer.Option(help="Write the pairs that need a judgement to this file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score answers about videos by PLM-VideoBench: FGQA, SGQA, RCap, RTLoc and RDCap.

    \b
    perception-search eval plm-videobench --root PLM-VideoBench --predictions answers.jsonl

    SGQA, RCap and RDCap are judged by a language model of yours: --to-judge writes the pairs
    {"truth": ..., "prediction": ...}, and --judge reads them back, each with a score from 0 to 1.
    """
    from perception_search.caption_metrics import shared_words
    from perception_search.evaluate import plm_videobench as bench

    annotations = bench.read_annotations(root)
    answers = bench.read_predictions(predictions)
    if to_judge is not None:
        pairs = bench.to_be_judged(annotations, answers)
        to_judge.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        say(f"{len(pairs)} pairs to be judged in {display(to_judge)}.")
    judging = None
    if judge:
        judging = shared_words if judge == "words" else bench.read_judgements(Path(judge))
    if judge == "words":
        say("Judged by a count of shared words: no figure compares with a published one.")
    reports = [
        bench.score_task(task, records, answers, judging)
        for task, records in annotations.items()
        if judging is not None or task not in bench.JUDGED
    ]
    unjudged = [task for task in annotations if task in bench.JUDGED and judging is None]
    if unjudged:
        say(f"Not scored, since they need a judge (--judge): {', '.join(unjudged)}.")
    if as_json:
        for report in reports:
            print_json(report.as_dict())
    else:
        for line in bench.table(reports).splitlines():
            print_line(line)


@evaluate.command()
def cider(
    path: Folder,
    references: Annotated[
        Path, typer.Option(help="The right captions: COCO's or Karpathy's file, a list, a CSV.")
    ],
    as_json: AsJson = False,
) -> None:
    """Score a collection's captions by CIDEr, against what people wrote of the same pictures.

    \b
    perception-search eval cider photos.ps --references captions_val2017.json
    """
    from perception_search.evaluate.captions import load_captions
    from perception_search.evaluate.stored_captions import evaluate_captions

    report = evaluate_captions(open_collection(path).snapshot, load_captions(references))
    if as_json:
        print_json(report.as_dict())
    else:
        print_line(f"CIDEr {report.cider:.3f} over {report.num_captions} captions")
    if report.num_without:
        say(f"{report.num_without} of the pictures named are not here, or have no caption.")
    if report.tokenizer != "ptb":
        say("Without Java words are told apart more simply than in published figures.")
