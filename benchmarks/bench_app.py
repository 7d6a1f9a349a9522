"""The search page: fifty people at once, what it holds after many searches, and when hits appear.

    python benchmarks/bench_app.py demo/demo.ps [--searches 2000]
    python benchmarks/bench_app.py --rows 100000

Every search is of other words, so that each is encoded. Median and longest time of 50 at once
stand beside what the encoder alone takes for 50 queries; resident memory is read after 200 searches
and at the end. With --rows a collection of so many pictures is made for it, and a browser is timed
too, for words that were encoded before: from Enter until the hits stand on the page, beside the
library's own search for the same words, one after the other. The last line is one JSON object.
"""

import argparse
import concurrent.futures
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench_index import add
from processes import machine, resident_bytes
from vectors import Vectors

from perception_search import Collection
from perception_search.writer import Writer

PEOPLE = 50
ROUNDS = 5
CHROMIUM = Path("/usr/bin/chromium")
WATCH = """() => {
  const hits = () => [...document.querySelectorAll(".ps-card")].map((c) => c.dataset.hit).join();
  const was = hits();
  window.shown = new Promise((done) => {
    const look = () => hits() === was ? setTimeout(look, 2) : done(performance.now());
    look();
  });
}"""
WORDS = [f"a thing of the kind {number}" for number in range(30)]


def made(folder: Path, num_rows: int) -> Path:
    """A collection of the starter with so many pictures that nobody took, with its index."""
    collection = Collection.create(folder / "many.ps", model="starter")
    rows = Vectors(collection.identity.dim).rows(num_rows)
    with Writer(collection.path) as writer:
        for first in range(0, num_rows, 50_000):
            add(writer, rows[first : first + 50_000], first)
        writer.compact()
    collection.index()
    return collection.path


@contextlib.contextmanager
def served(collection: Path) -> Iterator[tuple[str, int]]:
    """The page's address and its process."""
    command = [sys.executable, "-m", "perception_search", "app", collection, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if line.startswith("Search at "))
            yield line.split()[2].rstrip("/"), process.pid
        finally:
            process.terminate()


def until_shown(address: str, path: Path) -> dict[str, Any]:
    """Milliseconds of the library and of the page, for the same words in turn."""
    from playwright.sync_api import sync_playwright

    collection = Collection.open(path)
    for words in WORDS:
        collection.search(words)  # encoded now, and kept
    library, page = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(address)
        tab.wait_for_selector("#ps-q input")
        tab.wait_for_timeout(2000)
        for words in WORDS:
            start = time.perf_counter()
            collection.search(words, k=48)
            library.append(time.perf_counter() - start)
            tab.fill("#ps-q input", words)
            tab.evaluate(WATCH)
            begun = tab.evaluate("performance.now()")
            tab.press("#ps-q input", "Enter")
            page.append(tab.evaluate("window.shown") - begun)
            tab.wait_for_timeout(1000)  # a person looks, and the pictures come
        browser.close()
    return {
        "library_ms": round(1000 * statistics.median(library[1:]), 1),
        "shown_ms": round(statistics.median(page[1:])),
        "longest_shown_ms": round(max(page[1:])),
    }


def together(search: Callable[[str], float], num_searches: int, pid: int) -> dict[str, Any]:
    """What fifty at once wait, and what is held after many."""
    search("warm up")
    times: list[float] = []
    held = {}
    with concurrent.futures.ThreadPoolExecutor(PEOPLE) as pool:
        for turn in range(ROUNDS):
            times += pool.map(search, [f"round {turn} thing {number}" for number in range(PEOPLE)])
        for number in range(0, num_searches, PEOPLE):
            list(pool.map(search, [f"search {number + one}" for one in range(PEOPLE)]))
            if number + PEOPLE in (200, num_searches):
                held[number + PEOPLE] = resident_bytes(pid)
    return {
        "median_seconds": round(statistics.median(times), 3),
        "longest_seconds": round(max(times), 3),
        "memory_growth_200_to_end": round(held[num_searches] / held[200], 3),
        "resident_mib": round(held[num_searches] / 2**20),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("collection", type=Path, nargs="?")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--searches", type=int, default=2000)
    options = parser.parse_args()
    if (options.collection is None) == (options.rows is None):
        parser.error("give a collection, or --rows")
    with tempfile.TemporaryDirectory() as temporary:
        path = options.collection or made(Path(temporary), options.rows)
        encoder = Collection.open(path).encoder_for("text")
        encoder.encode_text(["warm up"])
        start = time.perf_counter()
        for number in range(PEOPLE):
            encoder.encode_text([f"a thing of the kind {number}"])
        encoder_seconds = time.perf_counter() - start
        result: dict[str, Any] = {}
        with served(path) as (address, pid):

            def search(words: str) -> float:
                begin = time.perf_counter()
                query = urllib.parse.urlencode({"q": words, "k": 20})
                with urllib.request.urlopen(f"{address}/export/hits.json?{query}") as answer:
                    json.load(answer)
                return time.perf_counter() - begin

            if options.rows:
                result |= {"rows": options.rows, **until_shown(address, path)}
            result |= together(search, options.searches, pid)
    result["encoder_alone_50_seconds"] = round(encoder_seconds, 3)
    result["median_over_encoder"] = round(result["median_seconds"] / encoder_seconds, 2)
    print(json.dumps(result | {"machine": machine()}))


if __name__ == "__main__":
    main()
