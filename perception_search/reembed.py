"""Moving a collection to another model while the old one goes on answering.

What is embedded anew is a collection of its own, in the folder `next` of the old one, filled as an
ingest fills it: killed at any moment, the next run goes on. When it holds everything, one commit
puts its rows and grids, and its model, in the place of the old ones. Items, paths, what was
removed, folders and your own columns stay: they are the old collection's own files.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from perception_search import current_index, durable, manifest, media, tables, text_cache, tuning
from perception_search import index as indexing
from perception_search import ingest as ingesting
from perception_search.encoder import Encoder
from perception_search.errors import CollectionError, MissingExtra
from perception_search.manifest import StoredFile
from perception_search.media import display
from perception_search.purge import purge
from perception_search.recipe import USUAL_RECALL
from perception_search.resegment import resegment
from perception_search.snapshot import PathRecord, Snapshot
from perception_search.survey import FileReport, Options
from perception_search.writer import Writer, create_folder

LEFT_OUT = "left_out"
"""Outcome of an item that was not there when the model changed: it is embedded when it returns."""


@dataclass(frozen=True)
class Move:
    """What a move to another model takes.

    Attributes:
        model: the new one.
        dim: of its embeddings.
        num_files: paths that the collection finds now.
        num_done: items that an earlier run has embedded.
        num_frames: pictures and frames of videos that are left to embed, about.
        encode_seconds: to embed them, as measured now; decoding comes beside it.
        missing: files that are not there.
    """

    model: str
    dim: int
    num_files: int
    num_done: int
    num_frames: int
    encode_seconds: float
    missing: list[Path] = field(default_factory=list)


def reembed(
    folder: Path,
    encoder: Encoder,
    *,
    weights: Mapping[str, str | None] | None = None,
    drop_missing: bool = False,
    restart: bool = False,
    dry_run: bool = False,
    on_plan: Callable[[Move], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    options: Options | None = None,
) -> Snapshot:
    """Move the collection in `folder` to another model; returns its newest version.

    Until the one commit at the end every search is answered by the old model.

    Args:
        folder: the collection.
        encoder: of the new model.
        weights: where its `weights` and `projection` are, for those who open it later.
        drop_missing: leave out items whose files are not there; they come back when an ingest
            finds them. Otherwise nothing begins while one is missing.
        restart: throw away what an earlier run has embedded.
        dry_run: only say what it takes.
        on_plan: called with what it takes.
        on_progress: called with (files done, files in all).
        options: how to decode.

    Raises:
        CollectionError: files are missing; a move to another model is under way; or the model is
            what the collection has.
        CollectionLocked: another process is writing, or moves it too.
        KeyboardInterrupt: Ctrl-C; what was finished is kept for the next run.
    """
    snapshot = Snapshot.open(folder)
    next_folder = folder / manifest.NEXT
    identity = encoder.identity.as_dict()
    if snapshot.manifest.collection["identity"] == identity:
        shutil.rmtree(next_folder, ignore_errors=True)  # of a move that was completed
        raise CollectionError(f"{folder} has this model and these weights already.")
    if restart and not dry_run:
        shutil.rmtree(next_folder, ignore_errors=True)
    begun = _begun(next_folder)
    if begun is not None and begun.manifest.collection["identity"] != identity and not restart:
        model = begun.manifest.collection["identity"]["model"]
        raise CollectionError(
            f"A move of {folder} to {model} is under way, with other weights than these: go on "
            "with those, or throw away what is embedded with --restart."
        )
    move = _planned(snapshot, begun, encoder)
    if on_plan is not None:
        on_plan(move)
    if dry_run:
        return snapshot
    if move.missing and not drop_missing:
        raise CollectionError(_told(move.missing))
    if begun is None:
        shutil.rmtree(next_folder, ignore_errors=True)
        described = dict(snapshot.manifest.collection) | {"identity": identity}
        described |= {"weights": None, "projection": None} | dict(weights or {})
        create_folder(next_folder, described, snapshot.segmentation)
    options = options or Options()
    with Writer(next_folder) as coming:
        _catch_up(coming, encoder, Snapshot.open(folder), options, on_progress)
        with Writer(folder) as writer:  # nothing is added or removed from here on
            _catch_up(coming, encoder, writer.snapshot, options, on_progress)
            if coming.snapshot.segmentation != writer.snapshot.segmentation:
                resegment(coming, writer.snapshot.segmentation)
            _switch(writer, coming.snapshot, drop_missing=drop_missing)
            after = writer.snapshot
    shutil.rmtree(next_folder, ignore_errors=True)
    return after


def _begun(next_folder: Path) -> Snapshot | None:
    """What an earlier run has embedded."""
    try:
        return Snapshot.open(next_folder)
    except CollectionError:
        return None


def _planned(snapshot: Snapshot, begun: Snapshot | None, encoder: Encoder) -> Move:
    live = snapshot.live_paths
    done = _ready(begun) if begun is not None else set()
    left = live.keys() - done
    grids = set(snapshot.grids)
    num_frames = sum(
        snapshot.grids.num_frames(content_hash) if content_hash in grids else 1
        for content_hash in left
    )
    missing = [path for h in left for path in live[h] if not path.is_file()]
    identity = encoder.identity
    seconds = num_frames * _seconds_a_frame(encoder) if num_frames else 0.0
    num_files = sum(map(len, live.values()))
    num_done = len(live) - len(left)
    return Move(
        identity.model, identity.dim, num_files, num_done, num_frames, seconds, sorted(missing)
    )


def _seconds_a_frame(encoder: Encoder) -> float:
    """By embedding one batch of noise, after a first one."""
    spec = encoder.frame_spec
    shape = (encoder.batch_size, 3, spec.height, spec.width)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    encoder.encode_frames(pixels[:1])
    started = time.perf_counter()
    encoder.encode_frames(pixels)
    return (time.perf_counter() - started) / len(pixels)


def _told(missing: list[Path]) -> str:
    shown = ", ".join(display(path) for path in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return (
        f"{len(missing)} files are not there, so they cannot be embedded by another model: "
        f"{shown}{more}. Plug in their drive, or leave them out with --drop-missing: they come "
        "back when an ingest finds them."
    )


def _ready(snapshot: Snapshot) -> set[str]:
    """The contents that are embedded."""
    is_in = pc.equal(snapshot.items["outcome"], "ingested")
    return set(snapshot.items["content_hash"].filter(is_in).to_pylist())


def _catch_up(
    coming: Writer,
    encoder: Encoder,
    snapshot: Snapshot,
    options: Options,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Embed what the old version finds and the coming one does not know."""
    ready = _ready(coming.snapshot)
    paths = [
        path
        for content_hash, several in snapshot.live_paths.items()
        if content_hash not in ready
        for path in several
        if path.is_file()
    ]
    if not paths:
        return
    found = [replace(file, root=None) for file in media.find(paths, ())]
    ingesting.ingest(
        coming,
        encoder,
        found,
        [],
        options,
        sampling=snapshot.sampling,
        segmentation=coming.snapshot.segmentation,
        on_progress=on_progress,
    )


