"""Recall, speed and memory of the collection's indexes, beside those that others would use.

    make bench-index        or, in .venv-parity:
    python benchmarks/bench_index.py [--rows 100000] [--dim 1024] [--rounds 5] [--skip NAME ...]

Vectors like embeddings (`vectors.py`), queries like pictures and like texts, 500 of each. Every
index is swept from its quickest setting to its most thorough; of the settings that reach recall@10
of .95, and of .99, for both kinds of query, the quickest counts. Answers are timed on one thread,
alone and by the hundred; the slower kind of query counts. Ours are asked as a search asks them:
candidates of the index, scored from the stored float16 rows, which are mapped and not counted as
memory. One index is in memory at a time.

The last line is one JSON object: `qps95_vs_best_graph` and `memory_vs_best_graph` compare ivf-pq
with the graph that is quickest at .95, `qps99_vs_hnsw` with FAISS's quicker HNSW at .99,
`batch100_vs_best` with the best of all others by the hundred at .95; `exact_batch100_vs_faiss_flat`
is a shortlist and its scores beside FAISS Flat on all cores.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from index_peers import PROBES, WIDTHS, Built, K, peers
from processes import machine
from vectors import Vectors

from perception_search import index as indexing
from perception_search.recipe import recipes
from perception_search.shortlist import Shortlister
from perception_search.snapshot import PathRecord, Rows, Snapshot
from perception_search.writer import NewRow, Writer, create_folder

NUM_QUERIES = 500
NUM_ALONE = 150
TARGETS = (0.95, 0.99)
GRAPHS = ("FAISS HNSW16", "FAISS HNSW32", "hnswlib M16", "usearch f16")
CANDIDATES = (4, 10, 20, 40, 80)


def make_collection(folder: Path, rows: np.ndarray) -> None:
    """The rows as a collection of so many pictures holds them."""
    identity = dict.fromkeys(("vision_sha256", "text_sha256", "preprocessing", "pooling"), "")
    create_folder(
        folder,
        {
            "format": "perception_search collection",
            "schema_version": 1,
            "collection_id": "bench",
            "created_at": "2026-01-01T00:00:00+00:00",
            "identity": {"model": "none", "dim": rows.shape[1], **identity},
            "sampling": {"frames_per_second": 1.0, "num_uniform_frames": 8},
            "weights": None,
        },
    )
    with Writer(folder) as writer:
        for number, embedding in enumerate(rows):
            name = f"{number:064x}"
            item = {"content_hash": name, "kind": "image", "outcome": "ingested"}
            writer.add_item(item, [NewRow("image", embedding, 1.0, 1, None, None)], None)
            writer.add_path(Path(f"/{number}.jpg"), PathRecord(1, 2, 3, name, "ingested"))
            if number % 50_000 == 49_999:
                writer.commit()
        writer.commit()
        writer.compact()


def ours(name: str, folder: Path, built: dict[str, float]) -> Built:
    """One of the collection's recipes, with every number of candidates at every setting."""
    snapshot = Snapshot.open(folder)
    rows = snapshot.rows
    with Writer(folder) as writer:
        start = time.process_time()
        record = indexing.build(
            folder,
            rows,
            snapshot.searchable,
            indexing.recipe(name),
            next_row_id=snapshot.manifest.next_row_id,
            version=writer.snapshot.version,
        )
        built["cpu"] = time.process_time() - start
    opened = indexing.open_index(folder, rows)
    assert opened is not None
    recipe = record.recipe
    is_graph = "efSearch" in recipe.search
    ways = [
        replace(
            recipe,
            search={"efSearch" if is_graph else "nprobe": setting},
            candidates=1 if is_graph else candidates,
        )
        for setting in (WIDTHS if is_graph else PROBES)
        for candidates in (CANDIDATES[:1] if is_graph else CANDIDATES)
    ]

    def search(queries: np.ndarray, setting: int) -> np.ndarray:
        found = opened.search_many(queries, K, ways[setting])
        return best_of(rows, queries, found)

    return Built(
        search,
        range(len(ways)),
        record.size_bytes,  # all of it, though it is mapped
        record.size_bytes,
        lambda: indexing.open_index(folder, rows),
    )


