"""Who may talk to the page: requests of its own address, of its own pages, with its token.

The page needs few of Gradio's routes; those that take or give files, fetch addresses or reach other
programs are closed.
"""

import json
import re
import secrets
from collections.abc import Awaitable, Callable
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs

MOST_BYTES = 1 << 20
COOKIE = "perception_search_token"
DROP = "/drop"
_CLOSED = re.compile(
    r"^(/gradio_api)?/(upload|upload_progress|file|proxy|stream|component_server|custom_component"
    r"|deep_link|monitoring|vibe|process_recording|dev|login|logout|mcp|session|reload|run|api"
    r"|call/v2)\b|file="
    r"|proxy=|\.\.|%2e%2e|\\",
    re.IGNORECASE,
)

HEADERS = {
    "content-security-policy": "; ".join(
        (
            "default-src 'self'",
            # Gradio writes its settings into the page and makes functions of text
            "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "media-src 'self' blob:",
            "connect-src 'self'",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Of every reply: nothing comes from elsewhere or goes there, and no other page shows this one."""

_CALLS = re.compile(r"^/gradio_api/(queue/join|call/\w+)/?$")

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class Guard:
    """ASGI middleware that answers 403, 404 or 413 before anything else sees a request.

    Args:
        app: what answers the rest.
        hosts: the values of the Host header that are ours; empty for any, where a token is asked.
        token: what must be known; None where only this machine can ask.
        large: paths that take more than a megabyte, with how much.
    """

    def __init__(
        self, app: Any, *, hosts: frozenset[str], token: str | None, large: dict[str, int]
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._token = token
        self._large = large

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        send = _with_headers(send, HEADERS)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1")
                   for name, value in scope["headers"]}  # fmt: skip
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        limit = self._large.get(scope["path"], MOST_BYTES)
        receive = _limited(receive, limit)
        if scope["method"] == "POST":
            if scope["path"] != DROP and not _CALLS.match(scope["path"]):
                await _answer(send, 404, "There is no such place here.")
                return
            if scope["path"] != DROP:
                body = await _whole(receive)
                if not _is_plain(body):
                    await _answer(send, 400, "data holds text, numbers, true, false and null only.")
                    return
                receive = _again(body, receive)
        if self._token is not None and self._is_token(_asked(scope)):
            cookie = f"{COOKIE}={self._token}; HttpOnly; SameSite=Strict; Path=/"
            send = _with_headers(send, {"set-cookie": cookie})
        await self._app(scope, receive, send)

    def _refusal(self, scope: dict[str, Any], headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "").lower()
        if self._hosts and host not in self._hosts:
            return 403, "This page answers at its own address only."
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
            return 403, "Another site's page may not ask this one."
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] != "GET":
            return 403, "Another site's page may not ask this one."
        raw = scope.get("raw_path") or b""
        if _CLOSED.search(scope["path"]) or _CLOSED.search(raw.decode("latin-1")):
            return 404, "There is no such place here."
        limit = self._large.get(scope["path"], MOST_BYTES)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > limit:
            return 413, f"More than {limit >> 20} MB, which is the most."
        if self._token is not None and not self._knows(scope, headers):
            return 403, "Open the page by the link with the token that was printed at its start."
        return None

    def _knows(self, scope: dict[str, Any], headers: dict[str, str]) -> bool:
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except Exception:  # a cookie is written by anyone
            cookies = SimpleCookie()
        kept = cookies[COOKIE].value if COOKIE in cookies else ""
        given = headers.get("authorization", "").removeprefix("Bearer ")
        return any(self._is_token(one) for one in (_asked(scope), kept, given))

    def _is_token(self, text: str) -> bool:
        # bytes: of texts compare_digest takes ASCII alone
        return secrets.compare_digest(
            text.encode("utf-8", "surrogatepass"), (self._token or "").encode()
        )


def _asked(scope: dict[str, Any]) -> str:
    """The token that the address carries; empty without one."""
    query: bytes = scope["query_string"]
    return parse_qs(query.decode("latin-1")).get("token", [""])[0]


async def _whole(receive: Receive) -> bytes:
    """The whole body; empty where the other side went away."""
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """A receive that gives a body that was read already, and then what comes after it."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> dict[str, Any]:
        return waiting.pop() if waiting else await receive()

    return again


def _is_plain(body: bytes) -> bool:
    """Whether a call carries plain values alone: Gradio takes an object for a file or an address,
    whatever the function wants, and copies or fetches it.
    """
    try:
        said = json.loads(body)
        event = said.get("event_data") or {}
        event = event if isinstance(event, dict) else {"": event}
        others = [value for name, value in said.items() if name not in ("data", "event_data")]
        values = [*said.get("data", []), *others, *event.values()]
    except (ValueError, AttributeError, TypeError, RecursionError):
        return False
    return not any(isinstance(value, dict | list) for value in values)


def _limited(receive: Receive, limit: int) -> Receive:
    """A body that says less than it sends ends where the limit is."""
    num_bytes = 0

    async def limited() -> dict[str, Any]:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > limit:
            return {"type": "http.disconnect"}
        return message

    return limited


def _with_headers(send: Send, more: dict[str, str]) -> Send:
    """A send that adds headers, in the place of those of the same name."""
    added = [(name.encode(), value.encode()) for name, value in more.items()]
    names = {name for name, _ in added}

    async def with_headers(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message["headers"] if pair[0].lower() not in names]
            message["headers"] = [*kept, *added]
        await send(message)

    return with_headers


async def _answer(send: Send, status: int, text: str) -> None:
    body = text.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
