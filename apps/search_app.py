"""The search page: Gradio over the public API of perception_search, safe to leave running.

    perception-search app photos.ps

Pictures and videos come by content hash through routes of ours, so that nothing of the file system
can be named; uploads too, so that Gradio's own stay closed (see `guard`).
"""

import contextlib
import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from perception_search import Collection, Hit, PerceptionSearchError
from perception_search.reranking import SecondLook

from . import cards
from .asked import KINDS, MOST_HITS, NUM_HITS, Asked
from .guard import DROP, Guard
from .page import WELCOME, Page, sentence
from .routes import MOST_WAITING, SEARCHES_AT_ONCE, add_routes, first_look
from .shelf import DROP_BYTES, Item

HERE = Path(__file__).parent
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def build(collection: Collection, second_look: SecondLook | None) -> tuple[gr.Blocks, Page]:
    """The page of Gradio, and what it calls."""
    page = Page(collection, second_look)
    names = [field.name for field in fields(Asked)]

    def restore(request: gr.Request) -> list[Any]:
        said = {name: value for name, value in request.query_params.items() if name in names}
        folders = gr.update(choices=["", *page.shelf.folders()])
        if not said:  # whoever types already is left alone
            kept = [folders if name == "folder" else gr.skip() for name in names]
            return [*kept, gr.skip(), gr.skip()]
        try:
            asked = Asked.of(said)
        except ValueError:
            asked = Asked()
        folders = gr.update(choices=["", *page.shelf.folders()], value=asked.folder)
        values = [folders if name == "folder" else getattr(asked, name) for name in names]
        return [*values, *first_look(page, said)[:2]]

    def search(
        query: str,
        k: int = 10,
        kind: str = "everything",
        folder: str = "",
        score: float = -1.0,
        after: str = "",
        before: str = "",
        longer: float = 0.0,
        shorter: float = 0.0,
        larger: float = 0.0,
        smaller: float = 0.0,
        rerank: bool = False,
    ) -> list[dict[str, Any]]:
        """The best hits for words: name, content hash, kind, score and times, without paths."""
        said = {"q": query, "k": k, "kind": kind, "folder": folder, "score": score}
        said |= {"after": after, "before": before, "longer": longer, "shorter": shorter}
        said |= {"larger": larger, "smaller": smaller, "rerank": rerank}
        try:
            *_, (found, _) = page.looks(Asked.of(said))
            return [_told(page, hit, item) for hit, item in found]
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
                    again = gr.Checkbox(
                        False,
                        label=_second_look_label(second_look),
                        visible=second_look is not None,
                        elem_id="ps-rerank",
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
            looked = gr.Textbox("", visible="hidden", elem_id="ps-looked")
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
            "rerank": again,
            "k": k,
        }
        inputs: Any = [controls[name] for name in names]
        private: Any = {"api_visibility": "private", "show_progress": "minimal"}

        def ask(event: Any, how: str) -> None:
            """Through a route of ours: Gradio's queue alone would take a tenth of a second."""
            js = f"(...values) => psAsk({json.dumps(names)}, values, {how})"
            event(None, inputs, [out, top, like, k], js=js, **private)

        for event in (q.submit, go.click):
            ask(event, f"{{like: '', k: {NUM_HITS}}}")
        sizes = (longer, shorter, larger, smaller)
        filters = (kind, folder, after, before, *sizes, score, answers, captions, again)
        for control in (*filters, weight):
            ask(getattr(control, "input", None) or control.change, "{}")
        ask(drop.change, "{}")
        ask(more.click, f"{{more: {NUM_HITS}, most: {MOST_HITS}}}")
        looked.change(None, looked, [out, top], js="(text) => JSON.parse(text)", **private)
        judge.click(page.classify, [drop, labels], shares, **private)
        restored = blocks.load(restore, None, [*inputs, out, top], **private)
        restored.then(None, None, None, js="() => psLookAgain(location.search)", **private)
        blocks.load(page.library, None, about, **private)

        def bring_up_to_date(progress: Any = gr.Progress()) -> tuple[str, str]:  # noqa: B008
            said = page.ingest(lambda done, total: progress((done, total), unit="files"))
            return said, page.library()

        refresh.click(bring_up_to_date, None, [told, about], concurrency_limit=1, **private)
        for program, name in ((search, "search"), (info, "info")):
            gr.api(program, api_name=name)  # type: ignore[attr-defined]
    blocks.queue(max_size=MOST_WAITING, default_concurrency_limit=SEARCHES_AT_ONCE)
    return blocks, page


def _told(page: Page, hit: Hit, item: Item) -> dict[str, Any]:
    also = ("start_seconds", "end_seconds", "best_seconds", "rerank_score")
    return {
        **page.shelf.facts(item),
        "score": hit.score,
        **{name: getattr(hit, name) for name in also},
        "thumbnail": f"/thumb/{item.content_hash}",
    }


def _second_look_label(second_look: SecondLook | None) -> str:
    if second_look is None:
        return ""
    return f"Second look at the best {second_look.depth} by {second_look.reranker.name}"


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
    collection: Collection,
    *,
    hosts: frozenset[str] = frozenset(),
    token: str | None = None,
    second_look: SecondLook | None = None,
) -> Any:
    """The whole page as an ASGI application.

    Args:
        collection: what is searched.
        hosts: see `Guard`.
        token: see `Guard`.
        second_look: who judges the first hits again, by choice.
    """
    blocks, page = build(collection, second_look)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_routes(app, page)
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


def serve(
    collection: Collection,
    *,
    host: str,
    port: int,
    on_ready: Callable[[str], None],
    second_look: SecondLook | None = None,
) -> None:
    """Answer until Ctrl-C.

    Args:
        collection: what is searched.
        host: the address to listen at; another than this machine's own asks for a token.
        port: 0 for any that is free.
        on_ready: called with the page's address.
        second_look: who judges the first hits again, by choice.

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
    app = make_app(collection, hosts=hosts, token=token, second_look=second_look)
    shown = f"[{host}]" if ":" in host else host
    on_ready(f"http://{shown}:{port}/" + (f"?token={token}" if token else ""))
    threading.Thread(target=_load_text_tower, args=[collection], daemon=True).start()
    config = uvicorn.Config(app, log_level="warning", access_log=False)
    uvicorn.Server(config).run([listener])


def _load_text_tower(collection: Collection) -> None:
    """Now, not at the first search, which says it where something is wrong."""
    with contextlib.suppress(PerceptionSearchError, ValueError, OSError):
        encoder: Any = collection.encoder_for("text")
        encoder.encode_text(["something"])
