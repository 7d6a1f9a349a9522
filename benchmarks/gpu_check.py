"""Exact search on a GPU: the same rows as on the CPU, and how long it takes.

    python benchmarks/gpu_check.py [--device cuda] [--rows 1000000] [--dim 1024] [--out FILE]

Needs torch, NumPy and this checkout, so that it runs on a machine that has little else. The rows
lie in the GPU's memory in float16, as they are stored. Sides, by batches of 1, 100 and 1,000
queries by picture and by text, milliseconds a batch, medians of rounds in which they take turns:

    ours        a shortlist on the device, its rows scored in float32 from the stored ones
    torch       one float32 product on the device and its ten largest: inexact where TF32 is on
    FAISS       GpuIndexFlatIP where a FAISS for GPUs is installed, else not run

Before, all must find the ten rows that a float32 product on the CPU finds, but for rows whose
scores differ by less than 2e-6. Without a GPU the same runs on the CPU, and says so.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from processes import machine
from vectors import Vectors

from perception_search.shortlist import Shortlister

K = 10
BLOCK_ROWS = 8192
BATCHES = (1, 100, 1000)
LEAST_DIFFERENCE = 2e-6

Search = Callable[[np.ndarray], np.ndarray]  # queries (Q, dim) -> positions (Q, K)


def blocks_of(
    rows: np.ndarray, positions: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for first in range(0, len(rows), BLOCK_ROWS):
        part = rows[first : first + BLOCK_ROWS]
        here = np.arange(first, first + len(part))
        if positions is not None:
            here = positions[slice(*np.searchsorted(positions, [first, first + len(part)]))]
            part = part if len(here) == len(part) else part[here - first]
        yield here, part


def ours(rows: np.ndarray, shortlister: Shortlister, positions: np.ndarray | None = None) -> Search:
    def search(queries: np.ndarray) -> np.ndarray:
        lists = shortlister.shortlist(queries, K, positions)
        owners = np.repeat(np.arange(len(queries)), [len(each) for each in lists])
        found = np.concatenate(lists)
        scores = np.einsum("ij,ij->i", rows[found].astype(np.float32), queries[owners])
        order = np.lexsort((found, -scores, owners))
        firsts = np.searchsorted(owners, np.arange(len(queries)))  # owners ascend, also in order
        return found[order][firsts[:, None] + np.arange(K)]

    return search


def plain_torch(rows: np.ndarray, device: torch.device) -> Search:
    matrix = torch.from_numpy(rows).to(device).float()

    def search(queries: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            scores = torch.from_numpy(queries).to(device) @ matrix.T
            return scores.topk(K, dim=1).indices.cpu().numpy()

    return search


def faiss_gpu(rows: np.ndarray) -> Search | None:
    try:
        import faiss

        index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), rows.shape[1])
    except (ImportError, AttributeError):
        return None
    for _, part in blocks_of(rows):
        index.add(part.astype(np.float32))
    return lambda queries: index.search(queries, K)[1]


def truth(rows: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The K best and their scores (Q, K), by a float32 product on the CPU."""
    scores = np.full((len(queries), K), -np.inf, np.float32)
    places = np.zeros((len(queries), K), np.int64)
    for here, part in blocks_of(rows):
        found = torch.from_numpy(queries) @ torch.from_numpy(part.astype(np.float32)).T
        top = found.topk(min(K, len(part)), dim=1)
        scores = np.concatenate([scores, top.values.numpy()], axis=1)
        places = np.concatenate([places, here[top.indices.numpy()]], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
        scores, places = (np.take_along_axis(each, order, axis=1) for each in (scores, places))
    return places, scores


def check(name: str, rows: np.ndarray, queries: np.ndarray, found: np.ndarray) -> float:
    """The largest difference of a score to the true one at its rank; raises above the limit."""
    _, expected = truth(rows, queries)
    pairs = zip(queries, found, strict=True)
    scores = np.stack([rows[places].astype(np.float32) @ query for query, places in pairs])
    difference = float(np.abs(np.sort(-scores, axis=1) + expected).max())
    assert difference < LEAST_DIFFERENCE, f"{name}: {difference:.1e}"
    return difference


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    best = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cuda", "cpu"], default=best)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="a file for the JSON as well")
    options = parser.parse_args()
    vectors = Vectors(options.dim)
    rows = vectors.rows(options.rows)
    queries = {"picture": vectors.images(max(BATCHES)), "text": vectors.texts(max(BATCHES))}
    device = torch.device(options.device)
    is_gpu = options.device == "cuda"
    name = torch.cuda.get_device_name(device) if is_gpu else machine()

    start = time.perf_counter()
    shortlister = Shortlister(lambda wanted: blocks_of(rows, wanted), options.dim, device)
    result: dict[str, Any] = {
        "device": name,
        "machine": machine(),
        "torch": torch.__version__,
        "rows": options.rows,
        "dim": options.dim,
        "seconds_to_load": round(time.perf_counter() - start, 2),
        "gpu": "run" if is_gpu else "not run",
    }
    sides = {"ours": ours(rows, shortlister), "torch": plain_torch(rows, device)}
    faiss = faiss_gpu(rows) if is_gpu else None
    if faiss is not None:
        sides["faiss"] = faiss
    result["faiss"] = "run" if faiss else "not run: no FAISS for GPUs is installed"

    some = {kind: each[:100] for kind, each in queries.items()}
    result["largest_difference"] = max(
        check(kind, rows, each, search(each))
        for kind, each in some.items()
        for side, search in sides.items()
        if side != "torch"
    )
    few = np.arange(0, options.rows, 100)  # a filter that keeps one row in a hundred
    filtered = ours(rows, shortlister, few)(some["text"])
    assert (few[truth(rows[few], some["text"])[0]] == filtered).mean() > 0.999
    lists = [len(each) for each in shortlister.shortlist(some["text"], K)]
    result["median_rows_on_a_list"] = statistics.median(lists)

    milliseconds: dict[str, list[float]] = {}
    for number in range(options.rounds + 1):
        for size in BATCHES:
            for kind, each in queries.items():
                for side, search in sides.items():
                    start = time.perf_counter()
                    search(each[:size])
                    taken = 1000 * (time.perf_counter() - start)
                    if number:
                        milliseconds.setdefault(f"{side}, {size} by {kind}", []).append(taken)
    medians = {row: round(statistics.median(taken), 3) for row, taken in milliseconds.items()}
    for row, taken in medians.items():
        print(f"{taken:10.3f} ms  {row}")
    result["milliseconds"] = medians
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
