"""What the page's controls and routes call; knows no HTTP and no Gradio."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from perception_search import Collection, Hit, PerceptionSearchError
from perception_search.errors import CollectionLocked, MediaError, WeightsNotFound
from perception_search.reranking import SecondLook

from . import cards
from .asked import MOST_HITS, Asked
from .shelf import Item, Shelf

MOMENTS_OF_A_VIDEO = 20
WAIT_FOR_JUDGE_SECONDS = 30.0
WELCOME = (
    "Write what a picture should show, or drop a picture or a short video here. "
    "A word with - before it lowers what shows it."
)

Found: TypeAlias = list[tuple[Hit, Item]]


class Page:
    """Searches as it is asked to, and says what comes of it.

    Args:
        collection: what is searched.
        second_look: None where no hit can be judged once more.
    """

    def __init__(self, collection: Collection, second_look: SecondLook | None = None) -> None:
        self.collection = collection
        self.second_look = second_look
        self.shelf = Shelf(collection)
        self._ingesting = threading.Lock()
        self._judging = threading.Lock()

    def find(self, asked: Asked, *, exact: bool = False) -> Found:
        """The hits with their items, by a first look.

        Args:
            asked: what for.
            exact: score every row, whatever index there is.

        Raises:
            ValueError: there is nothing to look for, or what is named is not here.
            PerceptionSearchError: the library's own sentence.
        """
        words, minus = asked.words
        how: dict[str, Any] = {"k": asked.k, "where": self._where(asked), "exact": exact}
        if asked.score > -1:
            how["min_score"] = asked.score
        if asked.like:
            item = self.shelf.item(asked.like)
            if item is None:
                raise ValueError("That item is not in the collection any more.")
            hits = self.collection.similar(item.path, **how)
        else:
            images: list[tuple[float, Path]] = []
            videos: list[tuple[float, Path]] = []
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
        return self._with_items(hits)

    def looks(self, asked: Asked) -> Iterator[tuple[Found, str]]:
        """The hits and, where a second look is asked for, again whenever it has judged some more;
        each time with what is to be said of it.

        Raises:
            ValueError: as `find`.
            PerceptionSearchError: as `find`.
        """
        found = self.find(asked)
        words, _ = asked.words
        look = self.second_look
        if not asked.rerank or look is None or asked.like or not found:
            yield found, ""
            return
        if not words:
            yield found, "a second look judges by words: write some"
            return
        yield found, f"{look.reranker.name} looks again …"
        hits = [hit for hit, _ in found]
        if not self._judging.acquire(timeout=WAIT_FOR_JUDGE_SECONDS):
            yield found, f"{look.reranker.name} is busy with other searches: ask again"
            return
        try:
            for state in look.at(hits, words):
                if state.num_judged or state.problem:
                    judged = f"{look.reranker.name} judged {state.num_judged} of {len(hits)}"
                    yield self._with_items(state.hits), state.problem or judged
        finally:
            self._judging.release()

    def ranks(self, asked: Asked, item: Item) -> dict[str, int | None]:
        """An item's place by the index and by scoring every row, from 1, before any second look;
        None below the 600th, and `index` None too where there is none or it is not asked.
        """
        many = replace(asked, k=MOST_HITS)
        places: dict[str, int | None] = {"index": None, "exact": None}
        if self.collection.info()["index"] is None:
            del places["index"]
        for way in places:
            hashes = [other.content_hash for _, other in self.find(many, exact=way == "exact")]
            if item.content_hash in hashes:
                places[way] = hashes.index(item.content_hash) + 1
        return places

    def _with_items(self, hits: Sequence[Hit]) -> Found:
        found = ((hit, self.shelf.item_at(hit.path)) for hit in hits)
        return [(hit, item) for hit, item in found if item is not None]

    def _where(self, asked: Asked) -> str | None:
        if not asked.folder:
            return asked.where()
        folder = self.shelf.folder(asked.folder)
        if folder is None:
            raise ValueError(f"folder: {asked.folder!r} is no folder of the collection")
        return asked.where(folder)

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

    def shown(self, asked: Asked) -> Iterator[tuple[str, str, str]]:
        """The hits, the line above them, and the link that asks the same: at once, and again with
        every step of a second look.
        """
        link = asked.link()
        start = time.perf_counter()
        seconds: float | None = None
        try:
            for found, said in self.looks(asked):
                seconds = time.perf_counter() - start if seconds is None else seconds
                if not found:
                    yield cards.message(self._nothing()), "", link
                    return
                yield cards.grid(found), cards.summary(asked, len(found), seconds, said), link
        except (ValueError, PerceptionSearchError, OSError) as error:
            yield cards.message(sentence(error), kind=_kind(error)), "", link

    def _nothing(self) -> str:
        if self.collection.info()["rows"] == 0:
            return f"The collection is empty: perception-search ingest {_name(self)} FOLDER"
        return "Nothing found. Write it in other words, or take filters away."

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
