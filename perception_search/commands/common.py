"""The command line's application, the options that commands share, and how they open things."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception_search.errors import CollectionNotFound
from perception_search.media import display
from perception_search.show import say

if TYPE_CHECKING:
    from perception_search.collection import Collection

app = typer.Typer(
    name="perception-search",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Search your pictures and videos in words.

\b
  perception-search ingest photos.ps ~/Pictures
  perception-search search photos.ps "a dog catching a frisbee"
""",
)

Folder = Annotated[Path, typer.Argument(metavar="COLLECTION", help="The collection's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or int8.")]
Weights = Annotated[
    Path | None, typer.Option(help="A file or folder with the model's weights, not the hub.")
]
Projection = Annotated[
    Path | None,
    typer.Option(help="A file that has what --weights lacks: the projection, the text tower."),
]
LongTexts = Annotated[
    str,
    typer.Option(help="What becomes of words beyond what the model reads: cut, or split."),
]
Where = Annotated[
    str | None,
    typer.Option(help="A filter over the item columns, in SQL: \"kind = 'video'\"."),
]
NumHits = Annotated[int, typer.Option("-k", min=1, help="How many items to find.")]
MinScore = Annotated[float | None, typer.Option(help="Leave out items that score below this.")]
Exact = Annotated[bool, typer.Option("--exact", help="Score every row, whatever index there is.")]
Relevant = Annotated[
    bool,
    typer.Option(
        "--relevant", help="Leave out what is no better than what everyday captions find here."
    ),
]
FalseAlarms = Annotated[
    float | None,
    typer.Option(
        help="The share of everyday captions that may find something, for --relevant; usually 0.2."
    ),
]
Normalised = Annotated[
    bool,
    typer.Option("--normalised", help="Rank by the score less what everyday captions get."),
]
Words = Annotated[
    list[str], typer.Option("--text", help="More words, with a weight if you like: 2:at night.")
]
Images = Annotated[
    list[str], typer.Option("--image", help="A picture that the result should look like; 2:FILE.")
]
Videos = Annotated[
    list[str], typer.Option("--video", help="A video that the result should look like; 2:FILE.")
]
Minus = Annotated[
    list[str], typer.Option("--minus", help="Words whose depiction lowers an item's score.")
]
Length = Annotated[
    float, typer.Option(help="Seconds of a stretch that videos are found by; of a shot, at most.")
]
Overlap = Annotated[
    float, typer.Option(help="Seconds of a stretch that belong to the next one too.")
]
Shots = Annotated[
    bool, typer.Option("--shots", help="Find videos by the stretches between two cuts.")
]
FilesOnly = Annotated[bool, typer.Option("--files-only", help="Print paths only, for pipes.")]

_WEIGHT = re.compile(r"(\d+(?:\.\d*)?|\.\d+):(.*)", re.DOTALL)


def open_collection(path: Path, **how: Any) -> "Collection":
    """The collection at `path`, after what must be said of its model was said."""
    from perception_search.collection import Collection

    if path.is_dir() and any(path.iterdir()) and not (path / "manifests").exists():
        raise CollectionNotFound(
            f"{display(path)} is a folder, but no collection. The collection comes first: "
            f"perception-search ingest photos.ps {display(path)}"
        )
    collection = Collection.open(path, **how)
    if collection.notice:
        say(collection.notice)
    return collection


def asked_for(
    query: str | None, text: list[str], image: list[str], video: list[str], minus: list[str]
) -> tuple[dict[str, Any], str]:
    """What `Collection.search` takes for a query's parts but the first words, and all of it as
    people read it.
    """
    if query is None and not (text or image or video):
        raise typer.BadParameter("there is nothing to look for; give words, --image or --video.")
    parts = {
        "texts": [weighted(part) for part in text],
        "images": [weighted(part) for part in image],
        "videos": [weighted(part) for part in video],
        "minus": [weighted(part) for part in minus],
    }
    shown = [*([query] if query else []), *text, *image, *video]
    return parts, " + ".join([*shown, *(f"minus {part}" for part in minus)])


def weighted(text: str) -> str | tuple[float, str]:
    """`2:at night` as (2.0, "at night"); words without a weight as they are."""
    match = _WEIGHT.fullmatch(text)
    return (float(match[1]), match[2]) if match else text


def stopped() -> typer.Exit:
    """What a command that can go on raises after Ctrl-C, having said so."""
    say("Stopped. What was finished is stored; run the same command to go on.")
    return typer.Exit(130)
