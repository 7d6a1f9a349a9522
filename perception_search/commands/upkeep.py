"""Commands that mend a collection and keep it in order."""

from typing import TYPE_CHECKING, Annotated

import typer

from perception_search.commands.common import (
    AsJson,
    Device,
    Dtype,
    Folder,
    Projection,
    Weights,
    app,
    open_collection,
)
from perception_search.media import absolute, display
from perception_search.show import print_json, print_line, progress, readable_bytes, say

if TYPE_CHECKING:
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
