"""The search page: Gradio over the public API of perception_search, safe to leave running.

    perception-search app photos.ps

Pictures and videos come by content hash through routes of ours, so that nothing of the file system
can be named; uploads too, so that Gradio's own stay closed (see `guard`).
"""

import csv
import io
import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, Response

from perception_search import Collection, Hit, PerceptionSearchError
from perception_search.decode import MediaReader
from perception_search.errors import CollectionLocked, MediaError, WeightsNotFound
from perception_search.page import render

from . import cards
from .asked import KINDS, MOST_HITS, NUM_HITS, Asked
from .guard import DROP, Guard
from .shelf import DROP_BYTES, Item, Shelf

HERE = Path(__file__).parent
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOMENTS_OF_A_VIDEO = 20
SEARCHES_AT_ONCE = 4
MOST_WAITING = 200
WELCOME = (
    "Write what a picture should show, or drop a picture or a short video here. "
    "A word with - before it lowers what shows it."
)

Found = list[tuple[Hit, Item]]


class Page:
    """What the page's controls call; knows no HTTP."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.shelf = Shelf(collection)
        self._ingesting = threading.Lock()

    def find(self, asked: Asked) -> Found:
        """The hits with their items.

        Raises:
            ValueError: there is nothing to look for, or what is named is not here.
            PerceptionSearchError: the library's own sentence.
        """
        words, minus = asked.words
        how: dict[str, Any] = {"k": asked.k, "where": asked.where}
        if asked.score > -1:
            how["min_score"] = asked.score
        if asked.like:
            item = self.shelf.item(asked.like)
            if item is None:
                raise ValueError("That item is not in the collection any more.")
            hits = self.collection.similar(item.path, **how)
        else:
            images, videos = [], []
            if asked.drop:
                drop = self.shelf.dropped(asked.drop)
                if drop is None:
                    raise ValueError("The dropped file is gone: drop it again.")
                (videos if drop.kind == "video" else images).append((asked.weight, drop.path))
            if not words and not images and not videos:
                raise ValueError(WELCOME)
            if asked.captions:
                how["by"] = "hybrid"
            elif asked.answers:
                how["relevant"] = 0.2
            hits = self.collection.search(
                words or None, images=images, videos=videos, minus=minus, **how
            )
        found = ((hit, self.shelf.item_at(hit.path)) for hit in hits)
        return [(hit, item) for hit, item in found if item is not None]

    def moments(self, asked: Asked, item: Item) -> list[tuple[float, float]]:
        """The moments of one video that show what is asked for: from and to, in seconds."""
        words, minus = asked.words
        if not words or item.kind != "video":
            return []
        only = f"content_hash = '{item.content_hash}'"
        hits = self.collection.search(
            words, minus=minus, where=only, k=MOMENTS_OF_A_VIDEO, moments=True
        )
        return [
            (round(hit.start_seconds, 2), round(hit.end_seconds, 2))
            for hit in hits
            if hit.start_seconds is not None and hit.end_seconds is not None
        ]

    def shown(self, asked: Asked) -> tuple[str, str, str]:
        """The hits, the line above them, and the link that asks the same."""
        start = time.perf_counter()
        try:
            found = self.find(asked)
            seconds = time.perf_counter() - start
        except (ValueError, PerceptionSearchError, OSError) as error:
            return cards.message(sentence(error), kind=_kind(error)), "", asked.link()
        if not found:
            none = "Nothing found. Write it in other words, or take filters away."
            if self.collection.info()["rows"] == 0:
                none = f"The collection is empty: perception-search ingest {_name(self)} FOLDER"
            return cards.message(none), "", asked.link()
        return cards.grid(found), cards.summary(asked, len(found), seconds), asked.link()

    def classify(self, drop: str, labels: str) -> str:
        """How probable each of the labels, one a line or with commas, is for a dropped picture."""
        wanted = [label.strip() for label in labels.replace("\n", ",").split(",") if label.strip()]
        dropped = self.shelf.dropped(drop)
        if dropped is None:
            return cards.message("Drop a picture on the page first.")
        if not 2 <= len(wanted) <= 100:
            return cards.message("Write 2 to 100 labels, with commas between.")
        try:
            encoder: Any = self.collection.encoder_for("vision")
            self.collection.encoder_for("text")
            if not hasattr(encoder, "classify"):
                return cards.message("The model of this collection cannot classify.")
            return cards.bars(encoder.classify(dropped.path, wanted))
        except (ValueError, PerceptionSearchError, OSError) as error:
            return cards.message(sentence(error), kind="error")

    def library(self) -> str:
        """The second tab."""
        return cards.library(self.collection.info(), self.collection.failures())

    def ingest(self, on_progress: Callable[[int, int], None]) -> str:
        """Bring the collection up to date with the folders it knows; what came of it."""
        roots = [Path(root) for root in self.collection.info()["roots"]]
        there = [root for root in roots if root.exists()]
        if not there:
            return f"There is no folder yet: perception-search ingest {_name(self)} FOLDER"
        if not self._ingesting.acquire(blocking=False):
            return "It is being brought up to date already."
        try:
            report = self.collection.ingest(there, on_progress=on_progress)
        except (ValueError, PerceptionSearchError, OSError) as error:
            return sentence(error)
        finally:
            self._ingesting.release()
        return ", ".join(f"{count} {name}" for name, count in report.counts().items() if count)


def _name(page: Page) -> str:
    return page.collection.path.name


def sentence(error: Exception) -> str:
    """What went wrong and what to do, without a path of this machine's."""
    if isinstance(error, CollectionLocked):
        return "Another program is writing to the collection. Searching goes on; try again later."
    if isinstance(error, WeightsNotFound):
        return (
            "The model's weights are not on this machine. Connect it to the hub once, or name a "
            "folder in PERCEPTION_SEARCH_WEIGHTS, and start the page again."
        )
    if isinstance(error, MediaError):
        return f"The file cannot be used: {error.reason}."
    if isinstance(error, OSError):
        return f"{error.strerror or 'The disk cannot be read'}. Try again."
    text = str(error)
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _kind(error: Exception) -> str:
    return "note" if str(error) == WELCOME else "error"


