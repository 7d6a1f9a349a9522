"""Hits as one HTML file with its pictures inside: opens anywhere, needs nothing."""

import base64
import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from perception_search.hits import Hit, clock
from perception_search.media import display
from perception_search.snapshot import OWN

THUMBNAIL_SIDE = 320
STRIP_SIDE = 160
STRIP_FRAMES = 5

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
.strip { display: grid; grid-template-columns: repeat(5, 1fr); gap: .2rem; margin-top: .2rem }
.strip img { aspect-ratio: 4/3; border-radius: .2rem }
figcaption { font-size: .85rem; margin-top: .35rem; overflow-wrap: anywhere }
figcaption b { font-variant-numeric: tabular-nums }
.right { outline: 3px solid #2da44e; outline-offset: 2px }
"""


Thumbnail: TypeAlias = Callable[[Path, float, int], bytes]


def render(
    results: Sequence[tuple[str, Sequence[Hit]]],
    *,
    title: str,
    model: str,
    notice: str | None,
    thumbnail: Thumbnail,
    right: Callable[[str, Path], bool] | None = None,
    strips: bool = False,
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
        strips: show five frames of each moment of a video under its best one.
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
            parts.append(_figure(hit, thumbnail, is_right, strips))
        parts.append("</ol></section>" if hits else "</section>")
    parts.append("</main></body></html>\n")
    return "\n".join(parts)


def _figure(hit: Hit, thumbnail: Thumbnail, is_right: bool, has_strip: bool) -> str:
    from perception_search.errors import MediaError

    name = html.escape(display(hit.path.name))
    time = strip = ""
    try:
        picture = _picture(hit.path, hit.best_seconds or 0.0, THUMBNAIL_SIDE, name, thumbnail)
        if hit.start_seconds is not None and hit.end_seconds is not None:
            span = f"{clock(hit.start_seconds)} – {clock(hit.end_seconds)}"
            time = f'<span class="time">▶ {span}</span>'
            if has_strip:
                frames = [
                    _picture(hit.path, at, STRIP_SIDE, f"{name} at {clock(at)}", thumbnail)
                    for at in strip_seconds(hit.start_seconds, hit.end_seconds)
                ]
                strip = f'<div class="strip">{"".join(frames)}</div>'
    except (MediaError, OSError) as error:
        picture = f"<p>{html.escape(str(error))}</p>"
    mark = " right" if is_right else ""
    return (
        f'<li><figure><div class="frame{mark}">{picture}{time}</div>{strip}'
        f"<figcaption><b>{hit.score:.3f}</b> {name}{_words(hit)}</figcaption></figure></li>"
    )


def _words(hit: Hit) -> str:
    """The caption of a hit, with what wrote it and its licence unless it is the owner's."""
    if hit.caption is None:
        return ""
    origin = ""
    if (hit.caption_model, hit.caption_licence) != (OWN, OWN):
        origin = f" ({html.escape(f'{hit.caption_model}, {hit.caption_licence}')})"
    return f'<p class="caption">{html.escape(hit.caption)}{origin}</p>'


def strip_seconds(start_seconds: float, end_seconds: float) -> list[float]:
    """The times of a strip's frames: the middles of five equal parts of a moment."""
    step = (end_seconds - start_seconds) / STRIP_FRAMES
    return [start_seconds + (number + 0.5) * step for number in range(STRIP_FRAMES)]


def _picture(path: Path, at: float, side: int, words: str, thumbnail: Thumbnail) -> str:
    source = f"data:image/jpeg;base64,{base64.b64encode(thumbnail(path, at, side)).decode()}"
    return f'<img alt="{words}" loading="lazy" src="{source}">'
