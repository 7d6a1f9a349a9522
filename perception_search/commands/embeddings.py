"""Commands that hand embeddings to other programs and take theirs."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from perception_search.commands.common import (
    AsJson,
    Device,
    Dtype,
    Folder,
    Weights,
    Where,
    app,
    open_collection,
)
from perception_search.media import absolute, display
from perception_search.show import print_json, print_line, progress, say_failures


@app.command("export-embeddings")
def export_embeddings(
    path: Folder,
    to: Annotated[Path, typer.Option(help="A new folder; for parquet a new file.")],
    form: Annotated[str, typer.Option("--format", help="clip-retrieval or parquet.")] = "parquet",
    where: Where = None,
    as_json: AsJson = False,
) -> None:
    """Write every embedding that is searched as other programs read it.

    \b
    perception-search export-embeddings photos.ps --to photos.parquet
    perception-search export-embeddings photos.ps --to photos --format clip-retrieval
    clip-retrieval index --embeddings_folder photos --index_folder index
    """
    from perception_search.embedding_files import write

    snapshot = open_collection(path).snapshot
    with progress("rows") as show:
        num_rows = write(snapshot, absolute(to), form, where, show)
    if as_json:
        print_json({"path": str(to), "format": form, "rows": num_rows})
    else:
        print_line(f"{num_rows} rows in {display(to)}")


@app.command("import-embeddings")
def import_embeddings(
    path: Folder,
    source: Annotated[
        Path, typer.Argument(help="A folder of clip-retrieval, or Parquet with paths and vectors.")
    ],
    trust: Annotated[
        bool, typer.Option("--trust", help="Compare none with what the collection's model makes.")
    ] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Take in embeddings that another program made of pictures that are still there.

    \b
    perception-search create photos.ps --model PE-Core-B16-224
    perception-search import-embeddings photos.ps clip-retrieval-folder

    The first few are compared with the collection's own, so that no other model's come in. The
    next ingest knows the pictures and opens none; it takes in what is missing, videos too.
    """
    from perception_search.adopt import import_embeddings as take_in
    from perception_search.embedding_files import read

    collection = open_collection(path, weights=weights, device=device, dtype=dtype)
    with progress("rows") as show:
        report = take_in(
            collection,
            read(absolute(source)),
            trust=trust,
            on_progress=lambda done: show(done, done),
        )
    say_failures(report.failed)
    counts = {"adopted": report.adopted, "known": report.known, "failed": len(report.failed)}
    if as_json:
        reasons = dict(Counter(file.outcome for file in report.failed))
        print_json(counts | {"outcomes": reasons})
    else:
        print_line(", ".join(f"{number} {name}" for name, number in counts.items()))