def build(collection: Collection) -> tuple[gr.Blocks, Page]:
    """The page of Gradio, and what it calls."""
    page = Page(collection)
    names = [field.name for field in fields(Asked)]

    def run(*values: Any) -> tuple[str, str, str]:
        try:
            asked = Asked.of(dict(zip(names, values, strict=True)))
        except ValueError as error:
            return cards.message(sentence(error), kind="error"), "", ""
        return page.shown(asked)

    def restore(request: gr.Request) -> list[Any]:
        said = {name: value for name, value in request.query_params.items() if name in names}
        folders = gr.update(choices=["", *page.shelf.folders()])
        if not said:  # whoever types already is left alone
            kept = [folders if name == "folder" else gr.skip() for name in names]
            return [*kept, gr.skip(), gr.skip(), gr.skip()]
        try:
            asked = Asked.of(said)
        except ValueError as error:
            nothing = Asked()
            told = cards.message(sentence(error), kind="error"), "", ""
            return [*(getattr(nothing, name) for name in names), *told]
        folders = gr.update(choices=["", *page.shelf.folders()], value=asked.folder)
        values: list[Any] = [
            folders if name == "folder" else getattr(asked, name) for name in names
        ]
        return [*values, *page.shown(asked)]

    def search(
        query: str, k: int = 10, kind: str = "everything", folder: str = "", score: float = -1.0
    ) -> list[dict[str, Any]]:
        """The best hits for words: name, content hash, kind, score and times, without paths."""
        asked = Asked.of({"q": query, "k": k, "kind": kind, "folder": folder, "score": score})
        try:
            return [_told(page, hit, item) for hit, item in page.find(asked)]
        except (ValueError, PerceptionSearchError) as error:
            raise gr.Error(sentence(error)) from error

    def info() -> dict[str, Any]:
        """What is in the collection, as `perception-search info` tells it, without paths."""
        kept_back = ("path", "roots")
        return {name: value for name, value in collection.info().items() if name not in kept_back}

    with gr.Blocks(
        title=f"{collection.path.name}: search", analytics_enabled=False, fill_width=True
    ) as blocks:
        with gr.Tab("Search", id="search"):
            with gr.Row(elem_id="ps-ask"):
                q = gr.Textbox(
                    label="What should it show?",
                    placeholder="a dog on a beach -people",
                    show_label=False,
                    container=False,
                    elem_id="ps-q",
                    scale=6,
                    autofocus=True,
                    max_lines=1,
                )
                go = gr.Button("Search", variant="primary", elem_id="ps-go", scale=1, min_width=90)
            gr.HTML(_drop_zone(), apply_default_css=False, elem_id="ps-drop-zone")
            with gr.Accordion("Filters", open=False, elem_id="ps-filters"):
                with gr.Row():
                    kind = gr.Radio(list(KINDS), value=KINDS[0], label="Kind", elem_id="ps-kind")
                    folder = gr.Dropdown(
                        [""], value="", label="Folder", filterable=True, elem_id="ps-folder"
                    )
                with gr.Row():
                    after = gr.Textbox("", label="From day", placeholder="2024-05-01")
                    before = gr.Textbox("", label="To day", placeholder="2024-05-31")
                    longer = gr.Number(0, label="Video at least, s", minimum=0)
                    shorter = gr.Number(0, label="Video at most, s", minimum=0)
                    larger = gr.Number(0, label="File at least, MB", minimum=0)
                    smaller = gr.Number(0, label="File at most, MB", minimum=0)
                with gr.Row():
                    score = gr.Slider(-1, 1, value=-1, step=0.01, label="Lowest score")
                    answers = gr.Checkbox(False, label="Only what answers better than chance")
                    captions = gr.Checkbox(
                        False,
                        label="Look in captions too",
                        visible=bool(collection.info().get("captions")),
                    )
                    weight = gr.Slider(0.1, 5, value=1, step=0.1, label="Weight of a dropped file")
            top = gr.HTML("", apply_default_css=False, elem_id="ps-top")
            out = gr.HTML(cards.message(WELCOME), apply_default_css=False, elem_id="ps-out")
            more = gr.Button("Show more", elem_id="ps-more", size="sm")
            with gr.Accordion("What does the dropped picture show?", open=False):
                labels = gr.Textbox(
                    label="Labels, with commas between",
                    placeholder="a dog, a cat",
                    elem_id="ps-labels",
                )
                judge = gr.Button("Classify", size="sm", elem_id="ps-judge")
                shares = gr.HTML("", apply_default_css=False, elem_id="ps-shares")
            like = gr.Textbox("", visible="hidden", elem_id="ps-like")
            drop = gr.Textbox("", visible="hidden", elem_id="ps-drop")
            k = gr.Number(NUM_HITS, visible="hidden", elem_id="ps-k")
            link = gr.Textbox("", visible="hidden", elem_id="ps-link")
        with gr.Tab("Library", id="library"):
            about = gr.HTML("", apply_default_css=False, elem_id="ps-about")
            refresh = gr.Button("Look for new files", elem_id="ps-ingest")
            told = gr.Markdown("", elem_id="ps-told")

        controls = {
            "q": q,
            "like": like,
            "drop": drop,
            "weight": weight,
            "kind": kind,
            "after": after,
            "before": before,
            "longer": longer,
            "shorter": shorter,
            "larger": larger,
            "smaller": smaller,
            "folder": folder,
            "score": score,
            "answers": answers,
            "captions": captions,
            "k": k,
        }
        inputs: Any = [controls[name] for name in names]
        outputs: Any = [out, top, link]
        private: Any = {"api_visibility": "private", "show_progress": "minimal"}
        put = "(link) => { if (link) history.replaceState(null, '', link); }"

        def put_link(ran: Any) -> None:
            ran.then(None, link, None, js=put, **private)

        for event in (q.submit, go.click):
            asked_anew = event(lambda: ("", NUM_HITS), None, [like, k], **private)
            put_link(asked_anew.then(run, inputs, outputs, **private))
        sizes = (longer, shorter, larger, smaller)
        filters = (kind, folder, after, before, *sizes, score, answers, captions)
        for control in (*filters, weight):
            changed = getattr(control, "input", None) or control.change
            put_link(changed(run, inputs, outputs, **private))
        put_link(drop.change(run, inputs, outputs, **private))
        wanted_more = more.click(lambda n: min(MOST_HITS, int(n) + NUM_HITS), k, k, **private)
        put_link(wanted_more.then(run, inputs, outputs, **private))
        judge.click(page.classify, [drop, labels], shares, **private)
        blocks.load(restore, None, [*inputs, *outputs], **private)
        blocks.load(page.library, None, about, **private)

        def bring_up_to_date(progress: Any = gr.Progress()) -> tuple[str, str]:  # noqa: B008
            said = page.ingest(lambda done, total: progress((done, total), unit="files"))
            return said, page.library()

        refresh.click(bring_up_to_date, None, [told, about], concurrency_limit=1, **private)
        gr.api(search, api_name="search")
        gr.api(info, api_name="info")
    blocks.queue(max_size=MOST_WAITING, default_concurrency_limit=SEARCHES_AT_ONCE)
    return blocks, page