def best_of(rows: Rows, queries: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The K best of the candidates (Q, C) of each query, by their stored embeddings."""
    owners, _ = np.nonzero(ids >= 0)
    candidates = ids[ids >= 0]
    embeddings = rows.embeddings(rows.positions(candidates))
    scores = np.full(ids.shape, -np.inf, np.float32)
    scores[ids >= 0] = np.einsum("ij,ij->i", embeddings, queries[owners])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    return np.take_along_axis(ids, order, axis=1)


def truth(rows: Rows, queries: np.ndarray) -> np.ndarray:
    shortlister = Shortlister(rows.blocks, rows.dim, torch.device("cpu"))
    best = []
    for query, some in zip(queries, shortlister.shortlist(queries, K), strict=True):
        scores = rows.embeddings(some) @ query
        best.append(rows.row_id[some[np.argsort(-scores, kind="stable")[:K]]])
    return np.stack(best)


def recall(found: np.ndarray, best: np.ndarray) -> float:
    return float(np.mean([np.isin(b, f).mean() for f, b in zip(found, best, strict=True)]))


def qps(search: Callable[[np.ndarray], Any], queries: np.ndarray, size: int, rounds: int) -> float:
    """Queries a second in batches of `size`, the median of some rounds."""
    some = queries[: NUM_ALONE if size == 1 else len(queries)]
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        for first in range(0, len(some), size):
            search(some[first : first + size])
        rates.append(len(some) / (time.perf_counter() - start))
    return statistics.median(rates)


def swept(built: Built, queries: dict[str, np.ndarray], best: dict[str, np.ndarray], rounds: int):
    """For each target and batch size the most queries a second, of the slower kind of query."""
    rows = []
    for setting in built.settings:
        reached = {kind: recall(built.search(queries[kind], setting), best[kind]) for kind in best}
        rows.append((setting, min(reached.values()), reached))
    result: dict[str, Any] = {"best_recall": max(row[1] for row in rows)}
    for target in TARGETS:
        able = [row for row in rows if row[1] >= target]
        rates = {}
        for setting, _, reached in quickest(built, queries, able):
            for size in (1, 100):
                rate = min(
                    qps(lambda some, at=setting: built.search(some, at), each, size, rounds)
                    for each in queries.values()
                )
                if rate > rates.get(size, (0,))[0]:
                    rates[size] = rate, setting, reached
        result[f"{target:.2f}"] = {
            f"batch{size}": {"qps": round(rate, 1), "setting": setting, "recall": reached}
            for size, (rate, setting, reached) in rates.items()
        }
    return result


def quickest(built: Built, queries: dict[str, np.ndarray], able: list[Any]) -> list[Any]:
    """The three settings that look quickest at a first glance."""
    some = next(iter(queries.values()))[:50]

    def seconds(row: Any) -> float:
        start = time.perf_counter()
        built.search(some, row[0])
        return time.perf_counter() - start

    return sorted(able, key=seconds)[:3]


def exact_ratio(rows: Rows, matrix: np.ndarray, queries: np.ndarray, rounds: int) -> float:
    """FAISS Flat's time for a hundred queries divided by ours, on all cores, turn by turn."""
    flat = faiss.IndexFlatIP(rows.dim)
    flat.add(matrix)
    shortlister = Shortlister(rows.blocks, rows.dim, torch.device("cpu"))

    def mine() -> np.ndarray:
        lists = shortlister.shortlist(queries, K)
        longest = max(map(len, lists))
        ids = np.stack(
            [
                np.pad(rows.row_id[some], (0, longest - len(some)), constant_values=-1)
                for some in lists
            ]
        )
        return best_of(rows, queries, ids)

    assert recall(mine(), flat.search(queries, K)[1]) > 0.9999
    times: dict[str, list[float]] = {"ours": [], "flat": []}
    for _ in range(rounds):
        for side, run in (("ours", mine), ("flat", lambda: flat.search(queries, K))):
            start = time.perf_counter()
            run()
            times[side].append(time.perf_counter() - start)
    return statistics.median(times["flat"]) / statistics.median(times["ours"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--skip", nargs="*", default=[], help="names of peers")
    parser.add_argument("--out", type=Path, help="a file for the JSON as well")
    options = parser.parse_args()
    vectors = Vectors(options.dim)
    stored = vectors.rows(options.rows)
    queries = {"picture": vectors.images(NUM_QUERIES), "text": vectors.texts(NUM_QUERIES)}
    cores = faiss.omp_get_max_threads()
    table: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_collection(folder / "c.ps", stored)
        rows = Snapshot.open(folder / "c.ps").rows
        best = {kind: truth(rows, each) for kind, each in queries.items()}
        matrix = stored.astype(np.float32)
        del stored
        exact = exact_ratio(rows, matrix, queries["text"][:100], options.rounds)
        makers: dict[str, Callable[[dict[str, float]], Built]] = {
            f"ours {name}": lambda built, name=name: ours(name, folder / "c.ps", built)
            for name in recipes()
        }
        for name, make in peers(folder).items():
            makers[name] = lambda built, make=make: make(matrix)
        for name, make in makers.items():
            if name in options.skip:
                continue
            faiss.omp_set_num_threads(cores)
            cost: dict[str, float] = {}
            start, cpu = time.perf_counter(), time.process_time()
            built = make(cost)
            row: dict[str, Any] = {
                "build_seconds": round(time.perf_counter() - start, 1),
                "build_cpu_seconds": round(cost.get("cpu", time.process_time() - cpu), 1),
                "memory_bytes_a_row": round(built.memory_bytes / options.rows, 1),
                "file_bytes_a_row": round(built.file_bytes / options.rows, 1),
            }
            if built.open is not None:
                start = time.perf_counter()
                built.open()
                row["open_ms"] = round(1000 * (time.perf_counter() - start), 1)
            faiss.omp_set_num_threads(1)
            row |= swept(built, queries, best, options.rounds)
            table[name] = row
            print(name, json.dumps(row), flush=True)
            del built
            gc.collect()
    faiss.omp_set_num_threads(cores)
    result = figures(table) | {
        "exact_batch100_vs_faiss_flat": round(exact, 2),
        "rows": options.rows,
        "dim": options.dim,
        "machine": machine(),
        "faiss": faiss.__version__,
    }
    if options.out:
        options.out.write_text(json.dumps(result | {"table": table}, indent=1) + "\n")
    print(json.dumps(result))


def figures(table: dict[str, Any]) -> dict[str, Any]:
    """The ratios of the last line; None where one side does not reach the recall."""

    def rate(name: str, target: str, batch: str) -> float:
        return float(table.get(name, {}).get(target, {}).get(batch, {}).get("qps", 0))

    mine = "ours ivf-pq"
    graphs = [name for name in GRAPHS if name in table]
    best = max(graphs, key=lambda name: rate(name, "0.95", "batch1"))
    hnsw = max(rate(name, "0.99", "batch1") for name in graphs if name.startswith("FAISS"))
    others = max(rate(name, "0.95", "batch100") for name in table if not name.startswith("ours"))
    return {
        "best_graph": best,
        "qps95_vs_best_graph": round(
            rate(mine, "0.95", "batch1") / rate(best, "0.95", "batch1"), 2
        ),
        "memory_vs_best_graph": round(
            table[mine]["memory_bytes_a_row"] / table[best]["memory_bytes_a_row"], 3
        ),
        "qps99_vs_hnsw": round(rate(mine, "0.99", "batch1") / hnsw, 2) if hnsw else None,
        "batch100_vs_best": round(rate(mine, "0.95", "batch100") / others, 2) if others else None,
        "resident_gb_per_million": round(table[mine]["memory_bytes_a_row"] / 1000, 3),
        "open_ms": table[mine]["open_ms"],
    }


if __name__ == "__main__":
    main()
