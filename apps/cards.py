"""Hits and the library as HTML for the page."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from perception_search import Hit
from perception_search.media import display

from .asked import Asked
from .shelf import Item


def clock(seconds: float) -> str:
    """`1:02` or `1:01:02`."""
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def size(num_bytes: float) -> str:
    """`1.5 MB`."""
    for unit in ("KB", "MB", "GB"):
        num_bytes /= 1000
        if num_bytes < 1000 or unit == "GB":
            break
    return f"{num_bytes:.1f} {unit}"


def grid(hits: Sequence[tuple[Hit, Item]]) -> str:
    """The hits as a grid of cards."""
    cards = [card(hit, item, rank) for rank, (hit, item) in enumerate(hits, start=1)]
    return f'<div class="ps-grid" role="list">{"".join(cards)}</div>'


def card(hit: Hit, item: Item, rank: int) -> str:
    """One hit."""
    name = html.escape(display(item.path.name))
    at = hit.best_seconds or 0.0
    said = {
        "hash": item.content_hash,
        "kind": item.kind,
        "name": display(item.path.name),
        "rank": rank,
        "score": round(hit.score, 4),
        "rerank": None if hit.rerank_score is None else round(hit.rerank_score, 3),
        "relevance": None if hit.relevance is None else round(hit.relevance, 3),
        "start": hit.start_seconds,
        "end": hit.end_seconds,
        "best": hit.best_seconds,
        "caption": hit.caption,
        "date": item.taken,
        "duration": item.duration_seconds,
        "size": size(item.size_bytes),
        "pixels": f"{item.width} × {item.height}" if item.width and item.height else "",
    }
    badge, what = "", "picture"
    if item.kind == "video":
        what = "video"
        if hit.start_seconds is not None and hit.end_seconds is not None:
            badge = f"{clock(hit.start_seconds)} – {clock(hit.end_seconds)}"
            what = f"video, from {badge}"
        badge = f'<span class="ps-time">▶ {badge}</span>'
    about = [item.taken, clock(item.duration_seconds) if item.duration_seconds else ""]
    like = urlencode({"like": item.content_hash})
    source = f"/thumb/{item.content_hash}?{urlencode({'t': round(at, 1)})}"
    data = html.escape(json.dumps(said), quote=True)
    return (
        f'<article class="ps-card" role="listitem" data-hit="{data}">'
        f'<button type="button" class="ps-open" aria-label="Open {name}, {what}">'
        f'<img loading="lazy" decoding="async" src="{source}" alt="{name}, {what}">{badge}</button>'
        f'<div class="ps-line"><b title="cosine similarity">{hit.score:.3f}</b>'
        f'<span class="ps-name" title="{name}">{name}</span></div>'
        f'<div class="ps-line ps-soft"><span>{" · ".join(part for part in about if part)}</span>'
        f'<a class="ps-like" href="/?{like}">More like this</a></div></article>'
    )


def message(text: str, *, kind: str = "note") -> str:
    """A sentence in the place of hits."""
    return f'<p class="ps-message ps-{kind}" role="status">{html.escape(text)}</p>'


def summary(asked: Asked, count: int, seconds: float, said: str = "") -> str:
    """What was found, what else is said of it, and where it can be taken."""
    query = asked.link()[1:]
    links = " ".join(
        f'<a href="/export/{name}?{html.escape(query)}" download>{label}</a>'
        for name, label in (
            ("sheet.html", "Contact sheet"),
            ("hits.csv", "CSV"),
            ("hits.json", "JSON"),
            ("files.txt", "File list"),
        )
    )
    found = "1 hit" if count == 1 else f"{count} hits"
    told = f"{found} in {1000 * seconds:.0f} ms" + (f" · {said}" if said else "")
    return (
        f'<div class="ps-summary"><span role="status">{html.escape(told)}</span>'
        f'<span class="ps-links">{links}</span></div>'
    )


def bars(probabilities: Mapping[str, float]) -> str:
    """Labels with how probable they are."""
    rows = "".join(
        f'<div class="ps-bar"><span>{html.escape(label)}</span>'
        f'<meter min="0" max="1" value="{value:.4f}"></meter><b>{value:.1%}</b></div>'
        for label, value in sorted(probabilities.items(), key=lambda pair: -pair[1])
    )
    return f'<div class="ps-bars">{rows}</div>'


def library(info: Mapping[str, Any], failures: Sequence[Any]) -> str:
    """What is in the collection, how it is searched, and what could not be taken in."""
    index = info["index"]
    if index is None:
        searched = "Every row is scored: no index."
    else:
        recall = index.get("recall") or {}
        told = ", ".join(f"{share:.1%} by {kind}" for kind, share in recall.items())
        found = f"; finds {told} of the ten best" if told else ""
        searched = f"{index.get('recipe', 'an index')}{found}"
    folders = [display(Path(root).name or root) for root in info["roots"]]
    facts = {
        "Pictures": f"{info['images']:,}",
        "Videos": f"{info['videos']:,}, {clock(info['video_seconds'])} in all",
        "Rows": f"{info['rows']:,}",
        "On disk": size(info["size_bytes"]),
        "Model": info["model"],
        "Search": searched,
        "Folders": ", ".join(folders) or "none yet",
        "Since": info["created_at"],
    }
    if coming := info["moving_to"]:
        num_items = info["images"] + info["videos"]
        facts["Moving to"] = f"{coming['model']}: {coming['items']:,} of {num_items:,} items"
    rows = "".join(
        f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in facts.items()
    )
    notice = message(info["notice"], kind="notice") if info.get("notice") else ""
    failed = "".join(
        f"<tr><td>{html.escape(file.outcome)}</td><td>{html.escape(display(file.path.name))}</td>"
        f"<td>{html.escape(file.reason or '')}</td></tr>"
        for file in failures[:500]
    )
    more = f"<p>And {len(failures) - 500:,} more.</p>" if len(failures) > 500 else ""
    listed = (
        f"<h3>{len(failures):,} files could not be taken in</h3>"
        '<table class="ps-table"><tr><th>why</th><th>file</th><th>more</th></tr>'
        f"{failed}</table>{more}"
        if failures
        else "<p>Every file could be taken in.</p>"
    )
    return f'{notice}<table class="ps-table">{rows}</table>{listed}'