def _switch(writer: Writer, coming: Snapshot, *, drop_missing: bool) -> None:
    """Make the coming rows, grids and model the collection's, in one commit."""
    before = writer.snapshot
    ready = _ready(coming)
    failed: list[FileReport] = []
    coming_items = {item["content_hash"]: item for item in coming.items.to_pylist()}
    known = {item["content_hash"]: item for item in before.items.to_pylist()}
    reason = f"it was not there when the collection moved to {_model(coming)}"
    for content_hash, item in known.items():
        if item["outcome"] == "ingested" and content_hash not in ready:
            left_out = {"outcome": LEFT_OUT, "reason": reason, "decoder": None}
            writer.add_item(item | left_out)
    for content_hash, paths in before.live_paths.items():
        for path in paths:
            record = coming.path_records.get(path)
            if content_hash in ready:
                continue
            if record is not None and record.outcome == "ingested":  # it has changed since
                writer.add_path(path, record)
                if known.get(record.content_hash or "", {}).get("outcome") != "ingested":
                    writer.add_item(coming_items[record.content_hash or ""])
                continue
            why = record.reason if record is not None and record.reason else reason
            failed.append(FileReport(path, "missing", why))
            gone = PathRecord(None, None, None, content_hash, "removed", why)
            writer.add_path(path, gone)
    if failed and not drop_missing:
        writer.forget()
        raise CollectionError(_told([file.path for file in failed]))
    kept = [file for file in before.manifest.files if file.table not in ("rows", "grid")]
    contents = pa.array(sorted(ready), pa.string())
    anew = [_copied(writer, coming, table, contents) for table in ("rows", "grid")]
    index_before = _index(writer.folder)
    is_unwanted = indexing.is_unwanted(writer.folder)
    indexing.remove(writer.folder, for_good=is_unwanted)  # the old rows are scanned meanwhile
    described = dict(before.manifest.collection)
    described |= {name: coming.manifest.collection.get(name) for name in _OF_THE_MODEL}
    writer.commit(files=[*kept, *(file for file in anew if file)], collection=described)
    manifest.heal(writer.folder, writer.snapshot.manifest)
    durable.remove(writer.folder / text_cache.FILE)
    if index_before is not None:
        _rebuild(writer, index_before)


