"""Indexes that other people would use, behind one face: built, asked, and their memory told.

Each holds float32 rows and answers with the positions of the ten it takes for the best, at one of
some settings, from the quickest to the most thorough. All compute on one thread when they answer.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

K = 10
WIDTHS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)
PROBES = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)

Search = Callable[[np.ndarray, int], np.ndarray]  # queries (Q, dim), setting -> positions (Q, K)


@dataclass(frozen=True)
class Built:
    """An index that answers.

    Attributes:
        search: see `Search`.
        settings: what it takes.
        memory_bytes: what must lie in memory of its own, not mapped from a file.
        file_bytes: what lies on disk, or would.
        open: opens what lies on disk, where that is how it is used.
    """

    search: Search
    settings: Sequence[int]
    memory_bytes: int
    file_bytes: int
    open: Callable[[], Any] | None = None


def faiss_index(factory: str, folder: Path) -> Callable[[np.ndarray], Built]:
    """A FAISS index read whole into memory, as `faiss.read_index` does."""

    def build(rows: np.ndarray) -> Built:
        index = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(rows[:: max(1, len(rows) // 100_000)])
        index.add(rows)
        path = folder / f"{factory.replace(',', '-')}.faiss"
        faiss.write_index(index, str(path))
        inner = faiss.downcast_index(index.index) if hasattr(index, "chain") else index

        def search(queries: np.ndarray, setting: int) -> np.ndarray:
            if isinstance(inner, faiss.IndexHNSW):
                parameters = faiss.SearchParametersHNSW(efSearch=setting)
            elif isinstance(inner, faiss.IndexIVF):
                parameters = faiss.SearchParametersIVF(nprobe=setting)
            else:
                parameters = None
            return index.search(queries, K, params=parameters)[1]

        settings = (0,)
        if isinstance(inner, faiss.IndexHNSW):
            settings = WIDTHS
        elif isinstance(inner, faiss.IndexIVF):
            settings = PROBES
        size = path.stat().st_size
        return Built(search, settings, size, size, lambda: faiss.read_index(str(path)))

    return build


def hnswlib_index(rows: np.ndarray) -> Built:
    import hnswlib

    index = hnswlib.Index("ip", rows.shape[1])
    index.init_index(len(rows), ef_construction=200, M=16, random_seed=0)
    index.add_items(rows, num_threads=len(os.sched_getaffinity(0)))

    def search(queries: np.ndarray, setting: int) -> np.ndarray:
        index.set_ef(setting)
        return index.knn_query(queries, K, num_threads=1)[0].astype(np.int64)

    size = index.index_file_size()
    return Built(search, WIDTHS, size, size)


def usearch_index(rows: np.ndarray) -> Built:
    from usearch.index import Index

    index = Index(ndim=rows.shape[1], metric="ip", dtype="f16", connectivity=16)
    index.add(np.arange(len(rows)), rows, threads=len(os.sched_getaffinity(0)))

    def search(queries: np.ndarray, setting: int) -> np.ndarray:
        index.expansion_search = setting
        found = index.search(queries, K, threads=1)
        return np.atleast_2d(np.asarray(found.keys, np.int64))

    return Built(search, WIDTHS, index.memory_usage, index.serialized_length)


def lance_index(folder: Path) -> Callable[[np.ndarray], Built]:
    """LanceDB's IVF-PQ with refining, which reads its rows from the disk."""

    def build(rows: np.ndarray) -> Built:
        import lancedb
        import pyarrow as pa

        place = folder / "lance"
        shutil.rmtree(place, ignore_errors=True)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
        table = pa.table({"id": pa.array(np.arange(len(rows))), "vector": vectors})
        stored = lancedb.connect(place).create_table("rows", table)
        lists = 1 << round(np.log2(4 * len(rows) ** 0.5))
        stored.create_index(metric="dot", num_partitions=lists, num_sub_vectors=rows.shape[1] // 8)

        def search(queries: np.ndarray, setting: int) -> np.ndarray:
            found = []
            for query in queries:
                asked = stored.search(query).nprobes(setting).refine_factor(10).limit(K)
                ids = asked.select(["id", "_distance"]).to_arrow()["id"].to_numpy()
                found.append(np.pad(ids, (0, K - len(ids)), constant_values=-1))
            return np.stack(found)

        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        return Built(search, PROBES, 0, size)

    return build


def peers(folder: Path) -> Mapping[str, Callable[[np.ndarray], Built]]:
    """Every peer by name."""
    return {
        "FAISS HNSW16": faiss_index("HNSW16", folder),
        "FAISS HNSW32": faiss_index("HNSW32", folder),
        "hnswlib M16": hnswlib_index,
        "usearch f16": usearch_index,
        "LanceDB IVF-PQ": lance_index(folder),
    }
