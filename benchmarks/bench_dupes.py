"""How long it takes to find what looks alike among many pictures, and in how much memory.

    python benchmarks/bench_dupes.py [--rows 100000] [--dim 1024] [--near 0.05]

A tenth of the rows are near copies of others, at a cosine distance of about 0.01. Beside it stands
the product alone: every row times every later one in float32, by NumPy, in blocks. The last line
is one JSON object.
"""

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from processes import machine
from vectors import Vectors, unit

from perception_search.duplicates import duplicates
from perception_search.snapshot import PathRecord, Snapshot
from perception_search.writer import NewRow, Writer, create_folder

BLOCK = 4096


def make_collection(folder: Path, rows: np.ndarray) -> None:
    """The rows as a collection of so many pictures."""
    identity = dict.fromkeys(("vision_sha256", "text_sha256", "preprocessing", "pooling"), "")
    description = {
        "schema_version": 1,
        "identity": {"model": "none", "dim": rows.shape[1], **identity},
        "sampling": {"frames_per_second": 1.0, "num_uniform_frames": 8},
    }
    create_folder(folder, description)
    with Writer(folder) as writer:
        for number, embedding in enumerate(rows):
            name = f"{number:064x}"
            writer.add_item({"content_hash": name, "kind": "image", "outcome": "ingested"})
            writer.add_rows(name, [NewRow("image", embedding, 1.0)])
            writer.add_path(Path(f"/{number}.jpg"), PathRecord(1, 2, 3, name, "ingested"))
        writer.commit()


def product_seconds(rows: np.ndarray, least: float) -> float:
    """Seconds of the product alone."""
    started = time.perf_counter()
    for first in range(0, len(rows), BLOCK):
        for start in range(first, len(rows), BLOCK):
            scores = rows[first : first + BLOCK] @ rows[start : start + BLOCK].T
            np.count_nonzero(scores >= least)
    return time.perf_counter() - started


def found(folder: Path, near: float) -> tuple[list[int], float, int]:
    """Sizes of the groups, seconds, and the most memory the process held."""
    started = time.perf_counter()
    groups = duplicates(Snapshot.open(folder), near=near)
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    return [len(group.files) for group in groups], seconds, 1024 * peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--near", type=float, default=0.05)
    asked = parser.parse_args()
    vectors = Vectors(asked.dim)
    num_copies = asked.rows // 10
    rows = vectors.images(asked.rows - num_copies)
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((num_copies, asked.dim), np.float32) * 0.14 / asked.dim**0.5
    rows = unit(np.concatenate([rows, rows[:num_copies] + noise]))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "c.ps"
        make_collection(folder, rows)
        product = product_seconds(rows, 1 - asked.near)
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # for a peak of its own
            sizes, seconds, peak_bytes = pool.submit(found, folder, asked.near).result()
    result = {
        "rows": len(rows),
        "dim": asked.dim,
        "near": asked.near,
        "groups": len(sizes),
        "files_beside_the_best": sum(sizes) - len(sizes),
        "seconds": round(seconds, 2),
        "float32_product_seconds": round(product, 2),
        "peak_bytes": peak_bytes,
        "machine": machine(),
    }
    print(f"{len(rows):,} rows in {seconds:.1f} s, the product alone in float32 {product:.1f} s")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
