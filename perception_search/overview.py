"""What is in a collection, and what could not be taken in; needs no weights."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from perception_search import index as indexing
from perception_search import manifest
from perception_search.errors import CollectionError
from perception_search.snapshot import Snapshot
from perception_search.survey import FileReport

_FINE = ("ingested", "skipped", "removed")


def overview(snapshot: Snapshot, notice: str | None) -> dict[str, Any]:
    """What is in it, by name, ready for JSON.

    Args:
        snapshot: the version.
        notice: what everyone who sees results should know of the model.
    """
    described = snapshot.manifest.collection
    kinds = snapshot.live_items["kind"].to_pylist()
    origins: list[dict[str, str]] = []
    for file in snapshot.manifest.of("rows"):
        origins += [dict(origin) for origin in file.provenance if origin not in origins]
    return {
        "path": str(snapshot.folder),
        "notice": notice,
        **described["identity"],
        "created_at": described["created_at"],
        "sampling": asdict(snapshot.sampling),
        "segmentation": snapshot.segmentation.as_dict(),
        "version": snapshot.version,
        "images": kinds.count("image"),
        "videos": kinds.count("video"),
        "rows": int((snapshot.item_of_row >= 0).sum()),
        "video_seconds": float(
            np.nansum(snapshot.live_items["duration_seconds"].to_numpy().astype(float))
        ),
        "captions": _captions(snapshot),
        "failures": len(failures(snapshot)),
        "roots": list(snapshot.manifest.roots),
        "size_bytes": sum(file.size_bytes for file in snapshot.manifest.files),
        "files": len(snapshot.manifest.files),
        "index": _index(snapshot),
        "moving_to": _moving_to(snapshot),
        "provenance": origins,
    }


def failures(snapshot: Snapshot) -> list[FileReport]:
    """Every file that could not be taken in, with outcome and reason, by path."""
    return [
        FileReport(path, record.outcome, record.reason)
        for path, record in sorted(snapshot.path_records.items())
        if record.outcome not in _FINE
    ]


def _captions(snapshot: Snapshot) -> list[dict[str, Any]]:
    """How many live items have captions of each model, prompt and licence."""
    names = ["model", "prompt", "licence"]
    if not snapshot.manifest.of("captions"):
        return []
    live = snapshot.captions.filter(pa.array(snapshot.item_of_caption >= 0))
    groups = live.group_by(names).aggregate([("content_hash", "count_distinct"), ("text", "count")])
    return [
        {name: group[name] for name in names}
        | {"items": group["content_hash_count_distinct"], "captions": group["text_count"]}
        for group in groups.sort_by([(name, "ascending") for name in names]).to_pylist()
    ]


def _moving_to(snapshot: Snapshot) -> dict[str, Any] | None:
    """The model that a move is under way to, and how many items it has embedded."""
    try:
        coming = manifest.coming(snapshot.folder, snapshot.manifest)
        if coming is None:
            return None
        num_items = Snapshot(snapshot.folder / manifest.NEXT, coming).live_items.num_rows
    except CollectionError:  # damaged, or coming or going just now
        return None
    return {"model": coming.collection["identity"]["model"], "items": num_items}


def _index(snapshot: Snapshot) -> dict[str, Any] | None:
    try:
        record = indexing.read_record(snapshot.folder)
    except ValueError:  # damaged; the next search says so
        record = None
    if record is None:
        return None
    return {
        "recipe": record.recipe.name,
        "factory": record.recipe.factory,
        "rows": record.num_rows,
        "rows_since": snapshot.manifest.next_row_id - record.next_row_id,
        "size_bytes": record.size_bytes,
        "search": dict(record.recipe.search),
        "candidates": record.recipe.candidates,
        "recall": dict(record.recall),
    }
