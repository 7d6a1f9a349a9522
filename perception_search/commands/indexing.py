"""Commands that make searching fast."""

from collections.abc import Mapping
from typing import Annotated

import typer

from perception_search.commands.common import AsJson, Folder, app, open_collection
from perception_search.recipe import AUTO, USUAL_RECALL, recipe_for
from perception_search.show import print_json, print_line, readable_bytes, say, shares

Recall = Annotated[
    float,
    typer.Option(help="Of the ten best rows the share that should be found, as 0.95."),
]


@app.command()
def index(
    path: Folder,
    recipe: Annotated[
        str,
        typer.Option(
            help="auto, exact for no index, a recipe, or a string for faiss.index_factory."
        ),
    ] = AUTO,
    recall: Recall = USUAL_RECALL,
    as_json: AsJson = False,
) -> None:
    """Build an index and tune it to a recall; which one follows from the number of rows.

    \b
    perception-search index photos.ps
    perception-search index photos.ps --recipe hnsw --recall 0.99

    An ingest adds to it what it finds, and builds the first one from 100,000 rows on; exact stays.
    """
    collection = open_collection(path)
    if recipe == AUTO:
        snapshot = collection.snapshot
        _, why = recipe_for(len(snapshot.searchable), snapshot.dim)
        say(f"{why}.")
    record = collection.index(recipe, recall=recall)
    if record is None:
        if as_json:
            print_json({"recipe": "exact"})
        else:
            print_line("no index: every search is exact")
        return
    if as_json:
        print_json(
            {
                "recipe": record.recipe.name,
                "factory": record.recipe.factory,
                "rows": record.num_rows,
                "size_bytes": record.size_bytes,
                "search": dict(record.recipe.search),
                "candidates": record.recipe.candidates,
                "recall": dict(record.recall),
            }
        )
    else:
        size = readable_bytes(record.size_bytes)
        print_line(
            f"{record.recipe.name} ({record.recipe.factory}): {record.num_rows} rows, {size}"
        )
    _say_recall(record.recall, recall)


@app.command()
def tune(path: Folder, recall: Recall = USUAL_RECALL, as_json: AsJson = False) -> None:
    """Have the index searched in the cheapest way that reaches a recall, by measuring.

    \b
    perception-search tune photos.ps --recall 0.99

    Measured against an exact search, for queries like pictures and for queries like texts: those
    that were asked before, or, where they are few, made-up ones.
    """
    collection = open_collection(path)
    tuned = collection.tune(recall=recall)
    if as_json:
        print_json(
            {
                "search": dict(tuned.recipe.search),
                "candidates": tuned.recipe.candidates,
                "recall": dict(tuned.recall),
                "milliseconds": tuned.milliseconds,
            }
        )
    else:
        how = ", ".join(f"{name} {value}" for name, value in tuned.recipe.search.items())
        candidates = tuned.recipe.candidates
        print_line(f"{how}, {candidates} candidates a row: {tuned.milliseconds:.2f} ms a query")
    _say_recall(tuned.recall, recall)


def _say_recall(recall: Mapping[str, float], wanted: float) -> None:
    if not recall:
        return
    short = "" if min(recall.values()) >= wanted else f", short of {wanted:.1%}"
    say(f"Of the ten best rows it finds {shares(recall)}{short}.")
