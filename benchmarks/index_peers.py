"""Indexes that other people would use, behind one face: built into a folder, opened, and asked.

Each holds float32 rows and answers with the positions of the ten it takes for the best, at one of
some settings, from the quickest to the most thorough, on one thread.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

K = 10
WIDTHS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
PROBES = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
TRAINING_ROWS = 262_144

Search = Callable[[np.ndarray, int], np.ndarray]  # queries (Q, dim), setting -> positions (Q, K)


@dataclass(frozen=True)
class Peer:
    """One of the indexes of others.

    Attributes:
        build: makes it of rows (N, dim) float32, in a folder.
        open: reads what lies there, as its users do, and gives the search and its settings.
    """

    build: Callable[[np.ndarray, Path], None]
    open: Callable[[Path], tuple[Search, Sequence[int]]]


def faiss_index(factory: str) -> Peer:
    """A FAISS index, read whole into memory, as `faiss.read_index` does."""

    def build(rows: np.ndarray, folder: Path) -> None:
        index = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(rows[:: -(-len(rows) // TRAINING_ROWS)])
        index.add(rows)
        faiss.write_index(index, str(folder / "index.faiss"))

    def open_(folder: Path) -> tuple[Search, Sequence[int]]:
        index = faiss.read_index(str(folder / "index.faiss"))
        inner = faiss.downcast_index(index.index) if hasattr(index, "chain") else index
        is_graph = isinstance(inner, faiss.IndexHNSW)

        def parameters(setting: int) -> Any:
            if is_graph:
                return faiss.SearchParametersHNSW(efSearch=setting)
            if "_HNSW" not in factory:
                return faiss.SearchParametersIVF(nprobe=setting)
            coarse = faiss.SearchParametersHNSW(efSearch=2 * setting)
            return faiss.SearchParametersIVF(nprobe=setting, quantizer_params=coarse)

        def search(queries: np.ndarray, setting: int) -> np.ndarray:
            return index.search(queries, K, params=parameters(setting))[1]

        return search, WIDTHS if is_graph else PROBES

    return Peer(build, open_)


def hnswlib_build(rows: np.ndarray, folder: Path) -> None:
    import hnswlib

    index = hnswlib.Index("ip", rows.shape[1])
    index.init_index(len(rows), ef_construction=200, M=16, random_seed=0)
    index.add_items(rows, num_threads=len(os.sched_getaffinity(0)))
    index.save_index(str(folder / f"{rows.shape[1]}.hnswlib"))


def hnswlib_open(folder: Path) -> tuple[Search, Sequence[int]]:
    import hnswlib

    [path] = folder.glob("*.hnswlib")
    index = hnswlib.Index("ip", int(path.stem))
    index.load_index(str(path))

    def search(queries: np.ndarray, setting: int) -> np.ndarray:
        index.set_ef(setting)
        return index.knn_query(queries, K, num_threads=1)[0].astype(np.int64)

    return search, WIDTHS


def usearch_build(rows: np.ndarray, folder: Path) -> None:
    from usearch.index import Index

    index = Index(ndim=rows.shape[1], metric="ip", dtype="f16", connectivity=16)
    index.add(np.arange(len(rows)), rows, threads=len(os.sched_getaffinity(0)))
    index.save(str(folder / "index.usearch"))


def usearch_open(folder: Path) -> tuple[Search, Sequence[int]]:
    from usearch.index import Index

    index = Index.restore(str(folder / "index.usearch"))

    def search(queries: np.ndarray, setting: int) -> np.ndarray:
        index.expansion_search = setting
        found = index.search(queries, K, threads=1)
        return np.atleast_2d(np.asarray(found.keys, np.int64))

    return search, WIDTHS


def lance_build(rows: np.ndarray, folder: Path) -> None:
    """IVF-PQ, whose candidates are refined by the rows, which it reads from the disk."""
    import lancedb
    import pyarrow as pa

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    table = pa.table({"id": pa.array(np.arange(len(rows))), "vector": vectors})
    stored = lancedb.connect(folder).create_table("rows", table)
    lists = 1 << round(np.log2(4 * len(rows) ** 0.5))
    stored.create_index(metric="dot", num_partitions=lists, num_sub_vectors=rows.shape[1] // 8)


def lance_open(folder: Path) -> tuple[Search, Sequence[int]]:
    import lancedb

    stored = lancedb.connect(folder).open_table("rows")

    def search(queries: np.ndarray, setting: int) -> np.ndarray:
        found = []
        for query in queries:
            asked = stored.search(query).nprobes(setting).refine_factor(10).limit(K)
            ids = asked.select(["id", "_distance"]).to_arrow()["id"].to_numpy()
            found.append(np.pad(ids, (0, K - len(ids)), constant_values=-1))
        return np.stack(found)

    return search, PROBES


def autofaiss_factory(num_rows: int, dim: int) -> str:
    """What autofaiss takes where a graph does not fit in the memory it may use.

    By autofaiss/external/optimize.py: codes of 256 bytes, and lists by the number of rows. It
    has OPQ learn a rotation, which takes hours on two cores; here the rotation is a random one.
    """
    lists = 16_384 if num_rows >= 1_000_000 else 1 << round(np.log2(4 * num_rows**0.5))
    coarse = f"IVF{lists}_HNSW32" if lists >= 1000 else f"IVF{lists}"
    codes = next(codes for codes in (256, 128, 64, 48, 32, 24, 16, 8, 4) if codes < dim)
    return f"RR{-(-dim // codes) * codes},{coarse},PQ{codes}x8"


def peers(num_rows: int, dim: int) -> dict[str, Peer]:
    """Every peer by name."""
    return {
        "FAISS HNSW16": faiss_index("HNSW16"),
        "FAISS HNSW32": faiss_index("HNSW32"),
        "autofaiss IVF-PQ": faiss_index(autofaiss_factory(num_rows, dim)),
        "hnswlib M16": Peer(hnswlib_build, hnswlib_open),
        "usearch f16": Peer(usearch_build, usearch_open),
        "LanceDB IVF-PQ": Peer(lance_build, lance_open),
    }
