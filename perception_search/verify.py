"""Whether a collection still holds what was written to it; reads, and changes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from perception_search import durable, index, manifest, tables, text_cache
from perception_search.errors import CollectionDamaged, CollectionNotFound
from perception_search.manifest import Manifest, StoredFile


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong: the file, what is wrong with it, and what will put it right."""

    path: Path
    problem: str
    remedy: str


_HEALS = "healed from its twin by the next ingest, or by `perception-search repair`"
_UNNEEDED = "of an older version: nothing needs it, and `perception-search repair` puts it right"
_REBUILD = "a copy of other data: rebuild it with `perception-search index`, or `repair`"
_FORGET = "texts that were asked: made anew as they are asked again"
_REOPEN = "`perception-search repair --previous-version` opens the version before"
_RESTART = "of a move that is under way: `perception-search reembed --restart` makes it anew"
_REPAIR = "`perception-search repair` mends what can be, and names the rest"


def verify(folder: Path, *, quick: bool = False) -> list[Damage]:
    """Everything that is wrong with the collection in `folder`; empty when all is well.

    Args:
        folder: the collection.
        quick: compare sizes and checksums of the manifests only, and read no whole file.

    Raises:
        CollectionNotFound: there is no collection.
    """
    found = list(manifests(folder))
    try:
        state = manifest.read(folder)
    except CollectionDamaged as error:
        return [*found, Damage(folder / manifest.FOLDER, str(error), _REOPEN)]
    return [*found, *examine(folder, state, quick=quick), *_coming(folder, state, quick)]


def _coming(folder: Path, state: Manifest, quick: bool) -> list[Damage]:
    """What is wrong with a move to another model that is under way, and does not heal by itself."""
    coming = folder / manifest.NEXT
    try:
        if manifest.coming(folder, state) is None:
            return []
        found = verify(coming, quick=quick)
    except CollectionNotFound:  # it was completed just now
        return []
    except CollectionDamaged as error:
        found = [Damage(coming, str(error), _REOPEN)]
    lasting = [damage for damage in found if damage.remedy in (_REPAIR, _REOPEN)]
    return [replace(damage, remedy=_RESTART) for damage in lasting]


def examine(folder: Path, state: Manifest, *, quick: bool = False) -> list[Damage]:
    """What is wrong with one version of a collection, but for manifests.

    Args:
        folder: the collection.
        state: the version.
        quick: as for `verify`.
    """
    found = list(_collection_file(folder, state))
    damaged = [damage for file in state.files for damage in _file(folder, file, quick)]
    found += damaged
    if not damaged and not quick:
        found += _contents(folder, state)
    found += _index(folder, state, quick)
    cache = folder / text_cache.FILE
    if not quick and not text_cache.is_whole(cache):
        found.append(Damage(cache, "it does not hold what was written to it", _FORGET))
    return found


def manifests(folder: Path) -> Iterator[Damage]:
    """What is wrong with the manifests of all versions."""
    newest = manifest.versions(folder)[-1]
    for version in manifest.versions(folder):
        for copy in manifest.COPIES:
            path = manifest.path_of(folder, version, copy)
            try:
                manifest.read_copy(folder, version, copy)
            except FileNotFoundError:
                problem = "missing"
            except (OSError, ValueError) as error:
                problem = str(error)
            else:
                continue
            remedy = _HEALS if version == newest else _UNNEEDED
            yield Damage(path, problem, remedy)


def _collection_file(folder: Path, state: Manifest) -> Iterator[Damage]:
    path = folder / manifest.COLLECTION_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        yield Damage(path, error.strerror or "it cannot be read", _HEALS)
        return
    if content != manifest.encode_collection(state.collection):
        yield Damage(path, "it does not say what the manifest says", _HEALS)


def _file(folder: Path, file: StoredFile, quick: bool) -> Iterator[Damage]:
    path = folder / file.name
    try:
        size = path.stat().st_size
        whole = size == file.size_bytes and (quick or durable.sha256_of(path) == file.sha256)
    except OSError as error:
        yield Damage(path, error.strerror or "it cannot be read", _REPAIR)
        return
    if size != file.size_bytes:
        yield Damage(path, f"it has {size} bytes, not {file.size_bytes}", _REPAIR)
    elif not whole:
        yield Damage(path, "its SHA-256 is not that of its name", _REPAIR)


def _contents(folder: Path, state: Manifest) -> Iterator[Damage]:
    """Whether the tables agree with each other; every file is known to be whole."""
    place = folder / "rows"
    known = _hashes(folder, state)
    ids = []
    for file in state.of("rows"):
        path = folder / file.name
        num_rows = 0
        for group in tables.groups(path):
            num_rows += group.num_rows
            ids.append(group["row_id"].to_numpy())
            if not pc.all(pc.is_in(group["content_hash"], value_set=known)).as_py():
                yield Damage(path, "it holds rows of no item", _REPAIR)
            yield from _embeddings(path, group)
        if num_rows != file.num_rows:
            yield Damage(path, f"it holds {num_rows} rows, not {file.num_rows}", _REPAIR)
    for file in state.of("grid"):
        for group in tables.groups(folder / file.name):
            yield from _embeddings(folder / file.name, group)
    for file in state.of("captions"):
        path = folder / file.name
        owners = tables.read(path, ["content_hash"])["content_hash"]
        if not pc.all(pc.is_in(owners, value_set=known)).as_py():
            yield Damage(path, "it holds captions of no item", _REPAIR)
        if len(owners) != file.num_rows:
            yield Damage(path, f"it holds {len(owners)} rows, not {file.num_rows}", _REPAIR)
    together = np.concatenate(ids) if ids else np.array([], np.int64)
    if len(np.unique(together)) != len(together):
        yield Damage(place, "a row id stands twice", _REPAIR)
    if len(together) and together.max() >= state.next_row_id:
        yield Damage(place, "a row id is higher than any that was given", _REPAIR)


def _embeddings(path: Path, group: pa.Table) -> Iterator[Damage]:
    matrix = tables.matrix_of(group)
    lengths = np.linalg.norm(matrix.astype(np.float32), axis=1)
    if not (np.abs(lengths - 1) < 0.01).all():
        yield Damage(path, "it holds an embedding that is not of unit length", _REPAIR)
    if (tables.checksums(matrix) != group["checksum"].to_numpy()).any():
        yield Damage(path, "it holds an embedding that is not of its checksum", _REPAIR)


def _hashes(folder: Path, state: Manifest) -> pa.Array:
    parts = [
        chunk
        for file in state.of("items")
        for chunk in tables.read(folder / file.name, ["content_hash"])["content_hash"].chunks
    ]
    return pa.concat_arrays(parts) if parts else pa.array([], pa.string())


def _index(folder: Path, state: Manifest, quick: bool) -> Iterator[Damage]:
    path = folder / index.FOLDER / index.CURRENT
    try:
        record = index.read_record(folder)
    except (OSError, ValueError) as error:
        yield Damage(path, str(error), _REBUILD)
        return
    if record is None:
        return
    path = index.path_of(folder, record)
    try:
        size = path.stat().st_size
        whole = size == record.size_bytes and (quick or durable.sha256_of(path) == record.sha256)
    except OSError as error:
        yield Damage(path, error.strerror or "it cannot be read", _REBUILD)
        return
    if not whole:
        yield Damage(path, "it does not hold what was written to it", _REBUILD)
    if record.next_row_id > state.next_row_id:
        yield Damage(path, "it knows rows that the collection does not", _REBUILD)
