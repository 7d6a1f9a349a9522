"""Fifty people at the search page at once, and what it holds after many searches.

    python benchmarks/bench_app.py demo/demo.ps [--searches 2000]

Every search is of other words, so that each is encoded. Median and longest time of 50 at once
stand beside what the encoder alone takes for 50 queries; resident memory is read after 200 searches
and at the end. The last line is one JSON object.
"""

import argparse
import concurrent.futures
import json
import statistics
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

from processes import machine, resident_bytes

from perception_search import Collection

PEOPLE = 50
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("collection", type=Path)
    parser.add_argument("--searches", type=int, default=2000)
    options = parser.parse_args()
    encoder = Collection.open(options.collection).encoder_for("text")
    encoder.encode_text(["warm up"])
    start = time.perf_counter()
    for number in range(PEOPLE):
        encoder.encode_text([f"a thing of the kind {number}"])
    encoder_seconds = time.perf_counter() - start
    command = [sys.executable, "-m", "perception_search", "app", options.collection, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if line.startswith("Search at "))
            address = line.split()[2].rstrip("/")

            def search(words: str) -> float:
                begin = time.perf_counter()
                query = urllib.parse.urlencode({"q": words, "k": 20})
                with urllib.request.urlopen(f"{address}/export/hits.json?{query}") as answer:
                    json.load(answer)
                return time.perf_counter() - begin

            search("warm up")
            times = []
            with concurrent.futures.ThreadPoolExecutor(PEOPLE) as pool:
                for turn in range(ROUNDS):
                    words = [f"round {turn} thing {number}" for number in range(PEOPLE)]
                    times += list(pool.map(search, words))
                held = {}
                for number in range(0, options.searches, PEOPLE):
                    list(pool.map(search, [f"search {number + one}" for one in range(PEOPLE)]))
                    if number + PEOPLE in (200, options.searches):
                        held[number + PEOPLE] = resident_bytes(process.pid)
        finally:
            process.terminate()
    result = {
        "median_seconds": round(statistics.median(times), 3),
        "longest_seconds": round(max(times), 3),
        "encoder_alone_50_seconds": round(encoder_seconds, 3),
        "median_over_encoder": round(statistics.median(times) / encoder_seconds, 2),
        "memory_growth_200_to_end": round(held[options.searches] / held[200], 3),
        "resident_mib": round(held[options.searches] / 2**20),
        "machine": machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
