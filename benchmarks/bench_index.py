"""Recall, speed and memory of the collection's indexes, beside those that others would use.

    make bench-index        or, in .venv-parity:
    python benchmarks/bench_index.py [--rows 100000] [--dim 1024] [--rounds 5] [--only NAME ...]

Vectors like embeddings (`vectors.py`), queries like pictures and like texts, 500 of each. Every
index is swept from its quickest setting to its most thorough; of the settings that reach recall@10
of .95, and of .99, for both kinds of query, the quickest counts. Answers are timed on one thread,
alone and by the hundred; the slower kind of query counts. Ours are asked as a search asks them:
candidates of the index, scored from the stored float16 rows.

Each index is opened and asked in a process of its own, one at a time. Its memory is what that
process holds more of afterwards, in pages of its own (`memory`) and in pages of files (`mapped`),
which the system takes back when it needs them. What was built is kept in --cache, named by vectors
and parameters, and not built again.

The last line is one JSON object. Each ratio is that of the slower kind of query:
`qps95_vs_best_graph` and `memory_vs_best_graph` compare ivf-pq with the graph that is quickest at
.95, `qps99_vs_hnsw` with FAISS's quicker HNSW at .99, `batch100_vs_best` with the best of all
others by the hundred at .95. `add1000_over_build` is the time until 1,000 more rows can be found
divided by that of a whole build; `exact_alone_vs_faiss_flat` is a scan of every row for one query,
and `exact_batch100_vs_faiss_flat` a shortlist and its scores for a hundred, each beside FAISS Flat
on all cores, interleaved.
"""

import argparse
import functools
import hashlib
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from index_peers import PROBES, WIDTHS, K, Search, peers
from processes import machine
from vectors import Vectors

from perception_search import current_index
from perception_search import index as indexing
from perception_search.recipe import recipes
from perception_search.rows import Rows
from perception_search.scoring import Scorer, Target
from perception_search.searcher import Searcher
from perception_search.shortlist import Shortlister
from perception_search.snapshot import PathRecord, Snapshot
from perception_search.writer import NewRow, Writer, create_folder

OURS = "ours "
MAIN = "ours ivf-pq"
GRAPHS = ("FAISS HNSW16", "FAISS HNSW32", "hnswlib M16", "usearch f16")
NUM_QUERIES = 500
NUM_ALONE = 150
TARGETS = (0.95, 0.99)
CANDIDATES = (4, 7, 10, 20, 40, 80)
NUM_ADDED = 1000
ENOUGH_SECONDS = 20  # of rounds of one setting; three rounds at least


