"""The command that shows it all."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_search.commands.common import (
    app,
)
from perception_search.show import (
    say,
)

if TYPE_CHECKING:
    pass


@app.command()
def demo(
    media: Annotated[
        Path | None, typer.Option(help="Your own pictures, instead of the sample media.")
    ] = None,
    model: Annotated[str, typer.Option(help="As for `create`.")] = "starter",
    out: Annotated[Path, typer.Option(help="Where to put it.")] = Path("demo"),
) -> None:
    """Index sample media, ask ten queries, and leave a page of pictures to look at.

    \b
    perception-search demo
    """
    from perception_search.demo import run

    run(media, model, out, say=say)
