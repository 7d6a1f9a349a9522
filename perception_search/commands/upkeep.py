"""Commands that mend a collection and keep it in order."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_search.commands.common import (
    AsJson,
    Device,
    Dtype,
    Folder,
    Projection,
    Weights,
    Where,
    app,
    open_collection,
)
from perception_search.media import absolute, display
from perception_search.show import (
    print_file,
    print_json,
    print_line,
    progress,
    readable_bytes,
    say,
    write_page,
)

if TYPE_CHECKING:
    from perception_search.collection import Collection
    from perception_search.duplicates import Group
    from perception_search.reembed import Move
    from perception_search.repair_plan import Loss, Plan

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


@app.command()
def repair(
    path: Folder,
    dry_run: DryRun = False,
    previous_version: Annotated[
        bool,
        typer.Option(
            "--previous-version",
            help="Where the newest version cannot be read, open the one before.",
        ),
    ] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    projection: Projection = None,
    as_json: AsJson = False,
) -> None:
    """Mend what `verify` finds, and name what cannot be mended; exit 1 when anything is lost.

    \b
    perception-search repair photos.ps --dry-run
    perception-search repair photos.ps

    Files that are damaged are replaced by what can still be read of them, and stay for a day.
    Items whose embedding was damaged are embedded again where their file is still there.
    """
    from perception_search.own_encoder import OwnEncoder
    from perception_search.repair import repair as mend

    folder = absolute(path)
    own = OwnEncoder(folder, None, weights, projection, device, dtype)

    def planned(plan: "Plan") -> None:
        for step in plan.steps:
            if as_json:
                print_json({"action": step.action, "path": str(step.path), "reason": step.reason})
            else:
                print_line(f"{step.action}  {display(step.path)}: {step.reason}")
        _print_losses(plan.losses, as_json)

    with progress() as show:
        report = mend(
            folder,
            lambda described: own.for_tower("vision", described),
            dry_run=dry_run,
            previous_version=previous_version,
            on_plan=planned,
            on_progress=show,
        )
    _print_losses(report.failed, as_json)
    for damage in report.remaining:
        if as_json:
            print_json({"action": "remains", "path": str(damage.path), "reason": damage.problem})
        else:
            print_line(f"remains  {display(damage.path)}: {damage.problem}")
    num_lost = len(report.losses) + len(report.failed) + len(report.remaining)
    if not report.steps and not num_lost:
        say("There is nothing to mend: every byte is as it was written.")
    elif dry_run:
        say(f"{len(report.steps)} steps, {len(report.losses)} lost; nothing was changed.")
    else:
        say(f"{len(report.steps)} steps done, {num_lost} lost.")
    if num_lost:
        raise typer.Exit(1)


def _print_losses(losses: "list[Loss]", as_json: bool) -> None:
    for loss in losses:
        if as_json:
            print_json({"action": "lost", "path": str(loss.path), "reason": loss.reason})
        else:
            print_line(f"lost  {display(loss.path)}: {loss.reason}")


@app.command()
def purge(path: Folder, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Take what was removed, or is gone, out of every file of a collection, for good.

    \b
    perception-search remove photos.ps ~/Pictures/receipts
    perception-search purge photos.ps

    Embeddings, records, captions and the index are written anew without it, and the old files and
    versions deleted at once. Media files are never touched: those that lie in a folder that is
    ingested again come back.
    """
    from perception_search.purge import LIMIT, doomed

    collection = open_collection(path)
    purged = doomed(collection.snapshot)[0] if dry_run else collection.purge()
    if as_json:
        for file in purged.paths:
            print_json({"path": str(file), "outcome": "would_purge" if dry_run else "purged"})
        counts = {"paths": len(purged.paths), "items": purged.num_items}
        freed = {"files": purged.num_files, "freed_bytes": purged.freed_bytes}
        print_json(counts if dry_run else counts | freed)
    elif dry_run:
        for file in purged.paths:
            print_line(f"would_purge  {display(file)}")
        say(f"{purged.num_items} items would be purged; nothing was changed.")
    else:
        print_line(
            f"{purged.num_items} items purged, of {len(purged.paths)} paths; "
            f"{purged.num_files} files deleted, {readable_bytes(max(0, purged.freed_bytes))} freed"
        )
        say(LIMIT)
    if purged.returning:
        say(
            f"{len(purged.returning)} of these files are still in a folder that is followed: the "
            "next ingest takes them in again. Move them, or leave them out with --exclude."
        )


