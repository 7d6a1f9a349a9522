"""Commands that measure all columns of the model cards, and that print what is published."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception_search.commands.common import AsJson, Device, Dtype, Weights
from perception_search.commands.eval_classes import open_or_create, run_classification
from perception_search.commands.evaluate import AllowMissing, Model, evaluate
from perception_search.show import print_json, print_line, progress, say

if TYPE_CHECKING:
    from perception_search.evaluate.model_card import Column

_BORDERS = {"objectnet": 1}
"""Pixels cut off, as for the published figure."""


@evaluate.command("all")
def all_columns(
    root: Annotated[
        Path,
        typer.Option(
            help="Holds folders imagenet, imagenetv2, imagenet-a, objectnet, coco, k400, msrvtt."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="A folder for embeddings, a JSON a data set, and table.md.")
    ] = Path("results"),
    model: Model = "auto",
    allow_missing: AllowMissing = False,
    weights: Weights = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """The seven columns of PE's model cards, as one table with the gap to each published figure.

    \b
    perception-search eval all --root datasets --out results --model PE-Core-L14-336

    A data set that is not there, or not whole, is named and left out. Captions: dataset_coco.json
    is looked for below coco, MSRVTT_JSFUSION_test.csv below msrvtt. Run it again to go on.
    """
    from perception_search.errors import QueryError
    from perception_search.evaluate.model_card import COLUMNS, Measured, card_table

    if not root.is_dir():
        raise QueryError(f"{root} is no folder; name the one that holds the data sets")
    out.mkdir(parents=True, exist_ok=True)
    how = {"model": model, "weights": weights, "device": device, "dtype": dtype}
    measured: list[Measured] = []
    for column in COLUMNS:
        try:
            result = _measure(column, root, out, how, allow_missing=allow_missing)
        except QueryError as error:
            say(f"{column.name} left out: {error}")
            measured.append(Measured(column, None, "left out"))
            continue
        (out / f"{column.dataset}.json").write_text(json.dumps(result, indent=1) + "\n")
        measured.append(Measured(column, result, _note(result)))
        if as_json:
            print_json(result)
    models = {one.result["model"] for one in measured if one.result is not None}
    table = card_table(models.pop() if models else model, measured)
    (out / "table.md").write_text(table + "\n")
    if not as_json:
        for line in table.splitlines():
            print_line(line)
    if not any(one.result for one in measured):
        raise QueryError(f"{root} holds none of the data sets")


def _measure(
    column: "Column", root: Path, out: Path, how: dict[str, Any], *, allow_missing: bool
) -> dict[str, Any]:
    from perception_search.evaluate.captions import load_captions
    from perception_search.evaluate.class_sets import load_class_set
    from perception_search.evaluate.model_card import captions_of, folder_of
    from perception_search.evaluate.retrieval import evaluate_retrieval

    folder = folder_of(column, root)
    work = out / f"{column.dataset}.ps"
    if not column.captions:
        class_set = load_class_set(column.dataset, folder)
        border = _BORDERS.get(column.dataset, 0)
        return run_classification(
            class_set, work, how, border=border, allow_missing=allow_missing
        ).as_dict()
    captions = load_captions(captions_of(column, folder))
    with progress() as show:
        return evaluate_retrieval(
            open_or_create(work, how, frames_per_second=1.0, pooling="unit-frames"),
            captions,
            folder,
            dataset=column.dataset,
            allow_missing=allow_missing,
            on_progress=show,
        ).as_dict()


def _note(result: dict[str, Any]) -> str:
    said = []
    if result["num_missing"]:
        said.append(f"{result['num_missing']} missing")
    if result["unreadable"]:
        said.append(f"{len(result['unreadable'])} unreadable")
    return ", ".join(said)


@evaluate.command()
def report(
    results: Annotated[
        Path | None,
        typer.Option(help="A folder of files that `eval --out` or CLIP_benchmark wrote."),
    ] = None,
    lmms_eval: Annotated[
        Path | None, typer.Option("--lmms-eval", help="A folder of results of lmms-eval.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Every published figure of PE, its rivals, PE-Lang, PE-Spatial and PLM, and yours beside them.

    \b
    perception-search eval report --results results --lmms-eval logs

    Says of each table who measured it, and with what it can be measured: what is no retrieval and
    no classification is measured by others, such as lmms-eval and detectron2.
    """
    from perception_search.evaluate.measured_elsewhere import (
        lmms_results,
        lmms_table,
        own_results,
        published_tables,
    )
    from perception_search.published import TABLES

    if as_json:
        for name, table in TABLES.items():
            for model in table.rows:
                scores = table.scores(model)
                print_json({"table": name, "model": model, "source": table.source, **scores})
        for own in own_results(results) if results is not None else []:
            print_json(own._asdict())
        for theirs in lmms_results(lmms_eval) if lmms_eval is not None else []:
            print_json(theirs._asdict())
        return
    text = published_tables(results)
    if lmms_eval is not None:
        text += "\n\n### Measured with lmms-eval\n\n" + lmms_table(lmms_eval)
    for line in text.splitlines():
        print_line(line)
