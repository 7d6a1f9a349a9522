"""The command that gives a collection captions."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_search.commands.common import AsJson, Folder, Where, app, open_collection
from perception_search.media import absolute, display
from perception_search.show import print_json, print_line, progress, say

if TYPE_CHECKING:
    from perception_search.survey import FileReport


@app.command()
def caption(
    path: Folder,
    from_csv: Annotated[
        Path | None, typer.Option(help="Take in the captions of a CSV with path and caption.")
    ] = None,
    from_txt: Annotated[
        bool, typer.Option("--from-txt", help="Take in the text beside each file: cat.txt.")
    ] = False,
    where: Where = None,
    as_json: AsJson = False,
) -> None:
    """Give items captions, which `search --hybrid` looks at too; run it again whenever you like.

    \b
    perception-search caption photos.ps --from-csv captions.csv
    perception-search caption photos.ps --from-txt

    The last captions of an item count. A CSV may also have the columns model, licence, prompt,
    start_seconds and end_seconds; without them captions are yours. What a path ends in is enough.
    """
    from perception_search.caption_files import read_csv, read_side_files
    from perception_search.captioning import CAPTIONED, take_in
    from perception_search.writer import Writer

    if (from_csv is not None) + from_txt != 1:
        raise typer.BadParameter("give one of --from-csv and --from-txt.")
    collection = open_collection(path)

    def committed(files: "Sequence[FileReport]") -> None:
        for file in files:
            what = "caption" if file.outcome == CAPTIONED else "reason"
            print_json({"path": str(file.path), "outcome": file.outcome, what: file.reason})
        sys.stdout.flush()

    try:
        with progress("items") as show, Writer(collection.path) as writer:
            if from_csv is not None:
                given = read_csv(absolute(from_csv))
            else:
                live = collection.snapshot.live_paths.values()
                given = read_side_files(file for paths in live for file in paths)
            report = take_in(
                writer,
                given,
                where=where,
                on_commit=committed if as_json else None,
                on_progress=show,
            )
    except KeyboardInterrupt:
        say("Stopped. What was finished is stored; run the same command to go on.")
        raise typer.Exit(130) from None
    for failure in report.failed:
        say(f"{failure.outcome}: {display(failure.path)}: {failure.reason}")
    if report.own:
        say(
            f"{report.own} items have captions of your own and were left as they are; "
            f"--replace-own captions them too."
        )
    counts = report.counts()
    if as_json:
        print_json(counts)
    else:
        print_line(
            ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no items"
        )
