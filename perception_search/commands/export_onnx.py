"""The command that hands a model to other runtimes."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from perception_search.commands.common import AsJson, Weights, app
from perception_search.media import display
from perception_search.show import print_json, print_line, say


@app.command("export-onnx")
def export_onnx(
    model: Annotated[str, typer.Argument(help="A name that `models` lists.")],
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path(),
    tower: Annotated[
        Literal["vision", "text", "both"], typer.Option(help="Both are all that there are.")
    ] = "both",
    weights: Weights = None,
    projection: Annotated[
        Path | None, typer.Option(help="A file with what the weights lack: `proj`, or the texts.")
    ] = None,
    opset: Annotated[
        int, typer.Option(help="Version of ONNX's operators, 18 to 25; most runtimes read 18.")
    ] = 18,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Do not hold the files against torch.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a model's towers as ONNX files, for any number of pictures or texts at once.

    Pictures go in as float32 RGB in -1..1, texts as token ids; raw embeddings come out, or tokens
    where the model has no embeddings. A file that differs from torch by more than 1e-4 is not
    written. Weights of more than 1.5 GiB stand beside their file, in FILE.data.

    \b
    perception-search export-onnx PE-Core-B16-224 --out onnx
    """
    from perception_search.encoder import onnx_export

    files = onnx_export.export_onnx(
        model,
        out,
        tower=tower,
        weights=weights,
        projection=projection,
        opset=opset,
        check=not no_check,
        overwrite=overwrite,
    )
    say("Writing; the larger the model, the longer it takes: from half a minute to many.")
    for file in files:
        if as_json:
            print_json(file.as_dict())
            continue
        compared = "not compared with torch"
        if file.max_difference is not None:
            compared = f"within {file.max_difference:.1e} of torch"
        print_line(f"{display(file.path)}  {file.size_bytes / 1e6:.0f} MB  {compared}")