@dataclass(frozen=True)
class Bench:
    """What all sides are given.

    Attributes:
        num_rows: rows in the index.
        dim: length of an embedding.
        rounds: how often a setting is timed.
        cache: where vectors and what was built are kept.
    """

    num_rows: int
    dim: int
    rounds: int
    cache: Path

    @property
    def folder(self) -> Path:
        return self.cache / f"{self.num_rows}x{self.dim}"

    @property
    def collection(self) -> Path:
        return self.folder / "rows.ps"

    def rows(self) -> np.ndarray:
        return np.load(self.folder / "rows.npy", mmap_mode="r")

    def queries(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """By kind of query (500, dim), and the positions of the ten best rows (500, 10)."""
        stored = np.load(self.folder / "queries.npz")
        kinds = ("picture", "text")
        return {k: stored[k] for k in kinds}, {k: stored[f"best {k}"] for k in kinds}


def prepare(bench: Bench) -> None:
    """Draw the vectors, make a collection of them, and find out what is best for each query."""
    if (bench.folder / "queries.npz").exists():
        return
    bench.folder.mkdir(parents=True, exist_ok=True)
    vectors = Vectors(bench.dim)
    rows = vectors.rows(bench.num_rows)
    np.save(bench.folder / "rows.npy", rows)
    shutil.rmtree(bench.collection, ignore_errors=True)
    make_collection(bench.collection, rows)
    queries = {"picture": vectors.images(NUM_QUERIES), "text": vectors.texts(NUM_QUERIES)}
    stored = Snapshot.open(bench.collection).rows
    best = {f"best {kind}": truth(stored, each) for kind, each in queries.items()}
    np.savez(bench.folder / "queries.npz", **queries, **best)


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
        for first in range(0, len(rows), 50_000):
            add(writer, rows[first : first + 50_000], first)
        writer.compact()


def add(writer: Writer, rows: np.ndarray, first: int) -> None:
    for number, embedding in enumerate(rows, first):
        name = f"{number:064x}"
        item = {"content_hash": name, "kind": "image", "outcome": "ingested"}
        writer.add_item(item, [NewRow("image", embedding, 1.0, 1, None, None)], None)
        writer.add_path(Path(f"/{number}.jpg"), PathRecord(1, 2, 3, name, "ingested"))
    writer.commit()


def truth(rows: Rows, queries: np.ndarray) -> np.ndarray:
    shortlister = Shortlister(rows.blocks, rows.dim, torch.device("cpu"))
    best = []
    for query, some in zip(queries, shortlister.shortlist(queries, K), strict=True):
        scores = rows.embeddings(some) @ query
        best.append(rows.row_id[some[np.argsort(-scores, kind="stable")[:K]]])
    return np.stack(best)


def place_of(bench: Bench, name: str) -> Path:
    """Where an index lies: named by what it is made of."""
    how = asdict(recipes()[name.removeprefix(OURS)]) if name.startswith(OURS) else name
    said = json.dumps([bench.num_rows, bench.dim, how, faiss.__version__], sort_keys=True)
    return bench.folder / hashlib.sha256(said.encode()).hexdigest()[:16]


def build(bench: Bench, name: str) -> dict[str, float]:
    """Build one index where it is not there yet; the seconds it took."""
    place = place_of(bench, name)
    said = place / "built.json"
    if not said.exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        matrix = None
        if name.startswith(OURS):  # files never change: links do
            shutil.copytree(bench.collection, place / "c.ps", copy_function=os.link)
        else:
            matrix = bench.rows().astype(np.float32)
        start, cpu = time.perf_counter(), time.process_time()
        if matrix is None:
            with Writer(place / "c.ps") as writer:
                current_index.build(writer, indexing.recipe(name.removeprefix(OURS)))
        else:
            peers(bench.num_rows, bench.dim)[name].build(matrix, place)
        seconds = time.perf_counter() - start, time.process_time() - cpu
        said.write_text(json.dumps(dict(zip(("wall", "cpu"), seconds, strict=True))))
    taken: dict[str, float] = json.loads(said.read_text())
    return taken


class Ours:
    """One of the collection's recipes, asked for several numbers of candidates."""

    def __init__(self, folder: Path, rows: Rows) -> None:
        index = indexing.open_index(folder, rows)
        assert index is not None
        self._rows, self._index = rows, index
        recipe = index.record.recipe
        is_graph = "efSearch" in recipe.search
        name, steps = ("efSearch", WIDTHS) if is_graph else ("nprobe", PROBES)
        self._candidates = (1,) if is_graph else CANDIDATES
        self._searches = [replace(recipe, search={name: step}) for step in steps]
        self.ways = [
            replace(how, candidates=candidates)
            for how in self._searches
            for candidates in self._candidates
        ]

    def __call__(self, queries: np.ndarray, setting: int) -> np.ndarray:
        found = self._index.search(queries, K, how=self.ways[setting])
        return best_of(self._rows, queries, found)

    def recalls(self, queries: np.ndarray, best: np.ndarray) -> list[float]:
        """Of every way: what is among the candidates is found, since stored rows decide."""
        reached = []
        for how in self._searches:
            widest = replace(how, candidates=self._candidates[-1])
            found = self._index.search(queries, K, how=widest)
            reached += [recall(found[:, : K * some], best) for some in self._candidates]
        return reached


def best_of(rows: Rows, queries: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The K best of the candidates (Q, C) of each query, by their stored embeddings."""
    owners, _ = np.nonzero(ids >= 0)
    candidates = ids[ids >= 0]
    embeddings = rows.embeddings(rows.positions(candidates))
    scores = np.full(ids.shape, -np.inf, np.float32)
    scores[ids >= 0] = np.einsum("ij,ij->i", embeddings, queries[owners])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    return np.take_along_axis(ids, order, axis=1)


def recall(found: np.ndarray, best: np.ndarray) -> float:
    return float(np.mean([np.isin(b, f).mean() for f, b in zip(found, best, strict=True)]))


def memory() -> dict[str, int]:
    """Bytes this process holds: pages of its own, and pages of files."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {
        name: 1024 * int(fields[key].split()[0])
        for name, key in (("memory", "RssAnon"), ("mapped", "RssFile"))
    }


def measure(bench: Bench, name: str) -> dict[str, Any]:
    """Open one index, in a process that has done nothing else, and ask it on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    faiss.omp_set_num_threads(1)
    queries, best = bench.queries()
    place = place_of(bench, name)
    rows = Snapshot.open(place / "c.ps").rows if name.startswith(OURS) else None
    before = memory()
    start = time.perf_counter()
    search: Search
    settings: Sequence[int]
    if rows is not None:
        mine = Ours(place / "c.ps", rows)
        search, settings = mine, range(len(mine.ways))
    else:
        search, settings = peers(bench.num_rows, bench.dim)[name].open(place)
    open_ms = 1000 * (time.perf_counter() - start)
    reached: list[dict[str, float]] = [{} for _ in settings]
    for kind in best:
        if rows is not None:
            every = mine.recalls(queries[kind], best[kind])
        else:
            every = [recall(search(queries[kind], at), best[kind]) for at in settings]
        for one, share in zip(reached, every, strict=True):
            one[kind] = share
    result: dict[str, Any] = {
        "open_ms": round(open_ms, 1),
        "best_recall": max(min(one.values()) for one in reached),
    }
    for target in TARGETS:
        able = [
            (at, one)
            for at, one in zip(settings, reached, strict=True)
            if min(one.values()) >= target
        ]
        result[f"{target:.2f}"] = quickest(bench, search, queries, able)
    after = memory()
    files = sum(p.stat().st_size for p in files_of(place))
    sizes = {key: after[key] - before[key] for key in after} | {"files": files}
    return result | {f"{key}_bytes_a_row": round(n / bench.num_rows, 1) for key, n in sizes.items()}


def files_of(place: Path) -> list[Path]:
    """The index's own files."""
    ours = place / "c.ps" / indexing.FOLDER
    inside = ours if ours.is_dir() else place
    return [path for path in inside.rglob("*") if path.is_file()]


def quickest(
    bench: Bench, search: Search, queries: dict[str, np.ndarray], able: list[Any]
) -> dict[str, Any]:
    """Alone and by the hundred, the most queries a second of the slower kind of query."""
    rates: dict[int, Any] = {}
    some = queries["text"][:50]

    def glance(row: Any) -> float:
        start = time.perf_counter()
        search(some, row[0])
        return time.perf_counter() - start

    for setting, reached in sorted(able, key=glance)[:3]:
        ask = functools.partial(asked, search, setting)
        for size in (1, 100):
            rate = min(qps(ask, each, size, bench.rounds) for each in queries.values())
            if size not in rates or rate > rates[size][0]:
                rates[size] = rate, setting, reached
    return {
        f"batch{size}": {"qps": round(rate, 1), "setting": setting, "recall": reached}
        for size, (rate, setting, reached) in rates.items()
    }


def asked(search: Search, setting: int, queries: np.ndarray) -> np.ndarray:
    return search(queries, setting)


def qps(ask: Callable[[np.ndarray], Any], queries: np.ndarray, size: int, rounds: int) -> float:
    """Queries a second in batches of `size`, the median of some rounds."""
    some = queries[: NUM_ALONE if size == 1 else len(queries)]
    rates: list[float] = []
    begin = time.perf_counter()
    while len(rates) < min(3, rounds) or (
        len(rates) < rounds and time.perf_counter() - begin < ENOUGH_SECONDS
    ):
        start = time.perf_counter()
        for first in range(0, len(some), size):
            ask(some[first : first + size])
        rates.append(len(some) / (time.perf_counter() - start))
    return statistics.median(rates)


def seconds_to_add(bench: Bench) -> float:
    """Until 1,000 more rows are stored and found, in a collection that is open."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as temporary:
        folder = Path(temporary) / "c.ps"
        shutil.copytree(place_of(bench, MAIN) / "c.ps", folder, copy_function=os.link)
        rows = Vectors(bench.dim, seed=1).images(NUM_ADDED)
        searcher = Searcher(folder, "cpu")
        before = Snapshot.open(folder)
        searcher.search(before, [Target(rows[0])], k=K)
        start = time.perf_counter()
        with Writer(folder, before) as writer:
            add(writer, rows, bench.num_rows)
            current_index.keep_up(writer, np.zeros((0, bench.dim), np.float32))
        [[hit, *_]] = searcher.search(Snapshot.open(folder, before), [Target(rows[-1])], k=K)
        assert hit.path.stem == str(bench.num_rows + NUM_ADDED - 1)
        return time.perf_counter() - start


def exact_ratios(bench: Bench) -> dict[str, float]:
    """FAISS Flat's time for one query, and for a hundred, divided by ours; all cores, in turn."""
    snapshot = Snapshot.open(bench.collection)
    rows = snapshot.rows
    queries = bench.queries()[0]["text"][:100]
    flat = faiss.IndexFlatIP(rows.dim)
    for first in range(0, bench.num_rows, 50_000):
        flat.add(bench.rows()[first : first + 50_000].astype(np.float32))
    shortlister = Shortlister(rows.blocks, rows.dim, torch.device("cpu"))
    every = np.arange(len(rows))

    def scanned(queries: np.ndarray) -> np.ndarray:
        scores = Scorer(snapshot, Target(queries[0])).scan(every)
        some = np.argpartition(-scores, K)[:K]
        return rows.row_id[some[np.argsort(-scores[some])]][None]

    def shortlisted(queries: np.ndarray) -> np.ndarray:
        lists = shortlister.shortlist(queries, K)
        ids = np.full((len(queries), max(map(len, lists))), -1)
        for row, some in zip(ids, lists, strict=True):
            row[: len(some)] = rows.row_id[some]
        return best_of(rows, queries, ids)

    ratios = {}
    for name, mine, asked in (
        ("exact_alone_vs_faiss_flat", scanned, queries[:1]),
        ("exact_batch100_vs_faiss_flat", shortlisted, queries),
    ):
        assert recall(mine(asked), flat.search(asked, K)[1]) > 0.9999
        times: dict[str, list[float]] = {"ours": [], "flat": []}
        for _ in range(bench.rounds):
            for side, run in (("ours", mine), ("flat", lambda some: flat.search(some, K)[1])):
                start = time.perf_counter()
                run(asked)
                times[side].append(time.perf_counter() - start)
        ratios[name] = statistics.median(times["flat"]) / statistics.median(times["ours"])
    return ratios


def alone(work: Callable[..., Any], *given: Any) -> Any:
    """What `work` gives, in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="names of indexes")
    parser.add_argument("--cache", type=Path, default=Path(".cache/bench_index"))
    parser.add_argument("--out", type=Path, help="a file for the JSON as well")
    options = parser.parse_args()
    bench = Bench(options.rows, options.dim, options.rounds, options.cache.absolute())
    names = [f"{OURS}{name}" for name in recipes()] + list(peers(options.rows, options.dim))
    unknown = set(options.only or []) - set(names)
    if unknown:
        parser.error(f"no such index: {', '.join(unknown)}; there are {', '.join(names)}")
    alone(prepare, bench)
    table: dict[str, Any] = {}
    for name in options.only or names:
        taken = alone(build, bench, name)
        row = {f"build_{kind}_seconds": round(seconds, 1) for kind, seconds in taken.items()}
        row |= alone(measure, bench, name)
        table[name] = row
        print(name, json.dumps(row), flush=True)
    result = figures(table)
    if MAIN in table:
        added = alone(seconds_to_add, bench)
        result["add1000_seconds"] = round(added, 2)
        result["add1000_over_build"] = round(added / table[MAIN]["build_wall_seconds"], 4)
    result |= {name: round(ratio, 2) for name, ratio in alone(exact_ratios, bench).items()}
    result |= {
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

    def ratio(mine: float, theirs: float) -> float | None:
        return round(mine / theirs, 3) if theirs else None

    if MAIN not in table:
        return {}
    mine = table[MAIN]
    graphs = [name for name in GRAPHS if name in table]
    best = max(graphs, key=lambda name: rate(name, "0.95", "batch1"), default="")
    hnsw = [rate(name, "0.99", "batch1") for name in graphs if name.startswith("FAISS")]
    others = [rate(name, "0.95", "batch100") for name in table if not name.startswith(OURS)]
    return {
        "best_graph": best,
        "qps95_vs_best_graph": ratio(rate(MAIN, "0.95", "batch1"), rate(best, "0.95", "batch1")),
        "memory_vs_best_graph": ratio(
            mine["memory_bytes_a_row"], table.get(best, {}).get("memory_bytes_a_row", 0)
        ),
        "qps99_vs_hnsw": ratio(rate(MAIN, "0.99", "batch1"), max(hnsw, default=0)),
        "batch100_vs_best": ratio(rate(MAIN, "0.95", "batch100"), max(others, default=0)),
        "resident_gb_per_million": round(mine["memory_bytes_a_row"] / 1000, 3),
        "open_ms": mine["open_ms"],
    }


if __name__ == "__main__":
    main()