_OF_THE_MODEL = ("identity", "weights", "projection")


def _model(snapshot: Snapshot) -> str:
    return str(snapshot.manifest.collection["identity"]["model"])


def _copied(writer: Writer, coming: Snapshot, table: str, contents: pa.Array) -> StoredFile | None:
    """The rows or grids of these contents as one file of the collection; rows with new ids."""
    files = coming.manifest.of(table)
    origins: list[Mapping[str, Any]] = []
    for file in files:
        origins += [origin for origin in file.provenance if origin not in origins]

    def parts() -> Iterator[pa.Table]:
        for file in files:
            for group in tables.groups(coming.path_of(file)):
                part = group.filter(pc.is_in(group["content_hash"], value_set=contents))
                if table == "rows":
                    first = writer.next_row_id
                    writer.next_row_id += part.num_rows
                    ids = pa.array(np.arange(first, writer.next_row_id), pa.int64())
                    part = part.set_column(0, part.schema.field(0), ids)
                yield part

    if not files:
        return None
    schema = tables.schema_of(table, coming.dim)
    return writer.write_table(table, schema, parts(), tuple(origins))


def _index(folder: Path) -> indexing.IndexRecord | None:
    try:
        return indexing.read_record(folder)
    except (OSError, ValueError):
        return None


def _rebuild(writer: Writer, record: indexing.IndexRecord) -> None:
    """Build an index as there was one, of the new rows."""
    asked = text_cache.asked(writer.folder, writer.snapshot.dim, tuning.NUM_QUERIES)
    recall = record.wanted_recall or USUAL_RECALL
    try:
        current_index.choose(writer, record.recipe.name, recall, asked)
    except (MissingExtra, ValueError):  # the next ingest builds what suits
        indexing.remove(writer.folder)


def purge_coming(writer: Writer) -> None:
    """Take what the collection does not find any more out of a move that is under way, for good.

    Args:
        writer: the collection's, entered.
    """
    next_folder = writer.folder / manifest.NEXT
    if not (next_folder / manifest.FOLDER).is_dir():
        return
    live = {path for paths in writer.snapshot.live_paths.values() for path in paths}
    with Writer(next_folder) as coming:
        for path, record in coming.snapshot.path_records.items():
            if path not in live:
                coming.add_path(path, record._replace(outcome="removed"))
        if coming.has_staged:
            coming.commit()
        purge(coming)
