"""The command that takes moments out of a collection: as files, timelines, chapters, lines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_search.commands.common import (
    AsJson,
    Device,
    Dtype,
    Folder,
    Images,
    MinScore,
    Minus,
    NumHits,
    Videos,
    Weights,
    Where,
    Words,
    app,
    asked_for,
    open_collection,
)
from perception_search.media import display
from perception_search.show import print_json, print_line, progress, say

if TYPE_CHECKING:
    from perception_search.export import ExportReport


@app.command()
def export(
    path: Folder,
    query: Annotated[str | None, typer.Argument(help="Words.")] = None,
    text: Words = [],  # noqa: B006
    image: Images = [],  # noqa: B006
    video: Videos = [],  # noqa: B006
    minus: Minus = [],  # noqa: B006
    cut: Annotated[
        Path | None, typer.Option(help="A folder: each moment as a file of its own.")
    ] = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Cut to the frame, encoding anew, not from a key frame on."),
    ] = False,
    edl: Annotated[Path | None, typer.Option(help="An edit list, CMX 3600.")] = None,
    otio: Annotated[Path | None, typer.Option(help="An OpenTimelineIO timeline.")] = None,
    vtt: Annotated[
        Path | None,
        typer.Option(help="WebVTT chapters: a file, or a folder where there are several videos."),
    ] = None,
    jsonl: Annotated[
        Path | None, typer.Option(help="JSON lines, as QVHighlights takes predictions.")
    ] = None,
    k: NumHits = 10,
    where: Where = None,
    min_score: MinScore = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Find moments of videos and take them out: cut, as a timeline, as chapters.

    \b
    perception-search export films.ps "goal celebration" --cut goals
    perception-search export films.ps "goal celebration" --otio goals.otio --edl goals.edl
    """
    from perception_search import export as exporting

    if exact and cut is None:
        raise typer.BadParameter("--exact is a way to cut; give --cut FOLDER too.")
    if not any((cut, edl, otio, vtt, jsonl)):
        raise typer.BadParameter("there is nowhere to put it; give --cut, --edl, --otio, ...")
    parts, shown = asked_for(query, text, image, video, minus)
    collection = open_collection(path, weights=weights, device=device, dtype=dtype)
    hits = collection.search(query, **parts, k=k, where=where, min_score=min_score, moments=True)
    if not hits:
        say("Nothing found.")
        return
    done: list[tuple[Path, ExportReport]] = []
    if cut is not None:
        with progress("moments") as show:
            report = exporting.cut(hits, cut, exact=exact, overwrite=overwrite, on_progress=show)
        done.append((cut, report))
    for target, write in (
        (edl, exporting.write_edl),
        (otio, exporting.write_otio),
        (vtt, exporting.write_vtt),
        (jsonl, exporting.write_jsonl),
    ):
        if target is not None:
            done.append((target, write(hits, target, shown, overwrite=overwrite)))
    for target, report in done:
        for moment in report.failed:
            say(f"{moment.outcome}: {display(moment.source)}: {moment.reason}")
        if as_json:
            print_json(report.as_dict())
        else:
            print_line(f"{display(target)}: {report.summary()}")
    if any(report.failed for _, report in done):
        raise typer.Exit(1)
