"""The demo: sample media or your own, ten queries, one page of pictures."""

import tomllib
from collections.abc import Callable
from pathlib import Path

from perception_search.collection import Collection
from perception_search.decode import MediaReader
from perception_search.hits import Hits
from perception_search.page import render

NUM_HITS = 6


def questions() -> dict[str, list[str]]:
    """Each demo query with the names of the sample files that answer it.

    Written by people who looked at the media, before any encoder had.
    """
    text = Path(__file__).with_name("demo.toml").read_text(encoding="utf-8")
    return {entry["text"]: entry["right"] for entry in tomllib.loads(text)["query"]}


def run(
    media: Path | None, model: str, out: Path, *, say: Callable[[str], None]
) -> list[tuple[str, Hits]]:
    """Index `media` into `out/demo.ps`, ask, and write `out/index.html`.

    Args:
        media: a folder; None for the sample media, which are fetched at the first run.
        model: as for `Collection.create`.
        out: made if absent; a collection that is there is brought up to date.
        say: told what happens, a sentence at a time.

    Returns:
        Each query with its hits.
    """
    answers = questions() if media is None else {}
    if media is None:
        from perception_search.assets import sample_media

        media = sample_media(say)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "demo.ps"
    photos = Collection.open(path) if path.exists() else Collection.create(path, model=model)
    if photos.notice:
        say(photos.notice)
    say(f"Indexing {media} into {path}.")
    report = photos.ingest(media)
    say(", ".join(f"{count} {name}" for name, count in report.counts().items() if count))

    results = [(query, photos.search(query, k=NUM_HITS)) for query in questions()]
    num_right = 0
    for query, hits in results:
        found = hits[0].path.name if hits else "nothing"
        is_right = found in answers.get(query, [])
        num_right += is_right
        mark = "" if not answers else "right  " if is_right else "wrong  "
        say(f"  {mark}{query}: {found}")
    if answers:
        say(f"{num_right} of {len(results)} queries have a right picture first.")
    page = out / "index.html"
    with MediaReader() as reader:
        text = render(
            results,
            title="perception_search: ten queries",
            model=photos.identity.model,
            notice=photos.notice,
            thumbnail=reader.thumbnail,
            right=lambda query, path: path.name in answers.get(query, []),
        )
    page.write_text(text, encoding="utf-8", errors="backslashreplace")
    say(f"Look at {page}")
    return results
