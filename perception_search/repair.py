"""Mending a collection, by the plan that was made; it is never worse than before.

What is mended becomes a version of its own in one commit, beside the files there are, which stay
until the writer of a later day deletes them. What is embedded again then follows as in an ingest,
and an ingest, or another repair, goes on with what was left.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from perception_search import current_index, durable, manifest, media, tables
from perception_search import index as indexing
from perception_search import ingest as ingesting
from perception_search.encoder.protocol import Identity
from perception_search.errors import CollectionLocked
from perception_search.repair_plan import Loss, Mended, Plan, Step, plan
from perception_search.resegment import end_of, segment_rows
from perception_search.snapshot import Snapshot
from perception_search.survey import Options
from perception_search.verify import Damage, verify
from perception_search.writer import Grid, NewRow, Writer

if TYPE_CHECKING:
    from perception_search.encoder import Encoder


@dataclass
class RepairReport:
    """What a repair did.

    Attributes:
        steps: what was done; in a dry run, what would be.
        losses: what could not be brought back.
        failed: what was to be embedded again and could not be.
        remaining: what is still damaged; not looked for in a dry run.
    """

    steps: list[Step] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    failed: list[Loss] = field(default_factory=list)
    remaining: list[Damage] = field(default_factory=list)


def repair(
    folder: Path,
    encoder: "Callable[[Mapping[str, Any]], Encoder]",
    *,
    dry_run: bool = False,
    previous_version: bool = False,
    on_plan: Callable[[Plan], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> RepairReport:
    """Mend what can be mended of the collection in `folder`, and name the rest.

    Args:
        folder: the collection.
        encoder: gives the encoder for what `collection.json` says; asked only where something
            must be embedded again.
        dry_run: only say what would be done.
        previous_version: open the version before, where neither copy of the newest can be read.
        on_plan: called with what will be done, before it is.
        on_progress: called with (files embedded, files to embed).

    Raises:
        CollectionNotFound: there is none.
        CollectionDamaged: no version can be read, or only an older one and it was not asked for.
        CollectionLocked: another process is writing, or has written meanwhile.
        WeightsNotFound: something must be embedded again, without weights; the rest is mended.
    """
    found = plan(folder, previous_version=previous_version)
    report = RepairReport(found.steps, found.losses)
    if on_plan is not None:
        on_plan(found)
    if dry_run or not found.steps:
        return report
    with Writer(folder, base=found.base if found.is_reopened else None) as writer:
        if writer.snapshot.version != found.base.version:
            raise CollectionLocked(
                f"{folder} was written to while it was looked at; run repair again."
            )
        for state in found.heal:
            _heal(folder, state)
        if found.mended is not None:
            _commit(writer, found.mended, writer.snapshot)
        for path in found.delete:
            durable.remove(path)
        if found.rebuild_index:
            current_index.renew(writer)
        if found.embed:
            report.failed = _embed(writer, encoder, found.embed, on_progress)
    report.remaining = verify(folder)
    return report


def _heal(folder: Path, state: manifest.Manifest) -> None:
    content = state.encode()
    for copy in manifest.COPIES:
        path = manifest.path_of(folder, state.version, copy)
        if not path.exists() or path.read_bytes() != content:
            durable.write(path, content)


def _commit(writer: Writer, mended: Mended, snapshot: Snapshot) -> None:
    writer.next_row_id = max(mended.next_row_id, _indexed(writer.folder))
    dropped = pa.array(sorted(mended.dropped), pa.string())
    files = []
    for file in mended.kept:
        if file.table in ("rows", "grid"):
            rest = writer.without(file, dropped)
            files += [rest] if rest is not None else []
        else:
            files.append(file)
    for table, parts in mended.parts.items():
        if table in ("rows", "grid"):
            schema = tables.schema_of(table, snapshot.dim)
            parts = [tables.without(part, dropped).cast(schema) for part in parts]
            parts = [part for part in parts if part.num_rows]
        if parts:
            files.append(writer.write_table(table, parts[0].schema, parts))
    for item in mended.items.values():
        writer.add_item(item)
    for path, record in mended.paths.items():
        writer.add_path(path, record)
    for part in mended.images:
        for content_hash, row in _rows(part):
            writer.add_rows(content_hash, [row])
    if mended.videos:
        _add_videos(writer, mended, snapshot)
    writer.commit(files=files)
    manifest.heal(writer.folder, writer.snapshot.manifest)


def _add_videos(writer: Writer, mended: Mended, snapshot: Snapshot) -> None:
    """Give videos their segments, of their grids, and the whole-video rows that were found."""
    grids = _grids(writer, mended)
    columns = ("content_hash", "duration_seconds", "cuts")
    parts = mended.parts.get("items") or [snapshot.items]
    about = {
        content_hash: (duration, cuts)
        for part in parts
        for content_hash, duration, cuts in zip(
            *(part[name].to_pylist() for name in columns), strict=True
        )
    }
    pools_raw_frames = Identity(**snapshot.manifest.collection["identity"]).pools_raw_frames
    for content_hash, whole in mended.videos.items():
        grid = grids[content_hash]
        duration, cuts = about[content_hash]
        segments = segment_rows(
            grid.embeddings,
            grid.pts_seconds,
            snapshot.segmentation,
            end_seconds=end_of(grid.pts_seconds, duration, snapshot.grid_seconds),
            cuts=cuts,
            lengths=grid.norms if pools_raw_frames else None,
        )
        writer.add_rows(content_hash, [*segments, *(row for _, row in _rows(whole))])


def _grids(writer: Writer, mended: Mended) -> dict[str, Grid]:
    wanted = pa.array(sorted(mended.videos), pa.string())
    kept = [writer.folder / file.name for file in mended.kept if file.table == "grid"]
    parts = [tables.read(path) for path in kept]
    if "grid" in mended.parts:  # of which a grid may be in two
        parts.append(pa.concat_tables(mended.parts["grid"]))
    grids = {}
    for part in parts:
        part = part.filter(pc.is_in(part["content_hash"], value_set=wanted))
        for content_hash in part["content_hash"].unique().to_pylist():
            mine = part.filter(pc.equal(part["content_hash"], content_hash))
            grids[content_hash] = Grid(
                tables.matrix_of(mine), mine["norm"].to_numpy(), mine["pts_seconds"].to_numpy()
            )
    return grids


def _rows(part: pa.Table) -> list[tuple[str, NewRow]]:
    names = ("content_hash", "scope", "norm", "num_frames", "start_seconds", "end_seconds")
    columns = (part[name].to_pylist() for name in names)
    return [
        (content_hash, NewRow(scope, embedding, norm, num_frames, start, end))
        for embedding, content_hash, scope, norm, num_frames, start, end in zip(
            tables.matrix_of(part).astype("float32"), *columns, strict=True
        )
    ]


def _indexed(folder: Path) -> int:
    """No row id below this is free: the index may know it."""
    try:
        record = indexing.read_record(folder)
    except (OSError, ValueError):
        return 0
    return record.next_row_id if record is not None else 0


def _embed(
    writer: Writer,
    encoder: "Callable[[Mapping[str, Any]], Encoder]",
    paths: list[Path],
    on_progress: Callable[[int, int], None] | None,
) -> list[Loss]:
    """Embed files again as an ingest does; those that cannot be."""
    found = [replace(file, root=None) for file in media.find(paths, ())]
    snapshot = writer.snapshot
    report = ingesting.ingest(
        writer,
        encoder(snapshot.manifest.collection),
        found,
        [],
        Options(),
        sampling=snapshot.sampling,
        segmentation=snapshot.segmentation,
        on_progress=on_progress,
    )
    return [Loss(file.path, file.reason or file.outcome) for file in report.failed]
