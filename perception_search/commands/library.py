"""Commands that fill a collection and change it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from perception_search.commands.common import (
    AsJson,
    Device,
    Dtype,
    Folder,
    Length,
    Overlap,
    Projection,
    Shots,
    Weights,
    Where,
    app,
    open_collection,
    stopped,
)
from perception_search.errors import CollectionNotFound
from perception_search.media import DEFAULT_EXCLUDE, display
from perception_search.show import (
    print_counts,
    print_json,
    print_line,
    print_survey,
    progress,
    say,
    say_failures,
)

if TYPE_CHECKING:
    from perception_search.collection import Collection
    from perception_search.encoder.protocol import Pooling
    from perception_search.segments import Segmentation
    from perception_search.survey import FileReport


@app.command()
def create(
    path: Folder,
    model: Annotated[
        str, typer.Option(help="auto, starter, or a PE-Core model; see `models`.")
    ] = "auto",
    weights: Weights = None,
    projection: Projection = None,
    pooling: Annotated[
        str,
        typer.Option(help="A mean's frames: unit-frames count once, raw-frames by their length."),
    ] = "unit-frames",
    frames_per_second: Annotated[
        float, typer.Option(help="How many frames a second of a video are looked at.")
    ] = 1.0,
    keyframes: Annotated[
        bool, typer.Option("--keyframes", help="Look at key frames only: faster, and coarser.")
    ] = False,
    skip_stills: Annotated[
        bool,
        typer.Option("--skip-stills", help="Embed a picture that hardly moves only once."),
    ] = False,
    length: Length = 10.0,
    overlap: Overlap = 0.0,
    shots: Shots = False,
    as_json: AsJson = False,
) -> None:
    """Make an empty collection; its model and sampling are fixed now.

    \b
    perception-search create photos.ps --model PE-Core-B16-224
    perception-search create films.ps --frames-per-second 2 --shots
    """
    from perception_search.collection import Collection
    from perception_search.frames import Sampling

    collection = Collection.create(
        path,
        model=model,
        weights=weights,
        projection=projection,
        pooling=cast("Pooling", pooling),
        sampling=Sampling(
            frames_per_second,
            grid="keyframes" if keyframes else "by-time",
            skip_stills=skip_stills,
        ),
        segmentation=_segmentation(length, overlap, shots),
    )
    _created(collection)
    if as_json:
        print_json(collection.info())


def _segmentation(length: float, overlap: float, shots: bool) -> "Segmentation":
    from perception_search.segments import Segmentation

    return Segmentation("shots" if shots else "length", length, overlap)


def _created(collection: "Collection") -> None:
    identity = collection.identity
    say(f"Created {display(collection.path)} with {identity.model} (dim {identity.dim}).")
    if collection.notice:
        say(collection.notice)


@app.command()
def ingest(
    path: Folder,
    sources: Annotated[list[Path], typer.Argument(help="Files and folders.", show_default=False)],
    exclude: Annotated[
        list[str],
        typer.Option(help="A pattern of names or relative paths to leave out; may be repeated."),
    ] = [],  # noqa: B006
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    checksum: Annotated[
        bool, typer.Option("--checksum", help="Read every file, even where it looks unchanged.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try files again that failed before.")
    ] = False,
    allow_removals: Annotated[
        bool, typer.Option("--allow-removals", help="Hide vanished files, however many.")
    ] = False,
    metadata: Annotated[
        Path | None, typer.Option(help="A CSV or Parquet file with your columns, keyed by `path`.")
    ] = None,
    fast_jpeg: Annotated[
        bool, typer.Option("--fast-jpeg/--no-fast-jpeg", help="Decode large JPEGs at reduced size.")
    ] = True,
    video_backend: Annotated[str, typer.Option(help="pyav or torchcodec.")] = "pyav",
    num_workers: Annotated[
        int | None, typer.Option(min=1, help="Decoding processes; one a core by default.")
    ] = None,
    max_megapixels: Annotated[
        float, typer.Option(min=0.1, help="Larger pictures are refused from their header.")
    ] = 50.0,
    time_limit: Annotated[
        float, typer.Option(min=1, help="Seconds without news after which a file is given up.")
    ] = 60.0,
    memory_limit: Annotated[
        int | None, typer.Option(min=128, help="MiB that one decoding process may take.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    projection: Projection = None,
    as_json: AsJson = False,
) -> None:
    """Bring a collection up to date with files and folders; run it again whenever you like.

    \b
    perception-search ingest photos.ps ~/Pictures ~/Videos

    What is new is embedded, what was renamed is followed, what is gone is hidden. Ctrl-C stops
    cleanly, and the next run goes on. A missing collection is made as `create` makes it.
    """
    from perception_search.collection import Collection

    excluded = (*DEFAULT_EXCLUDE, *exclude)
    own = _read_metadata(metadata)
    missing = [source for source in sources if not source.expanduser().exists()]
    if missing:
        raise FileNotFoundError(f"{display(missing[0])} does not exist; nothing was changed.")
    absent = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    if absent and dry_run:
        raise CollectionNotFound(f"{display(path)} does not exist yet: everything would be new.")
    if absent:
        collection = Collection.create(
            path, weights=weights, projection=projection, device=device, dtype=dtype
        )
        _created(collection)
    else:
        collection = open_collection(
            path, weights=weights, projection=projection, device=device, dtype=dtype
        )

    if dry_run:
        plan = collection.survey(
            list(sources),
            exclude=excluded,
            checksum=checksum,
            retry_failed=retry_failed,
            allow_removals=allow_removals,
        )
        print_survey(plan, as_json=as_json)
        return

    def committed(files: "Sequence[FileReport]") -> None:
        for file in files:
            print_json(
                {"path": str(file.path), "outcome": file.outcome, "reason": file.reason or None}
            )
        sys.stdout.flush()

    with progress() as show:
        try:
            report = collection.ingest(
                list(sources),
                metadata=own,
                on_commit=committed if as_json else None,
                on_progress=show,
                exclude=excluded,
                checksum=checksum,
                retry_failed=retry_failed,
                allow_removals=allow_removals,
                num_workers=num_workers,
                time_limit_seconds=time_limit,
                memory_limit_bytes=memory_limit and memory_limit << 20,
                max_pixels=int(max_megapixels * 1e6),
                fast_jpeg=fast_jpeg,
                video_backend=video_backend,
            )
        except KeyboardInterrupt:
            raise stopped() from None
    say_failures(report.failed)
    if report.kept:
        say(
            f"{report.kept} files are gone from these folders, more than half: nothing was hidden, "
            f"in case a disk is not mounted. Hide them with --allow-removals."
        )
    if report.index:
        say(report.index)
    print_counts(report.counts(), "files", as_json=as_json)


def _read_metadata(path: Path | None) -> Any:
    if path is None:
        return None
    import pandas as pd

    if path.suffix.lower() in (".parquet", ".pq"):
        return pd.read_parquet(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",")
    raise ValueError(f"{display(path)} is no metadata file; give a .csv, .tsv or .parquet")


@app.command()
def resegment(
    path: Folder,
    length: Length = 10.0,
    overlap: Overlap = 0.0,
    shots: Shots = False,
    as_json: AsJson = False,
) -> None:
    """Find videos by other stretches from now on; opens no video.

    \b
    perception-search resegment films.ps --length 5 --overlap 2
    perception-search resegment films.ps --shots
    """
    collection = open_collection(path)
    with progress("videos") as show:
        collection.resegment(_segmentation(length, overlap, shots), on_progress=show)
    described = collection.info()
    if as_json:
        print_json({"segmentation": described["segmentation"], "rows": described["rows"]})
    else:
        print_line(f"{described['videos']} videos in {collection.segmentation}")


@app.command()
def remove(
    path: Folder,
    paths: Annotated[list[Path] | None, typer.Argument(help="Files or folders.")] = None,
    where: Where = None,
    as_json: AsJson = False,
) -> None:
    """Hide files from every search at once; the files themselves stay.

    \b
    perception-search remove photos.ps ~/Pictures/receipts
    """
    if not paths and where is None:
        raise typer.BadParameter("there is nothing to remove; give files, folders or --where.")
    hidden = open_collection(path).remove(paths or (), where=where)
    if as_json:
        for file in hidden:
            print_json({"path": str(file), "outcome": "removed"})
    else:
        print_line(f"{len(hidden)} removed")
