"""What the page gives out: media by content hash, their moments and ranks, hits to take away."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator
from typing import Any

import anyio
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, Response, StreamingResponse

from perception_search import Hit, PerceptionSearchError
from perception_search.decode import MediaReader
from perception_search.errors import MediaError
from perception_search.page import render

from . import cards
from .asked import Asked
from .guard import DROP
from .page import Found, Page, sentence
from .shelf import DROP_BYTES, Item

SEARCHES_AT_ONCE = 4
MOST_WAITING = 200


def add_routes(app: FastAPI, page: Page) -> None:
    """Add the routes that are not Gradio's."""
    shelf = page.shelf
    keep = {"Cache-Control": "private, max-age=86400"}

    def item_of(content_hash: str) -> Item:
        item = shelf.item(content_hash)
        if item is None:
            raise HTTPException(404, "There is no such item here.")
        return item

    turns = anyio.CapacityLimiter(SEARCHES_AT_ONCE)

    @app.get("/hits")
    async def hits(request: Request) -> dict[str, str]:
        if turns.statistics().tasks_waiting >= MOST_WAITING:
            raise HTTPException(503, "Too many people search just now; try again.")
        said = dict(request.query_params)
        out, top, link = await anyio.to_thread.run_sync(first_look, page, said, limiter=turns)
        return {"out": out, "top": top, "link": link}

    @app.get("/looks")
    def looks(request: Request) -> StreamingResponse:
        with _refusing():
            asked = Asked.of(dict(request.query_params))
        lines = (json.dumps([out, top]) + "\n" for out, top, _ in page.shown(asked))
        return StreamingResponse(lines, media_type="application/x-ndjson")

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
        with _refusing():
            return page.moments(Asked.of(dict(request.query_params)), item)

    @app.get("/ranks/{content_hash}")
    def ranks(content_hash: str, request: Request) -> dict[str, int | None]:
        item = item_of(content_hash)
        with _refusing():
            return page.ranks(Asked.of(dict(request.query_params)), item)

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
        try:
            name, kind = await anyio.to_thread.run_sync(shelf.take, bytes(content))
        except MediaError as error:
            raise HTTPException(415, sentence(error)) from error
        return Response(json.dumps({"name": name, "kind": kind}), media_type="application/json")

    @app.get("/export/{name}")
    def export(name: str, request: Request) -> Response:
        with _refusing():
            asked = Asked.of(dict(request.query_params))
            *_, (found, _) = page.looks(asked)
        if name not in _EXPORTS:
            raise HTTPException(404, f"There are {', '.join(_EXPORTS)}.")
        content, kind = _EXPORTS[name](page, asked, found)
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type=kind, headers=headers)


def first_look(page: Page, said: dict[str, Any]) -> tuple[str, str, str]:
    """The hits at once, as `Page.shown` has them, or the sentence that says what is wrong."""
    try:
        asked = Asked.of(said)
    except ValueError as error:
        return cards.message(sentence(error), kind="error"), "", ""
    return next(page.shown(asked))


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """What makes no sense, or cannot be searched for, is answered 400 with its sentence."""
    try:
        yield
    except (ValueError, PerceptionSearchError) as error:
        raise HTTPException(400, sentence(error)) from error


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
