"""The columns of PE's model cards: where their data lie, and what was measured, as a table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_search.errors import QueryError
from perception_search.media import display
from perception_search.published import MODEL_CARDS


@dataclass(frozen=True)
class Column:
    """One column of the cards.

    Attributes:
        name: as the cards have it.
        dataset: as `eval` has it.
        folders: what the data set's folder may be called, in any case, below the root.
        measure: CLIP_benchmark's name of the figure.
        captions: pattern of the file of captions, for retrieval; empty for classification.
    """

    name: str
    dataset: str
    folders: tuple[str, ...]
    measure: str = "acc1"
    captions: str = ""


COLUMNS = (
    Column("IN-1k", "imagenet", ("imagenet", "imagenet1k", "ilsvrc2012", "ilsvrc")),
    Column("IN-v2", "imagenetv2", ("imagenetv2", "imagenet-v2")),
    Column("IN-A", "imagenet-a", ("imagenet-a",)),
    Column("ObjectNet", "objectnet", ("objectnet", "objectnet-1.0")),
    Column(
        "COCO T2I", "coco", ("coco", "mscoco"), "image_retrieval_recall@1", "dataset_coco*.json"
    ),
    Column("K400", "k400", ("k400", "kinetics400", "kinetics-400", "kinetics_400")),
    Column(
        "VTT T2V",
        "msrvtt",
        ("msrvtt", "msr-vtt"),
        "video_retrieval_recall@1",
        "*JSFUSION_test*.csv",
    ),
)


@dataclass(frozen=True)
class Measured:
    """What came of one column.

    Attributes:
        column: of the cards.
        result: CLIP_benchmark's fields with ours beside them; None where it was skipped.
        note: why it was skipped, or what is to be known of the figure.
    """

    column: Column
    result: Mapping[str, Any] | None
    note: str = ""


def folder_of(column: Column, root: Path) -> Path:
    """The data set's folder.

    Raises:
        QueryError: it is not there.
    """
    there = {one.name.lower(): one for one in sorted(root.iterdir()) if one.is_dir()}
    for name in column.folders:
        if name in there:
            return there[name]
    raise QueryError(f"{display(root)} has no folder {' or '.join(column.folders)}")


def captions_of(column: Column, folder: Path) -> Path:
    """The file of captions of a data set for retrieval.

    Raises:
        QueryError: it is not there, or there are several.
    """
    found = sorted(folder.rglob(column.captions))
    if len(found) != 1:
        raise QueryError(
            f"{display(folder)} holds {len(found)} files {column.captions}; one is needed"
        )
    return found[0]


def card_table(model: str, measured: Sequence[Measured]) -> str:
    """All columns as one Markdown table, shares in %.

    Args:
        model: its name as released.
        measured: one of each column.
    """
    head = "| column | measured | 95 % interval | published | difference | media | |"
    return "\n".join([f"{model}:", "", head, "|---" * 7 + "|", *_lines(model, measured)])


def _lines(model: str, measured: Sequence[Measured]) -> Iterator[str]:
    given = MODEL_CARDS.scores(model)
    for one in measured:
        column, result = one.column, one.result
        published = given.get(column.name)
        cells = ["not run", "", "" if published is None else f"{published}", "", ""]
        if result is not None:
            share = 100 * result["metrics"][column.measure]
            low, high = result["intervals"].get(column.measure, (None, None))
            cells[0] = f"{share:.1f}"
            cells[1] = "" if low is None else f"{100 * low:.1f} to {100 * high:.1f}"
            if result["published"] is not None:
                cells[3] = f"{share - result['published']:+.1f}"
            cells[4] = f"{result['num_media']:,}"
        yield f"| {column.name} | " + " | ".join(cells) + f" | {one.note} |"