def _told(page: Page, hit: Hit, item: Item) -> dict[str, Any]:
    times = ("start_seconds", "end_seconds", "best_seconds")
    return {
        **page.shelf.facts(item),
        "score": hit.score,
        **{name: getattr(hit, name) for name in times},
        "thumbnail": f"/thumb/{item.content_hash}",
    }


def _drop_zone() -> str:
    return (
        '<div id="ps-drop-here" tabindex="0" role="button" '
        'aria-label="Drop or choose a picture or a short video to search by">'
        '<span id="ps-drop-text">Drop a picture or a short video here, or choose one</span>'
        '<img id="ps-drop-picture" alt="the dropped file" hidden>'
        '<button type="button" id="ps-drop-clear" hidden>Remove</button>'
        '<input type="file" id="ps-drop-file" accept="image/*,video/*" hidden></div>'
    )


def make_app(
    collection: Collection, *, hosts: frozenset[str] = frozenset(), token: str | None = None
) -> Any:
    """The whole page as an ASGI application.

    Args:
        collection: what is searched.
        hosts: see `Guard`.
        token: see `Guard`.
    """
    blocks, page = build(collection)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _routes(app, page)
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    app = gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        allowed_paths=[],
        show_error=False,
        max_file_size=1,
        footer_links=[],
        theme=gr.themes.Default(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]
        ),
        head=f"<style>{style}</style><script>{script}</script>",
        ssr_mode=False,
    )
    return Guard(app, hosts=hosts, token=token, large={DROP: DROP_BYTES})


