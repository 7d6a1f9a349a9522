"""Commands that measure how good a collection, or a model, is."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_search.commands.common import (
    AsJson,
    Device,
    Dtype,
    Folder,
    Weights,
    app,
    open_collection,
)
from perception_search.commands.language import PLM, AcceptLicense
from perception_search.commands.reranking import (
    Detail,
    Rerank,
    RerankerName,
    RerankerWeights,
    prepared,
)
from perception_search.media import display
from perception_search.show import print_json, print_line, progress, say, steps, write_page

if TYPE_CHECKING:
    from perception_search.evaluate.mine import Failure, MineReport

_MOST_ON_PAGE = 50

evaluate = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""Measure how good a collection, or a model, is.

\b
  perception-search eval moments films.ps --annotations qvhighlights_val.jsonl
  perception-search eval coco --root val2014 --annotations dataset_coco.json
""",
)
app.add_typer(evaluate, name="eval")


@evaluate.command()
def moments(
    path: Annotated[
        Path | None, typer.Argument(metavar="[COLLECTION]", help="Holds the annotated videos.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="Questions and answers: QVHighlights' file, or DiDeMo's.")
    ] = None,
    films: Annotated[
        Path | None,
        typer.Option(help="Instead: a folder of captioned clips, to be joined into films."),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out videos that are not there.")
    ] = False,
    num_films: Annotated[int, typer.Option(min=1, help="How many films to make.")] = 10,
    clips_per_film: Annotated[int, typer.Option(min=1, help="Clips in a film.")] = 20,
    seed: Annotated[int, typer.Option(help="Decides the order of clips.")] = 0,
    model: Annotated[str, typer.Option(help="For films: as for `create`.")] = "auto",
    weights: Weights = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure how well moments are found: R1@IoU, mAP, errors in seconds, beside chance.

    \b
    perception-search eval moments films.ps --annotations qvhighlights_val.jsonl
    perception-search eval moments --films clips

    The folder given to --films holds short videos and a captions.json:
    [{"file": "dog.mp4", "caption": "a dog runs"}, ...].
    """
    from perception_search.collection import Collection
    from perception_search.evaluate.annotations import load_annotations
    from perception_search.evaluate.films import evaluate_films, read_clips
    from perception_search.evaluate.moments import evaluate_moments

    if (films is None) == (annotations is None) or (annotations is None) != (path is None):
        raise typer.BadParameter("give a collection and --annotations, or --films alone.")
    if films is not None:
        clips = read_clips(films)
        notices: list[str | None] = []

        def create(folder: Path) -> Collection:
            collection = Collection.create(
                folder, model=model, weights=weights, device=device, dtype=dtype
            )
            notices.append(collection.notice)
            return collection

        with steps() as show_step:
            report = evaluate_films(
                clips,
                create,
                num_films=num_films,
                clips_per_film=clips_per_film,
                seed=seed,
                on_progress=show_step,
            )
        for notice in filter(None, notices):
            say(notice)
    else:
        assert path is not None
        assert annotations is not None
        questions = load_annotations(annotations)
        collection = open_collection(path, weights=weights, device=device, dtype=dtype)
        with progress("questions") as show:
            report = evaluate_moments(
                collection, questions, allow_missing=allow_missing, on_progress=show
            )
    if as_json:
        print_json(report.as_dict())
    else:
        for line in report.table().splitlines():
            print_line(line)


Root = Annotated[Path, typer.Option(help="The folder of the pictures or videos.")]
AllowMissing = Annotated[
    bool,
    typer.Option("--allow-missing", help="Leave out files that are not there, and count them."),
]
Explain = Annotated[
    bool, typer.Option("--explain-protocol", help="Every way of scoring, from these embeddings.")
]
Out = Annotated[Path | None, typer.Option(help="A file for the JSON, as CLIP_benchmark writes it.")]
Model = Annotated[str, typer.Option(help="As for `create`.")]


@evaluate.command()
def mine(
    path: Folder,
    queries: Annotated[Path, typer.Argument(help="A CSV with the columns query and path.")],
    out: Annotated[
        Path | None,
        typer.Option(help="A folder for report.json, curves and failures, as PNG and SVG."),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Also write the worst queries with pictures, as HTML.")
    ] = None,
    rerank: Rerank = None,
    reranker: RerankerName = PLM,
    reranker_weights: RerankerWeights = None,
    rerank_detail: Detail = "low",
    accept_license: AcceptLicense = False,
    weights: Weights = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """How well your own queries find your own right answers: exactly, by the index, normalised,
    and after a second look.

    \b
    perception-search eval mine photos.ps queries.csv --out results --page worst.html
    perception-search eval mine photos.ps queries.csv --rerank 50 --reranker PE-Core-L14-336

    A line a right answer: `a dog on the beach,2019/beach.jpg`. The end of a path is enough.
    """
    from perception_search.evaluate.mine import evaluate_mine, read_queries
    from perception_search.evaluate.plots import check_plots

    if out is not None:
        check_plots()  # before anything is computed
    second_look = prepared(
        path,
        depth=rerank,
        budget=None,
        name=reranker,
        detail=rerank_detail,
        accept_license=accept_license,
        weights=reranker_weights,
        device=device,
        dtype=dtype,
    )
    asked = read_queries(queries)
    collection = open_collection(path, weights=weights, device=device, dtype=dtype)
    with steps() as show:
        report = evaluate_mine(
            collection,
            asked,
            reranker=second_look.look.reranker if second_look else None,
            depth=rerank or 1,
            on_progress=show,
        )
    if out is not None:
        _draw(report, out)
    if page is not None:
        worst = report.failures[:_MOST_ON_PAGE]
        right = {_titled(one): one.right for one in worst}
        write_page(
            page,
            collection,
            [(_titled(one), one.hits) for one in worst],
            right=lambda title, file: file in right[title],
        )
    if as_json:
        print_json(report.as_dict())
        return
    for query, first in report.missed.items():
        say(f"not among the first ten: {query!r} (first came {first})")
    for line in report.table().splitlines():
        print_line(line)


def _titled(failure: "Failure") -> str:
    place = f"place {failure.rank}" if failure.rank else "beyond place 100"
    names = ", ".join(display(path.name) for path in failure.right)
    return f"{failure.query} ({failure.failing}; {names}: {place})"


def _draw(report: "MineReport", folder: Path) -> None:
    from perception_search.decode import MediaReader
    from perception_search.evaluate.plots import draw_curves, draw_failures

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report.as_dict(), indent=1) + "\n")
    written = draw_curves(report.curves, folder)
    with MediaReader() as reader:
        written += draw_failures(report.failures, folder, reader.thumbnail)
    say(f"Wrote report.json, {', '.join(file.name for file in written)} in {display(folder)}.")
