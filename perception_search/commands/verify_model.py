"""The command that holds a weights file against what is known of its model."""

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from perception_search.commands.common import AsJson, Device, Projection, Weights, app
from perception_search.show import print_json, print_line, say, steps

_LINE = "{:<8} {:<24} {:<30} {}"


@app.command("verify-model")
def verify_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of a released model; see `models`.")],
    weights: Weights = None,
    projection: Projection = None,
    cat: Annotated[
        Path | None, typer.Option(help="The reference's cat.png, or a picture of a cat.")
    ] = None,
    dog: Annotated[
        Path | None, typer.Option(help="The reference's dog.mp4, or a picture of a dog.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="A folder of pictures to compute with, not made-up ones.")
    ] = None,
    device: Device = "auto",
    quick: Annotated[
        bool, typer.Option("--quick", help="Check what the file holds, and compute nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check weights against what is known of their model; exit 1 when a check fails.

    \b
    perception-search verify-model PE-Core-L14-336 --weights PE-Core-L14-336.pt
    perception-search verify-model PE-Core-G14-448 --cat cat.png --dog dog.mp4

    A line a check: pass or fail; info where nobody published what should come; skipped, and why.
    Where open_clip or timm is installed, it is given the same weights and must compute the same.
    """
    from perception_search.verify_model import verify_model as checks_of

    verdicts: Counter[str] = Counter()
    with steps() as show:
        checks = checks_of(
            name,
            weights=weights,
            projection=projection,
            cat=cat,
            dog=dog,
            images=images,
            device=device,
            quick=quick,
            on_progress=show,
        )
        if not as_json:
            print_line(_LINE.format("verdict", "check", "expected", "got"))
        for check in checks:
            verdicts[check.verdict] += 1
            if as_json:
                print_json(check.as_dict())
            else:
                got = " ".join(check.got.split())  # torch's own errors have many lines
                cells = (check.verdict, check.name, check.expected or "-", got)
                print_line(_LINE.format(*cells))
            sys.stdout.flush()  # a row is seen when it is known
    say(f"{verdicts['pass']} passed, {verdicts['fail']} failed, {verdicts['skipped']} skipped.")
    if verdicts["fail"]:
        raise typer.Exit(1)
