"""How long a moment search takes, beside FAISS over every frame: same frames, same query.

    python benchmarks/bench_moments.py --hours 100

The videos are random walks in the space of embeddings, one frame a second, twelve minutes each.
The peer is what one builds by hand: every frame a vector in `IndexFlatIP`, the best 1,000 frames,
neighbours joined. It is exact over frames, knows no spans' edges and holds all in memory in
float32. Before timing, the best frame of both must be the same. Medians of interleaved rounds.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np

from perception_search.resegment import segment_rows
from perception_search.scoring import Target
from perception_search.search import search
from perception_search.segments import Segmentation
from perception_search.snapshot import PathRecord, Snapshot
from perception_search.writer import Grid, Writer, create_folder

SECONDS = 720
TOP_FRAMES = 1000


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def frames_of(number, dim):
    """A video (T, dim) that drifts, with a cut every half a minute or so."""
    rng = np.random.default_rng(number)
    steps = rng.standard_normal((SECONDS, dim)).astype(np.float32) * 0.03
    scenes = np.cumsum(rng.random(SECONDS) < 1 / 30)
    starts = unit(rng.standard_normal((scenes[-1] + 1, dim)).astype(np.float32))
    return unit(starts[scenes] + np.cumsum(steps, axis=0) * 0.05)


def make(folder, num_videos, dim):
    """A collection of random videos."""
    identity = {"model": "none", "dim": dim, "vision_sha256": "", "text_sha256": ""}
    create_folder(
        folder,
        {
            "schema_version": 1,
            "identity": identity | {"preprocessing": "", "pooling": ""},
            "sampling": {"frames_per_second": 1.0, "num_uniform_frames": 8},
        },
    )
    times = np.arange(float(SECONDS))
    with Writer(folder) as writer:
        for number in range(num_videos):
            frames = frames_of(number, dim)
            stored = frames.astype(np.float16)
            rows = segment_rows(
                stored, times, Segmentation(), end_seconds=float(SECONDS), cuts=None
            )
            content_hash = f"{number:064x}"
            item = {"content_hash": content_hash, "kind": "video", "outcome": "ingested"}
            item |= {"duration_seconds": float(SECONDS)}
            writer.add_item(item, rows, Grid(stored, np.ones(SECONDS), times))
            path = Path(f"/videos/{number}.mp4")
            writer.add_path(path, PathRecord(1, 2, 3, content_hash, "ingested"))
            if writer.num_staged_rows > 10_000:
                writer.commit()
        writer.commit()
        writer.compact()
    return Snapshot.open(folder)


def joined(positions):
    """Neighbouring frames as stretches: what one writes by hand after a frame search."""
    ordered = np.sort(positions)
    return np.split(ordered, np.flatnonzero(np.diff(ordered) > 2) + 1)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=100)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    num_videos = max(1, round(options.hours * 3600 / SECONDS))
    with tempfile.TemporaryDirectory() as scratch:
        snapshot = make(Path(scratch) / "c.ps", num_videos, options.dim)
        flat = faiss.IndexFlatIP(options.dim)
        for number in range(num_videos):
            flat.add(frames_of(number, options.dim).astype(np.float16).astype(np.float32))
        rng = np.random.default_rng(7)
        ours, theirs = [], []
        for round_number in range(options.rounds + 1):
            # a query near some frame, as a picture's or a text's embedding is
            near = frames_of(int(rng.integers(num_videos)), options.dim)[rng.integers(SECONDS)]
            query = unit(near + rng.standard_normal(options.dim).astype(np.float32) * 0.05)
            started = time.perf_counter()
            hits = search(snapshot, Target(query), k=10, moments=True)
            middle = time.perf_counter()
            _, frames = flat.search(query[None], TOP_FRAMES)
            joined(frames[0])
            ended = time.perf_counter()
            best = int(hits[0].path.stem) * SECONDS + round(hits[0].best_seconds)
            assert best == frames[0][0], "the two do not find the same"
            if round_number:  # the first opens files
                ours.append(middle - started)
                theirs.append(ended - middle)
            else:
                print(f"first search, files opened: {1000 * (middle - started):.0f} ms")
    print(f"{options.hours:g} hours, {num_videos} videos, {num_videos * SECONDS} frames")
    print(f"ours                  {1000 * statistics.median(ours):6.0f} ms")
    print(f"FAISS Flat on frames  {1000 * statistics.median(theirs):6.0f} ms")
    figures = {
        "hours": options.hours,
        "dim": options.dim,
        "moments_ms": round(1000 * statistics.median(ours), 1),
        "faiss_frames_ms": round(1000 * statistics.median(theirs), 1),
        "moments_speedup": round(statistics.median(theirs) / statistics.median(ours), 2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
