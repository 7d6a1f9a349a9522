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
) -> None:
    """Open a page to search the collection, on this machine alone.

    \b
    perception-search app photos.ps --open
    perception-search app photos.ps --host 0.0.0.0 --port 8080
    """
    search_app = _imported()
    collection = open_collection(path, weights=weights, device=device, dtype=dtype)

    def ready(address: str) -> None:
        say(f"Search at {address}   (Ctrl-C ends it)")
        if open_page:
            webbrowser.open(address)

    search_app.serve(collection, host=host, port=port, on_ready=ready)


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
