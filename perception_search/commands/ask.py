"""Commands that ask: a collection, or an encoder alone."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from perception_search.commands.common import (
    AsJson,
    Device,
    Dtype,
    Exact,
    FalseAlarms,
    FilesOnly,
    Folder,
    Images,
    LongTexts,
    MinScore,
    Minus,
    Normalised,
    NumHits,
    Projection,
    Relevant,
    Videos,
    Weights,
    Where,
    Words,
    app,
    asked_for,
    open_collection,
)
from perception_search.commands.language import PLM, AcceptLicense
from perception_search.commands.reranking import (
    Budget,
    Detail,
    Rerank,
    RerankerName,
    RerankerWeights,
    prepared,
)
from perception_search.media import display
from perception_search.show import (
    print_hits,
    print_json,
    print_line,
    say,
    steps,
    write_page,
)

_READ_BYTES = 1 << 16


@app.command()
def search(
    path: Folder,
    query: Annotated[
        str | None, typer.Argument(help="Words; - reads one query a line from standard input.")
    ] = None,
    text: Words = [],  # noqa: B006
    image: Images = [],  # noqa: B006
    video: Videos = [],  # noqa: B006
    minus: Minus = [],  # noqa: B006
    k: NumHits = 10,
    where: Where = None,
    min_score: MinScore = None,
    relevant: Relevant = False,
    false_alarms: FalseAlarms = None,
    normalised: Normalised = False,
    exact: Exact = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="Rank videos as wholes, not by their best segment.")
    ] = False,
    moments: Annotated[
        bool, typer.Option("--moments", help="Find moments of videos; -k counts moments.")
    ] = False,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="Fuse what vectors and the words of captions find.")
    ] = False,
    by: Annotated[
        str, typer.Option(help="vectors, words of captions, captions by vector, or hybrid.")
    ] = "vectors",
    page: Annotated[
        Path | None, typer.Option(help="Also write the hits with pictures to this HTML file.")
    ] = None,
    files_only: FilesOnly = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    projection: Projection = None,
    long_texts: LongTexts = "cut",
    rerank: Rerank = None,
    rerank_budget: Budget = None,
    reranker: RerankerName = PLM,
    reranker_weights: RerankerWeights = None,
    rerank_detail: Detail = "low",
    accept_license: AcceptLicense = False,
    as_json: AsJson = False,
) -> None:
    """Find pictures and moments of videos by words, by pictures, or by both.

    \b
    perception-search search photos.ps "a dog catching a frisbee" -k 10 --where "kind = 'video'"
    perception-search search photos.ps "the moment the dog jumps" --moments
    perception-search search photos.ps --text "at night" --image ./beach.jpg --minus "people"
    perception-search search photos.ps "two people shaking hands" --rerank 50 --rerank-budget 10s
    perception-search search photos.ps "a giraffe in a swimming pool" --relevant
    perception-search search photos.ps "the Golden Gate" --hybrid
    perception-search search photos.ps - < queries.txt

    With --relevant nothing may be found. --false-alarms says how strict that is, and with 1 every
    hit is kept and has its relevance, 0 to 1, in --json.
    """
    from perception_search.relevance import USUAL_RATE

    rate = USUAL_RATE if relevant and false_alarms is None else false_alarms
    if rate is not None and not 0 < rate <= 1:
        raise typer.BadParameter(f"--false-alarms is {rate:g}; above 0, and at most 1.")
    parts, shown = asked_for(query, text, image, video, minus)
    if rerank is not None and query is None:
        raise typer.BadParameter("--rerank judges by words; give the query in words.")
    second_look = prepared(
        path,
        depth=rerank,
        budget=rerank_budget,
        name=reranker,
        detail=rerank_detail,
        accept_license=accept_license,
        weights=reranker_weights,
        device=device,
        dtype=dtype,
    )
    collection = open_collection(
        path,
        weights=weights,
        projection=projection,
        device=device,
        dtype=dtype,
        long_texts=long_texts,
    )
    how: dict[str, Any] = {
        **parts,
        "k": max(k, rerank or 0),
        "where": where,
        "min_score": min_score,
        "relevant": rate,
        "normalised": normalised,
        "whole": whole,
        "moments": moments,
        "by": "hybrid" if hybrid else by,
        "exact": exact,
    }
    if rate is not None or normalised:
        with steps() as show:
            collection.prepare_relevance(show)
    results = []
    if query == "-":
        for queries in _queries():
            for words, hits in zip(queries, collection.search_many(queries, **how), strict=True):
                if second_look is not None:
                    hits = second_look.of(hits, words, k)
                print_hits(hits, as_json=as_json, files_only=files_only, query=words)
                results.append((words, hits))
    else:
        hits = collection.search(query, **how)
        if second_look is not None:
            hits = second_look.of(hits, shown, k)
        print_hits(hits, as_json=as_json, files_only=files_only)
        results.append((shown, hits))
    if page is not None:
        write_page(page, collection, results, strips=moments)


def _queries() -> Iterator[list[str]]:
    """The queries on standard input, a line each, as many at once as are there.

    Whoever types, or waits for an answer before asking on, is answered line by line.
    """
    source, rest = cast("io.BufferedReader", sys.stdin.buffer), b""
    while part := source.read1(_READ_BYTES):
        *lines, rest = (rest + part).split(b"\n")
        yield _as_queries(lines)
    yield _as_queries([rest])


def _as_queries(lines: list[bytes]) -> list[str]:
    texts = [line.decode(sys.stdin.encoding, "replace").strip() for line in lines]
    return [text for text in texts if text]


@app.command()
def similar(
    path: Folder,
    item: Annotated[Path, typer.Argument(help="A file that is in the collection.")],
    k: NumHits = 10,
    where: Where = None,
    min_score: MinScore = None,
    exact: Exact = False,
    files_only: FilesOnly = False,
    as_json: AsJson = False,
) -> None:
    """Find what looks like an item of the collection.

    \b
    perception-search similar photos.ps ~/Pictures/beach.jpg -k 5
    """
    how: dict[str, Any] = {"k": k, "where": where, "min_score": min_score, "exact": exact}
    hits = open_collection(path).similar(item, **how)
    print_hits(hits, as_json=as_json, files_only=files_only)


@app.command()
def classify(
    image: Annotated[Path, typer.Argument(help="A picture.")],
    labels: Annotated[list[str], typer.Argument(help="What it may show, two or more.")],
    model: Annotated[str, typer.Option(help="As for `create`.")] = "auto",
    weights: Weights = None,
    projection: Projection = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Say how probable each label is for a picture; needs no collection.

    \b
    perception-search classify cat.png "a diagram" "a dog" "a cat"
    """
    from perception_search.encoder import load_encoder
    from perception_search.encoder.auto import choose_model, notice_for

    name = choose_model(device, weights) if model == "auto" else model
    encoder: Any = load_encoder(
        name, weights=weights, projection=projection, device=device, dtype=dtype
    )
    notice = notice_for(encoder.identity.model)
    if notice:
        say(notice)
    probabilities = encoder.classify(image, labels)
    if as_json:
        print_json(probabilities)
    else:
        for label, probability in sorted(probabilities.items(), key=lambda pair: -pair[1]):
            print_line(f"{probability:.3f}  {display(label)}")
