"""Hits as one HTML file with its pictures inside: opens anywhere, needs nothing."""

import base64
import html
from collections.abc import Callable, Sequence
from pathlib import Path

from perception_search.hits import Hit
from perception_search.media import display

THUMBNAIL_SIDE = 320

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --back: #fff }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9da7b3; --line: #30363d; --back: #0d1117 }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 82rem; padding: 1.5rem; color: var(--ink);
  background: var(--back); font: 16px/1.45 system-ui, sans-serif }
h1 { font-size: 1.35rem; margin: 0 0 .3rem }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .7rem; border-top: 1px solid var(--line);
  padding-top: 1.1rem }
p { margin: .2rem 0; color: var(--soft) }
.notice { border-left: 4px solid #bf8700; padding-left: .8rem; margin: 1rem 0 }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)) }
figure { margin: 0 }
.frame { position: relative; aspect-ratio: 4/3; border-radius: .5rem; overflow: hidden;
  background: var(--line) }
img { width: 100%; height: 100%; object-fit: cover; display: block }
.time { position: absolute; right: .4rem; bottom: .4rem; padding: .1rem .4rem; font-size: .8rem;
  border-radius: .3rem; color: #fff; background: rgb(0 0 0 / .75) }
figcaption { font-size: .85rem; margin-top: .35rem; overflow-wrap: anywhere }
figcaption b { font-variant-numeric: tabular-nums }
.right { outline: 3px solid #2da44e; outline-offset: 2px }
"""


def clock(seconds: float) -> str:
    """A time as people read it, to a tenth of a second: `00:01:12.4`."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 10:02d}.{rest % 10}"


def render(
    results: Sequence[tuple[str, Sequence[Hit]]],
    *,
    title: str,
    model: str,
    notice: str | None,
    thumbnail: Callable[[Path, float, int], bytes],
    right: Callable[[str, Path], bool] | None = None,
) -> str:
    """The page as text.

    Args:
        results: every query with its hits, best first.
        title: heading of the page.
        model: name of the model that found them.
        notice: what must be said of the model, if anything.
        thumbnail: (path, seconds into it, longest side) to a JPEG; raises MediaError or OSError
            where the file is gone or cannot be read, and the hit is then shown without.
        right: whether a file is a right answer to a query, where that is known.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<header><h1>{html.escape(title)}</h1><p>Found by {html.escape(model)}.</p>",
    ]
    if notice:
        parts.append(f'<p class="notice" role="note">{html.escape(notice)}</p>')
    parts.append("</header><main>")
    for query, hits in results:
        parts.append(f"<section><h2>{html.escape(query)}</h2>")
        parts.append("<ol>" if hits else "<p>Nothing found.</p>")
        for hit in hits:
            is_right = right is not None and right(query, hit.path)
            parts.append(_figure(hit, thumbnail, is_right))
        parts.append("</ol></section>" if hits else "</section>")
    parts.append("</main></body></html>\n")
    return "\n".join(parts)


def _figure(hit: Hit, thumbnail: Callable[[Path, float, int], bytes], is_right: bool) -> str:
    from perception_search.errors import MediaError

    name = html.escape(display(hit.path.name))
    time = ""
    middle = 0.0
    if hit.start_seconds is not None and hit.end_seconds is not None:
        span = f"{clock(hit.start_seconds)} – {clock(hit.end_seconds)}"
        time = f'<span class="time">▶ {span}</span>'
        middle = (hit.start_seconds + hit.end_seconds) / 2
    try:
        jpeg = thumbnail(hit.path, middle, THUMBNAIL_SIDE)
        source = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
        picture = f'<img alt="{name}" loading="lazy" src="{source}">'
    except (MediaError, OSError) as error:
        picture = f"<p>{html.escape(str(error))}</p>"
    mark = " right" if is_right else ""
    return (
        f'<li><figure><div class="frame{mark}">{picture}{time}</div>'
        f"<figcaption><b>{hit.score:.3f}</b> {name}</figcaption></figure></li>"
    )