def _routes(app: FastAPI, page: Page) -> None:
    shelf = page.shelf
    keep = {"Cache-Control": "private, max-age=86400"}

    def item_of(content_hash: str) -> Item:
        item = shelf.item(content_hash)
        if item is None:
            raise HTTPException(404, "There is no such item here.")
        return item

    @app.get("/thumb/{content_hash}")
    def thumb(content_hash: str, t: float = 0.0) -> Response:
        item = item_of(content_hash)
        if not 0 <= t < 1e7:
            raise HTTPException(404, "There is no such moment.")
        try:
            return Response(shelf.thumbnail(item, t), media_type="image/jpeg", headers=keep)
        except MediaError as error:
            raise HTTPException(404, error.reason) from error

    @app.get("/media/{content_hash}")
    def media(content_hash: str) -> Response:
        item = item_of(content_hash)
        if not item.path.is_file():
            raise HTTPException(404, "The file is not there any more.")
        return FileResponse(item.path, media_type=_media_type(item), headers=keep)

    @app.get("/moments/{content_hash}")
    def moments(content_hash: str, request: Request) -> list[tuple[float, float]]:
        item = item_of(content_hash)
        try:
            return page.moments(Asked.of(dict(request.query_params)), item)
        except (ValueError, PerceptionSearchError) as error:
            raise HTTPException(400, sentence(error)) from error

    @app.get("/dropped/{name}")
    def dropped(name: str) -> Response:
        jpeg = shelf.dropped_picture(name)
        if jpeg is None:
            raise HTTPException(404, "There is no such file here.")
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    @app.post(DROP)
    async def drop(request: Request) -> Response:
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > DROP_BYTES:
                raise HTTPException(413, f"More than {DROP_BYTES >> 20} MB, which is the most.")
        import anyio

        try:
            name, kind = await anyio.to_thread.run_sync(shelf.take, bytes(content))
        except MediaError as error:
            raise HTTPException(415, sentence(error)) from error
        return Response(json.dumps({"name": name, "kind": kind}), media_type="application/json")

    @app.get("/export/{name}")
    def export(name: str, request: Request) -> Response:
        try:
            asked = Asked.of(dict(request.query_params))
            found = page.find(asked)
        except (ValueError, PerceptionSearchError) as error:
            raise HTTPException(400, sentence(error)) from error
        if name not in _EXPORTS:
            raise HTTPException(404, f"There are {', '.join(_EXPORTS)}.")
        content, kind = _EXPORTS[name](page, asked, found)
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type=kind, headers=headers)


