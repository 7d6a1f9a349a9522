"""The command that opens the search page."""

import importlib
import importlib.util
import sys
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

import perception_search
from perception_search.commands.common import Device, Dtype, Folder, Weights, app, open_collection
from perception_search.commands.language import PLM, AcceptLicense
from perception_search.commands.reranking import (
    Budget,
    Detail,
    Rerank,
    RerankerName,
    RerankerWeights,
    prepared,
)
from perception_search.errors import MissingExtra
from perception_search.show import say


@app.command("app")
def search_page(
    path: Folder,
    host: Annotated[
        str, typer.Option(help="The address to listen at; another than this asks for a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 7860,
    open_page: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    weights: Weights = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    rerank: Rerank = None,
    rerank_budget: Budget = None,
    reranker: RerankerName = PLM,
    reranker_weights: RerankerWeights = None,
    rerank_detail: Detail = "low",
    accept_license: AcceptLicense = False,
) -> None:
    """Open a page to search the collection, on this machine alone.

    \b
    perception-search app photos.ps --open
    perception-search app photos.ps --host 0.0.0.0 --port 8080
    perception-search app photos.ps --rerank 20 --reranker PE-Core-G14-448

    With --rerank the page offers a second look at that many of the best hits.
    """
    search_app = _imported()
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
    collection = open_collection(path, weights=weights, device=device, dtype=dtype)

    def ready(address: str) -> None:
        say(f"Search at {address}   (Ctrl-C ends it)")
        if open_page:
            webbrowser.open(address)

    look = second_look.look if second_look else None
    search_app.serve(collection, host=host, port=port, on_ready=ready, second_look=look)


def _imported() -> Any:
    """The page's module: inside an installed package, beside it in a checkout."""
    try:
        importlib.import_module("gradio")
    except ImportError as error:
        raise MissingExtra("the page needs gradio: pip install 'perception-search[app]'") from error
    if importlib.util.find_spec("perception_search.apps") is not None:
        return importlib.import_module("perception_search.apps.search_app")
    sys.path.insert(0, str(Path(perception_search.__file__).parent.parent))
    return importlib.import_module("apps.search_app")
