"""The command that gives a collection captions."""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception_search.commands.common import (
    AsJson,
    Device,
    Dtype,
    Folder,
    Where,
    app,
    open_collection,
    stopped,
)
from perception_search.commands.language import AcceptLicense, language_model
from perception_search.media import absolute
from perception_search.show import print_counts, print_json, progress, say, say_failures

if TYPE_CHECKING:
    from perception_search.survey import FileReport

PROMPT = "Describe what is shown in one sentence."


@app.command()
def caption(
    path: Folder,
    model: Annotated[
        str | None,
        typer.Option(help="Perception-LM-1B, -3B or -8B, a folder of one, or hf:NAME for others."),
    ] = None,
    prompt: Annotated[str, typer.Option(help="What the model is asked.")] = PROMPT,
    replace_own: Annotated[
        bool, typer.Option("--replace-own", help="Caption anew what people captioned, too.")
    ] = False,
    detail: Annotated[
        str, typer.Option(help="low, or high: 36 tiles of a picture, 32 frames of a video.")
    ] = "low",
    accept_license: AcceptLicense = False,
    from_csv: Annotated[
        Path | None, typer.Option(help="Take in the captions of a CSV with path and caption.")
    ] = None,
    from_txt: Annotated[
        bool, typer.Option("--from-txt", help="Take in the text beside each file: cat.txt.")
    ] = False,
    where: Where = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Give items captions, which `search --hybrid` looks at too; run it again whenever you like.

    \b
    perception-search caption photos.ps --from-csv captions.csv
    perception-search caption photos.ps --from-txt
    perception-search caption photos.ps --model Perception-LM-1B --where "kind = 'image'"

    Perception LM and what it writes are for noncommercial research. Ctrl-C stops cleanly, and the
    next run goes on; it captions new files too. The last captions of an item count. A CSV may also
    have the columns model, licence, prompt, start_seconds and end_seconds; without them captions
    are yours. What a path ends in is enough.
    """
    from perception_search.caption_files import read_csv, read_side_files
    from perception_search.captioning import CAPTIONED, caption_items, take_in
    from perception_search.writer import Writer

    if (from_csv is not None) + (model is not None) + from_txt != 1:
        raise typer.BadParameter("give one of --model, --from-csv and --from-txt.")
    collection = open_collection(path)
    captioner = None
    if model is not None:
        captioner = language_model(
            model, accept_license=accept_license, device=device, dtype=dtype, detail=detail
        )

    def committed(files: "Sequence[FileReport]") -> None:
        for file in files:
            what = "caption" if file.outcome == CAPTIONED else "reason"
            print_json({"path": str(file.path), "outcome": file.outcome, what: file.reason})
        sys.stdout.flush()

    try:
        with progress("items") as show, Writer(collection.path) as writer:
            how: dict[str, Any] = {
                "where": where,
                "on_commit": committed if as_json else None,
                "on_progress": show,
            }
            if captioner is not None:
                with contextlib.closing(captioner):
                    report = caption_items(
                        writer, captioner, prompt, replace_own=replace_own, **how
                    )
            elif from_csv is not None:
                report = take_in(writer, read_csv(absolute(from_csv)), **how)
            else:
                live = collection.snapshot.live_paths.values()
                files = (file for paths in live for file in paths)
                report = take_in(writer, read_side_files(files), **how)
    except KeyboardInterrupt:
        raise stopped() from None
    say_failures(report.failed)
    if report.own:
        say(
            f"{report.own} items have captions of your own and were left as they are; "
            f"--replace-own captions them too."
        )
    print_counts(report.counts(), "items", as_json=as_json)