@app.command()
def dupes(
    path: Folder,
    near: Annotated[
        float, typer.Option(help="Cosine distance up to which two look alike; 0 for copies only.")
    ] = 0.05,
    where: Where = None,
    page: Annotated[
        Path | None, typer.Option(help="Write the groups as an HTML file with pictures.")
    ] = None,
    files_only: Annotated[
        bool,
        typer.Option("--files-only", help="Print all but the best file of each group, for pipes."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List files that show the same, copies and near ones, in groups with the best first.

    \b
    perception-search dupes photos.ps
    perception-search dupes photos.ps --near 0.02 --page dupes.html
    perception-search dupes photos.ps --near 0 --files-only

    A line is a distance to the group's best file, its size in pixels and bytes, and the file. The
    best has the most pixels, then the most bytes. Nothing is changed.
    """
    collection = open_collection(path)
    with progress("items") as show:
        groups = collection.duplicates(near=near, where=where, on_progress=show)
    for number, group in enumerate(groups, start=1):
        if as_json:
            files = [asdict(file) | {"path": str(file.path)} for file in group.files]
            print_json({"kind": group.kind, "distance": group.distance, "files": files})
        elif files_only:
            for file in group.files[1:]:
                print_file(file.path)
        else:
            print_line(f"# {number}: {len(group.files)} {group.kind}s")
            for file in group.files:
                pixels = f"{file.width} x {file.height}" if file.width and file.height else "-"
                size = readable_bytes(file.size_bytes or 0)
                print_line(f"{file.distance:.3f}  {pixels:>11}  {size:>9}  {display(file.path)}")
    if page is not None:
        _write_duplicates(page, collection, groups)
    num_more = sum(len(group.files) - 1 for group in groups)
    say(f"{len(groups)} groups, {num_more} files beside the best.")


def _write_duplicates(path: Path, collection: "Collection", groups: "list[Group]") -> None:
    from perception_search.hits import Hit

    results = [
        (
            f"{number}: {len(group.files)} {group.kind}s, distance up to {group.distance:.3f}",
            [Hit(-1, file.path, group.kind, 1 - file.distance) for file in group.files],
        )
        for number, group in enumerate(groups, start=1)
    ]
    title = f"{display(collection.path.name)}: {len(groups)} groups of files that show the same"
    write_page(path, collection, results, title=title)


@app.command()
def reembed(
    path: Folder,
    model: Annotated[str, typer.Option(help="The new model: starter, or a PE-Core model.")],
    weights: Weights = None,
    projection: Projection = None,
    drop_missing: Annotated[
        bool, typer.Option("--drop-missing", help="Leave out files that are not there now.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what an earlier run has embedded.")
    ] = False,
    dry_run: DryRun = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Move a collection to another model; the old one answers until all is embedded.

    \b
    perception-search reembed photos.ps --model PE-Core-L14-336 --dry-run
    perception-search reembed photos.ps --model PE-Core-L14-336

    Ctrl-C stops it, and the same command goes on. What comes in or goes out meanwhile is followed.
    Paths, your own columns and what was removed stay as they are.
    """
    from perception_search.encoder import load_encoder

    collection = open_collection(path)
    encoder = load_encoder(
        model,
        weights=weights,
        projection=projection,
        device=device,
        dtype=dtype,
        pooling="raw-frames" if collection.identity.pools_raw_frames else "unit-frames",
    )
    old = collection.identity

    def planned(move: "Move") -> None:
        if as_json:
            print_json(asdict(move) | {"missing": [str(file) for file in move.missing]})
            return
        hours, minutes = divmod(round(move.encode_seconds / 60), 60)
        print_line(
            f"{move.num_files} files from {old.model} (dim {old.dim}) to {move.model} (dim "
            f"{move.dim}), {move.num_done} embedded before; {move.num_frames} frames are left, "
            f"about {hours}:{minutes:02d} h to embed, and decoding beside it"
        )
        if dry_run or drop_missing:
            for file in move.missing:
                print_line(f"missing  {display(file)}")

    with progress() as show:
        try:
            collection.reembed(
                encoder,
                weights={
                    "weights": str(absolute(weights)) if weights else None,
                    "projection": str(absolute(projection)) if projection else None,
                },
                drop_missing=drop_missing,
                restart=restart,
                dry_run=dry_run,
                on_plan=planned,
                on_progress=show,
            )
        except KeyboardInterrupt:
            say(f"Stopped. {old.model} answers as before; run the same command to go on.")
            raise typer.Exit(130) from None
    if not dry_run:
        described = collection.info()
        if as_json:
            print_json(described)
        else:
            print_line(f"{described['rows']} rows of {described['model']}")