def _media_type(item: Item) -> str:
    """Never a type that a browser runs."""
    suffix = item.path.suffix.lower()
    if item.kind == "video":
        return {".webm": "video/webm", ".mov": "video/quicktime"}.get(suffix, "video/mp4")
    known = {".png": "image/png", ".gif": "image/gif", ".webp": "image/webp", ".avif": "image/avif"}
    return known.get(suffix, "image/jpeg")


def _as_json(page: Page, asked: Asked, found: Found) -> tuple[bytes, str]:
    hits = [hit.as_dict() for hit, _ in found]
    return json.dumps({"asked": asked.link(), "hits": hits}, indent=1).encode(), "application/json"


def _as_csv(page: Page, asked: Asked, found: Found) -> tuple[bytes, str]:
    text = io.StringIO()
    rows = [{name: _defused(value) for name, value in hit.as_dict().items()} for hit, _ in found]
    writer = csv.DictWriter(text, list(Hit.__dataclass_fields__))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace"), "text/csv; charset=utf-8"


def _defused(cell: Any) -> Any:
    """A text that a spreadsheet would take for a formula has ' before it, as OWASP advises."""
    is_formula = isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{cell}" if is_formula else cell


def _as_files(page: Page, asked: Asked, found: Found) -> tuple[bytes, str]:
    import os

    return b"".join(os.fsencode(hit.path) + b"\n" for hit, _ in found), "text/plain; charset=utf-8"


def _as_sheet(page: Page, asked: Asked, found: Found) -> tuple[bytes, str]:
    with MediaReader() as reader:
        text = render(
            [(asked.q or "more like this", [hit for hit, _ in found])],
            title=page.collection.path.name,
            model=page.collection.identity.model,
            notice=page.collection.notice,
            thumbnail=reader.thumbnail,
        )
    return text.encode("utf-8", "backslashreplace"), "text/html; charset=utf-8"


_EXPORTS = {
    "hits.json": _as_json,
    "hits.csv": _as_csv,
    "files.txt": _as_files,
    "sheet.html": _as_sheet,
}


def serve(collection: Collection, *, host: str, port: int, on_ready: Callable[[str], None]) -> None:
    """Answer until Ctrl-C.

    Args:
        collection: what is searched.
        host: the address to listen at; another than this machine's own asks for a token.
        port: 0 for any that is free.
        on_ready: called with the page's address.

    Raises:
        OSError: the port is taken.
    """
    import socket

    import uvicorn

    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(128)  # who comes before the page is ready waits
    port = listener.getsockname()[1]
    own = host in LOOPBACK
    token = None if own else secrets.token_urlsafe(24)
    names = ("127.0.0.1", "localhost", "[::1]")
    hosts = frozenset(f"{name}:{port}" for name in names) if own else frozenset()
    app = make_app(collection, hosts=hosts, token=token)
    shown = f"[{host}]" if ":" in host else host
    on_ready(f"http://{shown}:{port}/" + (f"?token={token}" if token else ""))
    config = uvicorn.Config(app, log_level="warning", access_log=False)
    uvicorn.Server(config).run([listener])
